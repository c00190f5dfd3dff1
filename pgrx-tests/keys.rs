//! The key of a mapped row: what may be one, and that it never changes.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    #[pg_test]
    fn a_key_cannot_be_changed() {
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1, 'x'), (2, 'x')");
        captured(map);
        refuses(
            "UPDATE t SET id = id + 10 WHERE id = 2",
            &[
                "0A000",
                "\"public.t\" cannot be changed",
                "record_key",
                "crm.unmap_object()",
            ],
        );
        accepts("UPDATE t SET id = 2, a = 'y' WHERE id = 2");
        assert_eq!(captured(map), ["u 2 a"]);
    }

    #[pg_test]
    fn keys_of_each_kind_become_record_keys() {
        for (name, key, text) in [
            ("small", "smallint", "7"),
            ("big", "bigint", "9000000000000000000"),
            ("exact", "numeric", "1.5"),
            ("uu", "uuid", "6f1b4d3a-0000-4000-8000-000000000001"),
            ("txt", "text", "Ünï, \"quoted\" 'key'"),
            ("vc", "varchar(20)", "k"),
        ] {
            run(&format!(
                "CREATE TABLE t_{name} (k {key} PRIMARY KEY, a text)"
            ));
            let map = map(&format!("t_{name}"), CREATE);
            let literal = pgrx::spi::quote_literal(text);
            run(&format!("INSERT INTO t_{name} VALUES ({literal})"));
            assert_eq!(
                value(&format!(
                    "SELECT unnest(record_keys) FROM crm.change WHERE map_id = {map}"
                )),
                text
            );
            run(&format!("SELECT crm.unmap_object({map})"));
        }
        run(
            "CREATE DOMAIN code AS text; CREATE DOMAIN short_code AS code;
             CREATE TABLE t_domain (k short_code PRIMARY KEY)",
        );
        map("t_domain", &[]);
        run("CREATE TABLE t_date (k date PRIMARY KEY)");
        refuses(
            &format!(
                "SELECT crm.map_object('{}', 't_date', 'account')",
                connection()
            ),
            &["42804", "type date cannot be a key"],
        );
    }

    #[pg_test]
    fn a_key_that_may_be_null_identifies_nothing() {
        run("CREATE TABLE t (k int UNIQUE, a text)");
        refuses(
            &format!(
                "SELECT crm.map_object('{}', 't', 'account', key_column => 'k')",
                connection()
            ),
            &[
                "22023",
                "may be null",
                "ALTER TABLE public.t ALTER k SET NOT NULL",
            ],
        );
        run("ALTER TABLE t ALTER k SET NOT NULL");
        map("t", &["key_column => 'k'"]);
    }

    #[pg_test]
    fn a_shard_column_is_part_of_the_identity() {
        run("CREATE TABLE t (tenant text, id int, a text, PRIMARY KEY (tenant, id))");
        let map = map("t", &["shard_column => 'tenant'", "on_delete => 'delete'"]);
        field(map, "a", &[]);
        run(&format!(
            "INSERT INTO t VALUES ('x', 1, 'a'), ('y', 1, 'a');
             SELECT crm.link({map}, '1', 'account-1', 'x'), crm.link({map}, '1', 'account-2', 'y')"
        ));
        run("UPDATE t SET a = 'b' WHERE tenant = 'y'");
        run("DELETE FROM t WHERE tenant = 'x'");
        assert_eq!(
            rows(&format!(
                "SELECT format('%s %s/%s', op, shard_key, array_to_string(record_keys, ',')) FROM crm.change WHERE map_id = {map} ORDER BY change_id"
            )),
            ["u y/1", "d x/1"]
        );
        refuses("UPDATE t SET tenant = 'z'", &["0A000"]);
    }

    #[pg_test]
    fn a_row_without_a_shard_can_be_edited() {
        run("CREATE TABLE t (id int PRIMARY KEY, tenant text, a text)");
        let map = map("t", &["shard_column => 'tenant'"]);
        field(map, "a", &[]);
        run("INSERT INTO t VALUES (1, NULL, 'a')");
        accepts("UPDATE t SET a = 'b'");
        assert_eq!(captured(map), ["u 1 a"]);
    }
}
