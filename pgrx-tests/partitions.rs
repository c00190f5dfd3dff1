//! Partitioned tables: captured at the parent, closed at the leaves.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    fn partitioned() -> i32 {
        run(
            "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
             CREATE TABLE t1a PARTITION OF t1 FOR VALUES FROM (0) TO (10)",
        );
        let map = map("t", &[CREATE[0], CREATE[1], "on_delete => 'delete'"]);
        field(map, "a", &[r#"validation => '{"max_length": 3}'"#]);
        map
    }

    #[pg_test]
    fn writes_through_the_parent_are_captured_and_validated() {
        let map = partitioned();
        run("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)");
        run("INSERT INTO t VALUES (1, 'x'), (11, 'x')");
        run("UPDATE t SET a = 'y' WHERE id = 11");
        run("DELETE FROM t WHERE id = 1");
        assert_eq!(captured(map), ["i 1 a", "i 11 a", "u 11 a", "d 1"]);
        refuses(
            "INSERT INTO t VALUES (2, 'x'), (12, 'long')",
            &["23514", "record_key 12"],
        );
    }

    #[pg_test]
    fn a_row_that_moves_between_partitions_is_an_updated_row() {
        run("CREATE TABLE t (id int, region text, a text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu');
             CREATE TABLE t_us PARTITION OF t FOR VALUES IN ('us');
             CREATE TABLE plain (id int PRIMARY KEY)");
        refuses(
            &format!(
                "SELECT crm.map_object('{}', 't', 'account', key_column => 'id')",
                connection()
            ),
            &["22023", "is not unique"],
        );
        let map = map("t", &["shard_column => 'region'"]);
        field(map, "a", &[]);
        run("INSERT INTO t VALUES (1, 'eu', 'x')");
        refuses("UPDATE t SET region = 'us'", &["0A000"]);
        accepts("UPDATE t SET a = 'y'");
        assert_eq!(captured(map), ["u 1 a"]);
    }

    #[pg_test]
    fn writes_to_a_leaf_are_refused() {
        partitioned();
        run("INSERT INTO t VALUES (1, 'x')");
        for statement in [
            "INSERT INTO t1a VALUES (2, 'x')",
            "UPDATE t1a SET a = 'y'",
            "DELETE FROM t1a",
            "UPDATE t1 SET a = 'y'",
        ] {
            refuses(
                statement,
                &[
                    "0A000",
                    "its parent is mapped",
                    "Write through the partitioned table",
                ],
            );
        }
    }

    #[pg_test]
    fn partitions_that_come_later_are_closed_too() {
        partitioned();
        run(
            "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);
             CREATE TABLE t3 (id int PRIMARY KEY, a text);
             ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (20) TO (30)",
        );
        refuses("INSERT INTO t2 VALUES (11, 'x')", &["0A000"]);
        refuses("INSERT INTO t3 VALUES (21, 'x')", &["0A000"]);
        accepts("INSERT INTO t VALUES (11, 'x'), (21, 'x')");
    }

    #[pg_test]
    fn a_detached_partition_is_a_table_again() {
        partitioned();
        run("ALTER TABLE t1 DETACH PARTITION t1a");
        accepts("INSERT INTO t1a VALUES (1, 'as long as it likes')");
        run(
            "ALTER TABLE t DETACH PARTITION t1; CREATE TABLE t1b PARTITION OF t1 FOR VALUES FROM (0) TO (5)",
        );
        accepts("INSERT INTO t1 VALUES (1, 'as long as it likes')");
    }

    #[pg_test]
    fn unmapping_opens_the_leaves() {
        let map = partitioned();
        run(&format!("SELECT crm.unmap_object({map})"));
        accepts("INSERT INTO t1a VALUES (1, 'as long as it likes')");
        assert_eq!(
            value(
                "SELECT count(*) FROM pg_trigger WHERE tgname ~ '^pg_crm' AND tgrelid IN ('t'::regclass, 't1'::regclass, 't1a'::regclass)"
            ),
            "0"
        );
    }

    #[pg_test]
    fn a_partition_is_not_mapped_alone() {
        partitioned();
        refuses(
            &format!(
                "SELECT crm.map_object('{}', 't1a', 'contact')",
                connection()
            ),
            &["42809", "is a partition", "Map the partitioned table"],
        );
    }
}
