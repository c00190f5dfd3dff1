//! Calls of `crm.write()` whose callers went away: cancelled, undone, prepared. What the CRM took
//! is put right, and nobody else's edit gets in between.

use std::time::{Duration, Instant};

use crm_suites::{Desk, Session, Vendor, eventually, json};

use super::{desk, quiet};

const WRITE: &str =
    "SELECT (crm.write('people', $1, jsonb_build_object('phone', $2::text))).outcome";

async fn write(session: &Session, key: &str, phone: &str) -> String {
    session.one(WRITE, &[&key, &phone]).await
}

/// Both sides hold the same.
async fn agree(desk: &Desk, key: &str) -> String {
    quiet(desk).await;
    let row: String = desk
        .db
        .one("SELECT phone FROM people WHERE id = $1", &[&key])
        .await;
    assert_eq!(desk.field(key, "phone").await, row);
    desk.db.assert_checked().await;
    row
}

async fn what_is_undone_back_to_a_savepoint_is_put_right(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    desk.link(1).await;
    let session = desk.db.session().await;
    session.execute("BEGIN; SAVEPOINT here").await;
    assert_eq!(write(&session, "p1", "undone").await, "committed");
    session.execute("ROLLBACK TO here; COMMIT").await;
    assert_eq!(agree(&desk, "p1").await, "undone");
}

async fn what_a_prepared_transaction_undoes_is_put_right(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    desk.link(1).await;
    let session = desk.db.session().await;
    session.execute("BEGIN").await;
    assert_eq!(write(&session, "p1", "undone").await, "committed");
    session.execute("PREPARE TRANSACTION 'it'").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(desk.db.count("crm.pending_writes").await, 1);
    session.execute("ROLLBACK PREPARED 'it'").await;
    assert_eq!(agree(&desk, "p1").await, "undone");
}

/// A call whose CRM takes its time, cancelled meanwhile.
async fn cancelled(desk: &Desk, key: &str, phone: &str) {
    desk.crm.fault(json!({"method": "PATCH", "delay_ms": 1500}));
    let session = desk.db.session().await;
    session.execute("SET statement_timeout = '500ms'").await;
    let error = session
        .client()
        .query(WRITE, &[&key, &phone])
        .await
        .expect_err("it is cancelled");
    assert_eq!(error.code(), Some(&crm_suites::SqlState::QUERY_CANCELED));
}

async fn a_cancelled_call_is_put_right(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    desk.link(1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    cancelled(&desk, "p1", "cancelled").await;
    eventually("the CRM has it", async || {
        (desk.field("p1", "phone").await == "cancelled").then_some(())
    })
    .await;
    assert_eq!(agree(&desk, "p1").await, "cancelled");
}

async fn a_call_waits_for_one_that_was_cancelled(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    desk.link(1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    cancelled(&desk, "p1", "cancelled").await;
    // Based on what the CRM held before.
    assert_eq!(write(&desk.db, "p1", "next").await, "conflict");
    assert_eq!(agree(&desk, "p1").await, "cancelled");
}

async fn an_update_waits_for_a_call_that_was_cancelled(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    desk.link(1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    cancelled(&desk, "p1", "cancelled").await;
    desk.db
        .execute("UPDATE people SET phone = 'next' WHERE id = 'p1'")
        .await;
    // The CRM's value stands, as it does whoever changed it.
    assert_eq!(agree(&desk, "p1").await, "cancelled");
}

crm_suites::with_remote_crms!(
    what_is_undone_back_to_a_savepoint_is_put_right,
    what_a_prepared_transaction_undoes_is_put_right,
    a_cancelled_call_is_put_right,
    a_call_waits_for_one_that_was_cancelled,
    an_update_waits_for_a_call_that_was_cancelled,
);

#[tokio::test]
async fn a_call_goes_on_once_the_worker_can_write_it_down() {
    let desk = desk(Vendor::Stub, &["phone"]).await;
    desk.link(1).await;
    quiet(&desk).await;
    let holder = desk.db.session().await;
    holder
        .execute("BEGIN; LOCK TABLE crm.pending_write IN SHARE MODE")
        .await;
    let session = desk.db.session().await;
    let start = Instant::now();
    let call = tokio::spawn(async move { write(&session, "p1", "late").await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!call.is_finished());
    holder.execute("COMMIT").await;
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(5), call)
            .await
            .expect("soon")
            .expect("no panic"),
        "committed"
    );
    assert!(start.elapsed() < Duration::from_secs(7));
}
