//! Change capture: which statements leave which cells in `crm.change`.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    const NOTHING: &[&str] = &[];

    #[pg_test]
    fn an_update_captures_the_cells_whose_values_changed() {
        let map = mapped("t", &["a text", "b text", "c text"]);
        run("INSERT INTO t VALUES (1, 'a', NULL, 'c'), (2, 'a', 'b', 'c'), (3, NULL, NULL, NULL)");
        assert_eq!(captured(map), ["i 1 a,b,c", "i 2 a,b,c", "i 3 a,b,c"]);
        run("UPDATE t SET a = 'a', b = 'b', c = NULL");
        let mut changes = captured(map);
        changes.sort();
        assert_eq!(changes, ["u 1 b,c", "u 2 c", "u 3 a,b"]);
        run("UPDATE t SET a = 'a', b = b, c = NULL");
        assert_eq!(captured(map), NOTHING);
        run("UPDATE t SET a = 'x' WHERE false");
        assert_eq!(captured(map), NOTHING);
    }

    #[pg_test]
    fn an_insert_is_captured_where_records_are_created_or_known() {
        run("CREATE TABLE t (id int PRIMARY KEY, a text)");
        let map = map("t", &[]);
        field(map, "a", &[]);
        run(&format!(
            "INSERT INTO t VALUES (2, 'x'), (9, 'x'); SELECT crm.link({map}, '2', 'account-2'), crm.link({map}, '9', 'account-9');
             DELETE FROM t"
        ));
        captured(map);
        run("INSERT INTO t VALUES (1, 'x'), (2, 'x')");
        assert_eq!(captured(map), ["i 2 a"]);
        run("DELETE FROM t");
        assert_eq!(captured(map), NOTHING, "deletes are not followed");
    }

    #[pg_test]
    fn a_delete_is_captured_where_deletes_are_followed() {
        run("CREATE TABLE t (id int PRIMARY KEY, a text)");
        let map = map("t", &["on_delete => 'unlink'"]);
        field(map, "a", &[]);
        run("INSERT INTO t VALUES (1, 'x'), (2, 'x')");
        run("DELETE FROM t WHERE id = 2");
        assert_eq!(captured(map), ["d 2"]);
    }

    #[pg_test]
    fn cells_that_are_not_written_back_are_not_captured() {
        run("CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text, d text)");
        let map = map("t", &[]);
        field(map, "a", &["'inbound'"]);
        field(map, "b", &["materialize => false"]);
        field(map, "c", &["'outbound'"]);
        run("INSERT INTO t VALUES (1)");
        run("UPDATE t SET a = 'x', b = 'x', d = 'x'");
        assert_eq!(captured(map), NOTHING);
        run("UPDATE t SET a = 'y', b = 'y', c = 'y', d = 'y'");
        assert_eq!(captured(map), ["u 1 c"]);
    }

    #[pg_test]
    fn on_conflict_and_merge_are_captured_as_what_they_did() {
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1, 'x')");
        run(
            "INSERT INTO t VALUES (1, 'y'), (2, 'y') ON CONFLICT (id) DO UPDATE SET a = excluded.a",
        );
        run("INSERT INTO t VALUES (1, 'z'), (3, 'z') ON CONFLICT DO NOTHING");
        let mut changes = captured(map);
        changes.sort();
        assert_eq!(changes, ["i 1 a", "i 2 a", "i 3 a", "u 1 a"]);
        run(
            "MERGE INTO t USING (VALUES (1, 'm'), (2, 'y'), (4, 'm')) s (id, a) ON t.id = s.id
             WHEN MATCHED THEN UPDATE SET a = s.a WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.a)",
        );
        let mut changes = captured(map);
        changes.sort();
        assert_eq!(changes, ["i 4 a", "u 1 a"]);
    }

    #[pg_test]
    fn changes_by_other_triggers_cascades_and_views_are_captured() {
        run("CREATE TABLE parent (id int PRIMARY KEY)");
        let map = mapped(
            "t",
            &[
                "a text",
                "b text",
                "parent int REFERENCES parent ON DELETE SET NULL",
            ],
        );
        run("CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN NEW.b := upper(NEW.a); RETURN NEW; END $$;
             CREATE TRIGGER shout BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION shout();
             CREATE VIEW v AS SELECT * FROM t;
             INSERT INTO parent VALUES (7);
             INSERT INTO t VALUES (1, 'x', 'X', 7)");
        captured(map);
        run("UPDATE v SET a = 'y'");
        assert_eq!(captured(map), ["u 1 a,b"]);
        run("DELETE FROM parent");
        assert_eq!(captured(map), ["u 1 parent"]);
        run("WITH w AS (UPDATE t SET a = 'z' RETURNING *) SELECT count(*) FROM w");
        assert_eq!(captured(map), ["u 1 a,b"]);
    }

    #[pg_test]
    fn a_generated_column_changes_with_what_it_is_made_of() {
        let map = mapped(
            "t",
            &[
                "a int",
                "double int GENERATED ALWAYS AS (a * 2) STORED",
                "sign int GENERATED ALWAYS AS (sign(a)) STORED",
            ],
        );
        run("INSERT INTO t VALUES (1, 1)");
        captured(map);
        run("UPDATE t SET a = 2");
        assert_eq!(captured(map), ["u 1 a,double"]);
    }

    #[pg_test]
    fn more_than_64_columns_are_told_apart() {
        let columns: Vec<String> = (0..70).map(|i| format!("c{i} int")).collect();
        let map = mapped("t", &columns.iter().map(String::as_str).collect::<Vec<_>>());
        run("INSERT INTO t (id) VALUES (1)");
        let all: Vec<String> = (0..70).map(|i| format!("c{i}")).collect();
        assert_eq!(captured(map), [format!("i 1 {}", all.join(","))]);
        run("UPDATE t SET c0 = 1");
        run("UPDATE t SET c63 = 1");
        run("UPDATE t SET c64 = 1");
        run("UPDATE t SET c69 = 1, c5 = 1");
        assert_eq!(
            captured(map),
            ["u 1 c0", "u 1 c63", "u 1 c64", "u 1 c5,c69"]
        );
        assert_eq!(
            value(&format!(
                "SELECT crm_internal.cells_count(crm_internal.map_cells({map}))"
            )),
            "70"
        );
        run(&format!("SELECT crm.unmap_field({map}, 'c64')"));
        run("UPDATE t SET c64 = 2, c65 = 2");
        assert_eq!(captured(map), ["u 1 c65"]);
    }

    #[pg_test]
    fn a_change_says_who_made_it() {
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1)");
        run("SET LOCAL pg_crm.actor = 'dana@acme'");
        run("UPDATE t SET a = 'x'");
        assert_eq!(
            rows(&format!(
                "SELECT replace(actor, session_user, 'me') FROM crm.change WHERE map_id = {map} ORDER BY change_id"
            )),
            ["me", "me/dana@acme"]
        );
    }

    #[pg_test]
    fn two_maps_of_one_table_capture_apart() {
        let first = mapped("t", &["a text", "b text"]);
        let second = value(&format!(
            "SELECT crm.map_object('{}', 't', 'contact')",
            connection()
        ))
        .parse()
        .unwrap();
        field(second, "b", &[]);
        run("INSERT INTO t VALUES (1)");
        run("UPDATE t SET a = 'x'");
        run("UPDATE t SET b = 'x'");
        assert_eq!(captured(first), ["i 1 a,b", "u 1 a", "u 1 b"]);
        assert_eq!(captured(second), ["u 1 b"]);
        run(&format!("SELECT crm.unmap_object({first})"));
        run("UPDATE t SET b = 'y'");
        assert_eq!(captured(second), ["u 1 b"]);
    }

    #[pg_test]
    fn edits_make_cells_dirty_at_once() {
        let map = mapped("t", &["a text", "b text"]);
        run("INSERT INTO t VALUES (1, 'x', 'y')");
        run(&format!(
            "SELECT crm.link({map}, '1', 'account-1', write_key => false)"
        ));
        captured(map);
        run("UPDATE t SET a = 'y'");
        run("UPDATE t SET a = 'z'");
        assert_eq!(
            value(&format!(
                "SELECT dirty_cells FROM crm.status WHERE map_id = {map}"
            )),
            "1"
        );
        assert_eq!(
            rows(&format!(
                "SELECT format('%s %s', column_name, state) FROM crm.cell_status WHERE map_id = {map} ORDER BY 1"
            )),
            ["a changed", "b never synced"]
        );
    }
}
