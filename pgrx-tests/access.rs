//! Who may do what: nobody anything unless granted, and an application edits its tables without
//! knowing of pg_crm.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    /// What a role may call and read in pg_crm's schemas, as names.
    fn rights(role: &str) -> Vec<String> {
        rows(&format!(
            "SELECT DISTINCT p.proname::text COLLATE \"C\" FROM pg_proc p
             WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace, 'crm_stub'::regnamespace)
               AND has_function_privilege('{role}', p.oid, 'EXECUTE')
             UNION ALL
             SELECT c.relname::text COLLATE \"C\" FROM pg_class c
             WHERE c.relnamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace, 'crm_stub'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
               AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('{role}', c.oid, 'SELECT, USAGE, UPDATE')
                   ELSE has_table_privilege('{role}', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                        OR has_any_column_privilege('{role}', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END
             ORDER BY 1"
        ))
    }

    const READER: &[&str] = &[
        "audit_log",
        "capture_trouble",
        "cell_status",
        "cells_count",
        "cells_has",
        "cells_union",
        "check",
        "check_tables",
        "conflicts",
        "connection",
        "connections",
        "dead_letters",
        "diagnose",
        "diagnose_connections",
        "diagnose_maps",
        "diagnose_server",
        "export_mapping",
        "few_linked",
        "field_map",
        "hash",
        "held_reason",
        "home",
        "ingest_state",
        "ingests",
        "metric_families",
        "metrics",
        "object_map",
        "pending_writes",
        "progress",
        "rate_budget",
        "sampled_part",
        "samples",
        "snapshot",
        "snapshot_hash",
        "status",
        "status_wide",
        "waiting_records",
        "waiting_work",
        "worker_busy",
        "worker_state",
    ];

    #[track_caller]
    fn level(level: &str, more: &[&str]) {
        run(&format!(
            "CREATE ROLE acc_{level}; SELECT crm.grant_access('acc_{level}', '{level}')"
        ));
        let mut expected: Vec<&str> = READER.iter().chain(more).copied().collect();
        expected.sort_unstable();
        assert_eq!(rights(&format!("acc_{level}")), expected);
        assert_eq!(
            rows(&format!(
                "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'crm'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                 AND has_table_privilege('acc_{level}', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')"
            )),
            [""; 0],
            "tables are never written by hand"
        );
    }

    const WRITER: &[&str] = &[
        "caller",
        "do_flush",
        "do_ingest_now",
        "flush",
        "ingest_now",
        "perform_read",
        "perform_write",
        "read_live",
        "receive_webhook",
        "write",
        "write_status",
    ];

    const OPERATOR: &[&str] = &[
        "approve",
        "caller",
        "do_flush",
        "do_ingest_now",
        "cancel_write",
        "check_mapping",
        "check_choice",
        "check_rows",
        "check_value",
        "describe",
        "discard",
        "do_resolve_conflict",
        "flush",
        "ingest_now",
        "pause",
        "perform_read",
        "perform_write",
        "read_live",
        "recapture",
        "receive_webhook",
        "records",
        "resolve_conflict",
        "resolve_conflicts",
        "set_cell",
        "write",
        "write_status",
        "resume",
        "replay",
        "replay_all",
        "test_connection",
    ];

    #[pg_test]
    fn nothing_is_granted_to_public() {
        run("CREATE ROLE acc_nobody; CREATE TABLE t (id int PRIMARY KEY, a text)");
        let map = map("t", &["on_delete => 'delete'"]);
        field(map, "a", &[]);
        run("SELECT crm_internal.maintain_audit('0')");
        assert_eq!(rights("acc_nobody"), [""; 0]);
        assert_eq!(
            value(
                "SELECT has_schema_privilege('acc_nobody', 'crm', 'USAGE, CREATE')
                 OR has_schema_privilege('acc_nobody', 'crm_internal', 'USAGE, CREATE') OR has_schema_privilege('acc_nobody', 'crm_stub', 'USAGE, CREATE')"
            ),
            "false"
        );
    }

    #[pg_test]
    fn a_reader_sees_and_hashes() {
        level("reader", &[]);
    }

    #[pg_test]
    fn a_writer_writes_and_flushes() {
        level("writer", WRITER);
    }

    #[pg_test]
    fn an_operator_also_pauses_and_replays() {
        level("operator", OPERATOR);
    }

    #[pg_test]
    fn an_admin_also_maps() {
        let more = [
            OPERATOR,
            &[
                "plan",
                "members",
                "require_names",
                "do_plan",
                "create_connection",
                "do_create_connection",
                "set_credentials",
                "do_set_credentials",
                "drop_connection",
                "adopt_connections",
                "map_object",
                "do_map_object",
                "map_field",
                "do_map_field",
                "unmap_field",
                "do_unmap_field",
                "unmap_object",
                "do_unmap_object",
                "backfill",
                "do_backfill",
                "push",
                "do_push",
                "cancel_push",
                "do_cancel_push",
                "link",
                "do_link",
                "match",
                "do_match",
                "enable",
                "do_enable",
                "disable",
                "do_disable",
                "alter_connection",
                "do_alter_connection",
                "alter_map",
                "do_alter_map",
                "alter_field",
                "do_alter_field",
                "import_mapping",
                "do_import_mapping",
                "import_heroku_connect",
                "do_import_heroku_connect",
                "import_heroku_object",
                "check_heroku_document",
                "do_link_by_column",
                "arguments",
                "differences",
                "exported_connection",
                "exported_map",
                "exported_field",
            ],
        ]
        .concat();
        level("admin", &more);
    }

    #[pg_test]
    fn only_a_superuser_grants_access() {
        run(
            "CREATE ROLE acc_grantor; SELECT crm.grant_access('acc_grantor', 'admin');
             GRANT EXECUTE ON FUNCTION crm.grant_access, crm_internal.do_grant_access TO acc_grantor; SET ROLE acc_grantor",
        );
        refuses(
            "SELECT crm.grant_access('acc_grantor', 'admin')",
            &["42501", "only a superuser"],
        );
        run("RESET ROLE");
        refuses(
            "SELECT crm.grant_access('acc_grantor', 'god')",
            &["22023", "reader, writer, operator, admin"],
        );
    }

    #[pg_test]
    fn a_reader_reads_the_views() {
        run("CREATE ROLE acc_looker; SELECT crm.grant_access('acc_looker', 'reader')");
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1, 'x'); SET ROLE acc_looker");
        for view in [
            "status",
            "status_wide",
            "connections",
            "rate_budget",
            "cell_status",
            "dead_letters",
            "progress",
            "audit_log",
        ] {
            accepts(&format!("SELECT * FROM crm.{view}"));
        }
        assert_eq!(
            value(&format!(
                "SELECT dirty_cells FROM crm.status WHERE map_id = {map}"
            )),
            "1"
        );
        for table in ["credential", "ledger", "queue", "change", "claim"] {
            refuses(&format!("SELECT * FROM crm.{table}"), &["42501"]);
        }
        accepts("SELECT * FROM crm.check()");
        run("RESET ROLE");
    }

    #[pg_test]
    fn an_application_without_any_right_in_crm_edits_a_mapped_table() {
        let map = mapped("t", &["a text"]);
        field(map, "a", &[r#"validation => '{"max_length": 3}'"#]);
        run(
            "CREATE ROLE acc_app; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t TO acc_app; SET ROLE acc_app",
        );
        accepts("INSERT INTO t VALUES (1, 'x'), (2, 'x')");
        accepts("UPDATE t SET a = 'y' WHERE id = 1");
        refuses(
            "UPDATE t SET a = 'long'",
            &["23514", "rule max_length: 3", "crm.alter_field()"],
        );
        refuses("UPDATE t SET id = 3 WHERE id = 1", &["0A000"]);
        refuses("SELECT crm.hash('1')", &["42501"]);
        run("RESET ROLE");
        assert_eq!(captured(map), ["i 1 a", "i 2 a", "u 1 a"]);
    }

    #[pg_test]
    fn row_security_of_the_table_bounds_what_is_captured() {
        let map = mapped("t", &["a text", "who name"]);
        run("INSERT INTO t VALUES (1, 'x', 'acc_rls'), (2, 'x', 'somebody')");
        captured(map);
        run(
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
             CREATE POLICY own ON t USING (who = current_user);
             CREATE ROLE acc_rls; GRANT ALL ON t TO acc_rls; SET ROLE acc_rls",
        );
        accepts("UPDATE t SET a = 'y'");
        refuses(
            "INSERT INTO t VALUES (3, 'x', 'somebody')",
            &["42501", "row-level security"],
        );
        run("RESET ROLE");
        assert_eq!(captured(map), ["u 1 a"]);
    }

    #[pg_test]
    fn only_its_owner_maps_a_table() {
        let connection = connection();
        let map = mapped("t", &["a text"]);
        run("CREATE TABLE u (id int PRIMARY KEY, a text);
             CREATE ROLE acc_admin2; SELECT crm.grant_access('acc_admin2', 'admin'); GRANT ALL ON t, u TO acc_admin2;
             SET ROLE acc_admin2");
        for call in [
            format!("crm.map_object('{connection}', 'u', 'account')"),
            format!("crm.map_field({map}, 'a', 'name')"),
            format!("crm.unmap_field({map}, 'a')"),
            format!("crm.unmap_object({map})"),
            format!("crm.link({map}, '1', 'account-1')"),
            format!("crm.push({map})"),
            format!("crm.plan({map})"),
            format!("crm.enable({map})"),
            format!("crm.disable({map})"),
        ] {
            refuses(
                &format!("SELECT {call}"),
                &["42501", "must be owner of table"],
            );
        }
        run(
            "RESET ROLE; ALTER TABLE u OWNER TO acc_admin2; GRANT CREATE ON SCHEMA public TO acc_admin2; SET ROLE acc_admin2",
        );
        accepts(&format!(
            "SELECT crm.map_object('{connection}', 'u', 'account')"
        ));
        accepts("INSERT INTO u VALUES (1, 'x')");
        accepts("ALTER TABLE u RENAME a TO b");
        run("RESET ROLE");
    }
}
