//! `crm.match()` and transactions: whose the links are, and what they lock.

use crm_suites::Database;

use crate::CLUSTER;

const FIND: &str = "SELECT count(*) FROM crm.match(1, '{\"name\": \"last_name\"}', dry_run => false) WHERE status = 'unique'";

async fn both_sides(rows: i32) -> Database {
    let db = CLUSTER.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text);
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key');
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound'),
                crm.map_field(1, 'title', 'x_title', direction => 'outbound');
         INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, {rows}) n;
         INSERT INTO crm_stub.records (connection, crm_object, fields)
         SELECT 's', 'contact', jsonb_build_object('last_name', name) FROM t"
    ))
    .await;
    db
}

/// Others go on with the map while the transaction of the call is open, and the links are there.
#[tokio::test]
async fn a_match_locks_nothing_once_it_has_linked() {
    let db = both_sides(1200).await;
    let session = db.session().await;
    session
        .execute("BEGIN; SET LOCAL pg_crm.actor = 'dana'")
        .await;
    assert_eq!(session.one::<i64>(FIND, &[]).await, 1200);
    db.execute("UPDATE t SET title = 'new' WHERE id <= 10")
        .await;
    db.drain().await;
    let written = "crm_stub.records WHERE fields ->> 'x_title' = 'new'";
    assert_eq!(db.count(written).await, 10);
    session.execute("ROLLBACK").await;
    assert_eq!(db.count("crm.ledger WHERE crm_id IS NOT NULL").await, 1200);
    let keys = "crm_stub.records WHERE fields ->> 'external_key' IS NOT NULL";
    assert_eq!(db.count(keys).await, 1200);
    assert!(db.count("crm.audit_log WHERE actor LIKE '%/dana'").await > 0);
    db.assert_checked().await;
}

/// A transaction that has changed something has the links with its changes, or not at all.
#[tokio::test]
async fn a_match_is_part_of_a_transaction_that_changes_something() {
    let db = both_sides(3).await;
    for (end, linked) in [("ROLLBACK", 0), ("COMMIT", 4)] {
        db.execute(
            "INSERT INTO crm_stub.records (connection, crm_object, fields)
             SELECT 's', 'contact', '{\"last_name\": \"name 4\"}'
             WHERE NOT EXISTS (SELECT FROM crm_stub.records WHERE fields ->> 'last_name' = 'name 4')",
        )
        .await;
        db.execute("BEGIN; INSERT INTO t VALUES (4, 'name 4')")
            .await;
        assert_eq!(db.one::<i64>(FIND, &[]).await, 4);
        db.execute(end).await;
        assert_eq!(
            db.count("crm.ledger WHERE crm_id IS NOT NULL").await,
            linked
        );
    }
    db.drain().await;
    db.assert_checked().await;
}
