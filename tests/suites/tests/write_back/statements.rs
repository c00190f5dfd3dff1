//! Every statement that changes rows queues their cells; those that would confuse keys are refused.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

async fn creating_desk() -> Desk {
    Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await
}

#[tokio::test]
async fn copy_is_captured() {
    let desk = creating_desk().await;
    let rows = r"COPY people (id, last_name) FROM PROGRAM 'printf ''c1\tCopied\nc2\tToo\n'''";
    desk.db.execute(rows).await;
    desk.settle().await;
    assert_eq!(desk.field("c2", "last_name").await, "Too");
}

#[tokio::test]
async fn on_conflict_is_captured_either_way() {
    let desk = creating_desk().await;
    desk.link(1).await;
    desk.db
        .execute(
            "INSERT INTO people (id, last_name) VALUES ('p1', 'Updated'), ('p2', 'Inserted')
             ON CONFLICT (id) DO UPDATE SET last_name = excluded.last_name",
        )
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "last_name").await, "Updated");
    assert_eq!(desk.field("p2", "last_name").await, "Inserted");
}

#[tokio::test]
async fn merge_is_captured_in_all_its_branches() {
    let desk = Desk::open_with(
        &CLUSTER,
        Vendor::Stub,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    let ids = desk.link(2).await;
    desk.db
        .execute(
            "MERGE INTO people p USING (VALUES ('p1', 'Gone'), ('p2', 'Updated'), ('p3', 'Inserted')) v (id, name)
             ON p.id = v.id
             WHEN MATCHED AND v.name = 'Gone' THEN DELETE
             WHEN MATCHED THEN UPDATE SET last_name = v.name
             WHEN NOT MATCHED THEN INSERT (id, last_name) VALUES (v.id, v.name)",
        )
        .await;
    desk.settle().await;
    assert!(
        desk.crm
            .record(&desk.db, "contact", &ids[0])
            .await
            .is_none()
    );
    assert_eq!(desk.field("p2", "last_name").await, "Updated");
    assert_eq!(desk.field("p3", "last_name").await, "Inserted");
}

#[tokio::test]
async fn edits_that_roll_back_leave_no_trace() {
    let desk = creating_desk().await;
    desk.link(1).await;
    desk.db
        .execute("BEGIN; UPDATE people SET last_name = 'Never'; ROLLBACK")
        .await;
    desk.db
        .execute("BEGIN; SAVEPOINT s; UPDATE people SET phone = '0'; ROLLBACK TO s; COMMIT")
        .await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.db.dirty().await, 0);
    desk.settle().await;
    assert_eq!(desk.field("p1", "last_name").await, "Last 1");
}

#[tokio::test]
async fn edits_of_one_transaction_coalesce() {
    let desk = creating_desk().await;
    desk.db
        .execute(
            "BEGIN; INSERT INTO people (id, last_name) VALUES ('a', 'One'), ('b', 'Gone');
             UPDATE people SET last_name = 'Two'; UPDATE people SET last_name = 'Three', phone = '3';
             DELETE FROM people WHERE id = 'b'; COMMIT",
        )
        .await;
    desk.settle().await;
    assert_eq!(desk.field("a", "last_name").await, "Three");
    assert_eq!(
        desk.crm.records(&desk.db, "contact").await.len(),
        1,
        "b was never there"
    );
}

#[tokio::test]
async fn a_new_key_is_refused_with_a_hint() {
    let desk = creating_desk().await;
    desk.link(2).await;
    let error = desk
        .db
        .error("UPDATE people SET id = 'q1' WHERE id = 'p1'")
        .await;
    assert!(error.hint().is_some(), "{error:?}");
    // The same key again is no new one.
    desk.db
        .execute("UPDATE people SET id = id, last_name = 'Same' WHERE id = 'p1'")
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn truncate_is_refused_with_a_hint_unless_deletes_are_ignored() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_delete => 'unlink'").await;
    desk.link(2).await;
    let error = desk.db.error("TRUNCATE people").await;
    assert!(error.hint().is_some(), "{error:?}");
    desk.settle().await;

    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(2).await;
    desk.db.execute("TRUNCATE people").await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.crm.records(&desk.db, "contact").await.len(), 2);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn flush_in_the_editing_transaction_says_that_it_sees_committed_changes_only() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    desk.db
        .execute("BEGIN; UPDATE people SET phone = '1'")
        .await;
    let said = desk
        .db
        .client()
        .query("SELECT crm.flush(timeout => '5 s')", &[])
        .await;
    if let Err(error) = said {
        let hint = error
            .as_db_error()
            .and_then(|error| error.hint())
            .unwrap_or_default();
        assert!(hint.to_lowercase().contains("commit"), "{error:?}");
    }
    desk.db.execute("ROLLBACK").await;
    desk.settle().await;
}
