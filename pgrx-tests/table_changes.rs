//! ALTER and DROP of mapped tables: renames are followed, what cannot be followed stops the map and
//! says why.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    fn state(map: i32) -> String {
        value(&format!(
            "SELECT concat_ws(': ', state, CASE state WHEN 'error' THEN reason END) FROM crm.status WHERE map_id = {map}"
        ))
    }

    fn columns(map: i32) -> Vec<String> {
        rows(&format!(
            "SELECT format('%s=%s', column_name, crm_field) FROM crm.field_map WHERE map_id = {map} ORDER BY field_id"
        ))
    }

    #[pg_test]
    fn a_renamed_column_stays_mapped() {
        let map = mapped("t", &["a text", "b text"]);
        run("INSERT INTO t VALUES (1)");
        captured(map);
        run("ALTER TABLE t RENAME a TO \"A new\"");
        assert_eq!(columns(map), ["A new=x_a", "b=x_b"]);
        run("UPDATE t SET \"A new\" = 'x'");
        assert_eq!(captured(map), ["u 1 A new"]);
        assert_eq!(state(map), "idle");
    }

    #[pg_test]
    fn two_columns_may_swap_their_names() {
        let map = mapped("t", &["a text", "b text"]);
        run("INSERT INTO t VALUES (1)");
        run(
            "ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b",
        );
        assert_eq!(columns(map), ["b=x_a", "a=x_b"]);
        captured(map);
        run("UPDATE t SET a = 'x'");
        assert_eq!(
            value(&format!(
                "SELECT crm_internal.cells_has(cells, 1) AND NOT crm_internal.cells_has(cells, 0) FROM crm.change WHERE map_id = {map}"
            )),
            "true"
        );
    }

    #[pg_test]
    fn a_renamed_key_stays_the_key() {
        let map = mapped("t", &["a text"]);
        run("ALTER TABLE t RENAME id TO number");
        assert_eq!(
            value(&format!(
                "SELECT key_column FROM crm.object_map WHERE map_id = {map}"
            )),
            "number"
        );
        run("INSERT INTO t VALUES (1)");
        assert_eq!(captured(map), ["i 1 a"]);
        refuses("UPDATE t SET number = 2", &["0A000"]);
    }

    #[pg_test]
    fn a_renamed_or_moved_table_stays_mapped() {
        let map = mapped("t", &["a int"]);
        field(map, "a", &[r#"validation => '{"max": 10}'"#]);
        run(
            "CREATE SCHEMA elsewhere; ALTER TABLE t RENAME TO u; ALTER TABLE u SET SCHEMA elsewhere; CREATE TABLE t (id int)",
        );
        run("INSERT INTO elsewhere.u VALUES (1, 1)");
        assert_eq!(captured(map), ["i 1 a"]);
        refuses(
            "UPDATE elsewhere.u SET a = 11",
            &["relation \"elsewhere.u\""],
        );
        assert_eq!(state(map), "idle");
    }

    #[pg_test]
    fn unmapped_columns_and_other_tables_do_not_matter() {
        let map = mapped("t", &["a text"]);
        run("ALTER TABLE t ADD b int; ALTER TABLE t ALTER b TYPE text; ALTER TABLE t DROP b;
             ALTER TABLE t ADD CHECK (a <> 'x'); CREATE TABLE u (a int); ALTER TABLE u DROP a; DROP TABLE u");
        run("INSERT INTO t VALUES (1, 'y')");
        assert_eq!(captured(map), ["i 1 a"]);
        assert_eq!(state(map), "idle");
    }

    #[pg_test]
    fn a_dropped_column_stops_its_map_and_no_statement() {
        let map = mapped("t", &["a text", "b text"]);
        run("ALTER TABLE t DROP a");
        assert_eq!(
            state(map),
            "error: column \"a\" was dropped; fix it with crm.alter_field() or crm.unmap_field()"
        );
        run("INSERT INTO t VALUES (1, 'x')");
        run("UPDATE t SET b = 'y'");
        assert_eq!(captured(map), ["i 1 b", "u 1 b"]);
        run("ALTER TABLE t ADD a text");
        assert!(state(map).starts_with("error"), "it never guesses");
        run(&format!("SELECT crm.unmap_field({map}, 'a')"));
        assert_eq!(state(map), "idle");
    }

    #[pg_test]
    fn a_column_that_went_with_its_type_stops_its_map() {
        run("CREATE TYPE mood AS ENUM ('ok')");
        let map = mapped("t", &["a mood", "b text"]);
        run("DROP TYPE mood CASCADE");
        assert!(state(map).starts_with("error: column \"a\" was dropped"));
        run("INSERT INTO t VALUES (1, 'x')");
        accepts("UPDATE t SET b = 'y'");
    }

    #[pg_test]
    fn a_retyped_column_stops_its_map_until_it_is_mapped_anew() {
        let map = mapped("t", &["a int", "b text"]);
        run("ALTER TABLE t ALTER a TYPE text");
        assert!(state(map).starts_with("error: column \"a\" changed its type to text"));
        accepts("INSERT INTO t VALUES (1, 'x', 'y')");
        field(map, "b", &[]);
        assert_eq!(
            state(map),
            "error: column \"a\" of type text cannot be a number"
        );
        field(map, "a", &["data_type => 'text'"]);
        assert_eq!(state(map), "idle");
        run("ALTER TABLE t ALTER a TYPE varchar(99)");
        assert!(state(map).starts_with("error"));
        run("ALTER TABLE t ALTER b TYPE text COLLATE \"C\"");
        field(map, "a", &[]);
        run("ALTER TABLE t ALTER a TYPE varchar(100)");
        assert_eq!(state(map), "idle", "the length of a type is no other type");
    }

    #[pg_test]
    fn a_dropped_transform_stops_its_map() {
        run("CREATE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'");
        let map = mapped("t", &["a text", "b text"]);
        field(map, "a", &["transform_out => 'shout(jsonb)'"]);
        run("DROP FUNCTION shout(jsonb)");
        assert_eq!(
            state(map),
            "error: a transform of column \"a\" was dropped; fix it with crm.alter_field() or crm.unmap_field()"
        );
        field(map, "b", &[]);
        assert!(state(map).starts_with("error"));
        field(map, "a", &["transform_out => '-'"]);
        assert_eq!(state(map), "idle");
    }

    #[pg_test]
    fn without_its_key_column_a_map_captures_nothing() {
        let map = mapped("t", &["a text"]);
        run("ALTER TABLE t DROP id");
        assert!(state(map).starts_with("error: column \"id\" was dropped"));
        accepts("INSERT INTO t VALUES ('x')");
        assert!(captured(map).is_empty());
        accepts(&format!("SELECT crm.unmap_object({map})"));
    }

    #[pg_test]
    fn a_dropped_table_leaves_a_map_that_can_be_unmapped() {
        run("CREATE SCHEMA gone; CREATE TABLE gone.t (id int PRIMARY KEY)");
        let first = mapped("t", &["a text"]);
        let second = map("gone.t", &[]);
        run("DROP TABLE t; DROP SCHEMA gone CASCADE");
        assert_eq!(
            state(first),
            "error: the mapped table \"public.t\" was dropped; call crm.unmap_object()"
        );
        assert!(state(second).contains("\"gone.t\" was dropped"));
        run("CREATE TABLE u (id int PRIMARY KEY)");
        for map in [first, second] {
            run(&format!("SELECT crm.unmap_object({map})"));
            assert_eq!(
                value(&format!(
                    "SELECT to_regprocedure('crm_internal.capture_{map}()')"
                )),
                "NULL"
            );
        }
    }

    #[pg_test]
    fn truncate_is_refused_where_deletes_are_followed() {
        run("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)");
        map("t", &["on_delete => 'delete'"]);
        refuses(
            "TRUNCATE t",
            &["0A000", "\"public.t\"", "on_delete => 'ignore'"],
        );
        map("u", &[]);
        accepts("TRUNCATE u");
    }

    #[pg_test]
    fn unmapping_leaves_no_trace_on_the_table() {
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1, 'x')");
        run(&format!("SELECT crm.link({map}, '1', 'account-1')"));
        run(&format!("SELECT crm.unmap_object({map})"));
        assert_eq!(
            value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass"),
            "0"
        );
        for table in [
            "change",
            "ledger",
            "queue",
            "claim",
            "dead_letter",
            "field_map",
            "bound_column",
            "map_state",
        ] {
            assert_eq!(
                value(&format!(
                    "SELECT count(*) FROM crm.{table} WHERE map_id = {map}"
                )),
                "0",
                "{table}"
            );
        }
        run("INSERT INTO t VALUES (2, 'x')");
    }
}
