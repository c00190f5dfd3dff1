//! What waits, in which order it goes, and who may hold up whom.

use std::time::{Duration, Instant};

use crm_suites::desk::map_people;
use crm_suites::eventually::promptly;
use crm_suites::{Crm, Desk, Json, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    a_cell_edited_while_in_flight_stays_dirty_and_arrives,
    the_order_of_edits_is_kept
);

async fn a_cell_edited_while_in_flight_stays_dirty_and_arrives(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(2).await;
    desk.crm.fault(json!({"delay_ms": 1000, "times": 1}));
    desk.db
        .execute("UPDATE people SET phone = 'first', title = 'x'")
        .await;
    let session = desk.db.session().await;
    let flush = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the request is under way", async || {
        (desk
            .db
            .count("crm.cell_status WHERE state = 'sending'")
            .await
            > 0)
        .then_some(())
    })
    .await;
    let edit = desk
        .db
        .execute("UPDATE people SET phone = 'second' WHERE id = 'p2'");
    promptly(
        Duration::from_millis(500),
        "the application does not wait for the CRM",
        edit,
    )
    .await;
    flush.await.expect("the flush");
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, "first");
    assert_eq!(desk.field("p2", "phone").await, "second");
}

async fn the_order_of_edits_is_kept(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(20).await;
    // One edit arrives before anything fails: were every later one merged into the last, there
    // would still be an order to prove.
    desk.db
        .execute("UPDATE people SET phone = '-1' WHERE id = 'p3'")
        .await;
    desk.settle().await;
    desk.crm.sim().post("config", &json!({"latency_ms": 10}));
    let session = desk.db.session().await;
    let flushing = tokio::spawn(async move {
        for _ in 0..40 {
            session.execute("SELECT crm.flush(timeout => '2 s')").await;
        }
    });
    desk.crm
        .fault(json!({"status": 503, "chance": 0.2, "times": 6}));
    for round in 0..40 {
        let sql = format!(
            "UPDATE people SET phone = '{round}' WHERE id IN ('p{}', 'p3')",
            round % 20 + 1
        );
        desk.db.execute(&sql).await;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    flushing.await.expect("flushes");
    desk.crm.sim().end_faults();
    desk.settle().await;
    // Never back to an earlier value: the CRM's own history is what it was sent.
    let id = desk.crm_id("p3").await.expect("linked");
    let requests = desk.crm.sim().requests("");
    let sent = requests
        .iter()
        .filter_map(|request| sent_phone(request, vendor, &id));
    let sent: Vec<i64> = sent.collect();
    assert!(sent.len() > 1 && sent.is_sorted(), "{sent:?}");
}

/// The phone that a request gave the record, if it reached the CRM.
fn sent_phone(request: &Json, vendor: Vendor, id: &str) -> Option<i64> {
    let path = request["path"].as_str()?;
    let body: Json = request["body"].as_str()?.parse().ok()?;
    let record = if path.ends_with(id) {
        &body
    } else {
        let records = body["records"].as_array().or(body["inputs"].as_array())?;
        records
            .iter()
            .find(|record| record["id"] == *id || record["Id"] == *id)?
    };
    let field = vendor.field("phone");
    let phone = record
        .get(field)
        .or_else(|| record["properties"].get(field))?;
    let applied = matches!(request["status"].as_u64(), Some(200..300));
    phone.as_str()?.parse().ok().filter(|_| applied)
}

#[tokio::test]
async fn a_paused_connection_keeps_its_work() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(3).await;
    desk.db.execute("SELECT crm.pause('stub')").await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    assert!(!desk.db.flush().await, "a paused connection is not flushed");
    assert_eq!(desk.db.dirty().await, 3);
    assert_eq!(desk.field("p1", "phone").await, "+47 1");
    desk.db.assert_checked().await;
    desk.db.execute("SELECT crm.resume('stub')").await;
    desk.settle().await;
}

/// Timeouts cascading through a queue.
#[tokio::test]
async fn a_failing_connection_does_not_delay_another() {
    let db = CLUSTER.database().await;
    let bad = Crm::connect(&db, Vendor::Salesforce).await;
    let good = bad.connect_beside(&db, Vendor::HubSpot).await;
    let desk = Desk::furnish(db, bad, "on_insert => 'create'").await;
    let other = map_people(&desk.db, Vendor::HubSpot, "people", "on_insert => 'create'").await;
    desk.crm
        .fault(json!({"delay_ms": 5000, "times": "unlimited"}));
    desk.db.execute("INSERT INTO people (id, last_name) SELECT 'n' || n, 'New' FROM generate_series(1, 1000) n").await;
    let start = Instant::now();
    let _: bool = desk
        .db
        .one("SELECT crm.flush($1, timeout => '10 s')", &[&other])
        .await;
    let there = good.records(&desk.db, "contacts").await.len();
    assert_eq!(there, 1000, "records of the connection that works");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    desk.crm.sim().end_faults();
    desk.db.execute("SELECT crm.pause('salesforce')").await;
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_row_locked_by_an_application_holds_up_nobody() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    let session = desk.db.session().await;
    session.execute("BEGIN; UPDATE people SET first_name = 'Mine' WHERE id = 'p2'; LOCK crm.ledger IN ROW SHARE MODE").await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.field("p1", "phone").await, "new");
    session.execute("COMMIT").await;
    desk.settle().await;
    assert_eq!(desk.field("p2", "first_name").await, "Mine");
}

#[tokio::test]
async fn a_large_queue_is_no_crash_loop() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    let worker = desk.db.worker().await;
    desk.db
        .execute("INSERT INTO people (id, last_name, first_name) SELECT n, 'Last', repeat('x', 40) FROM generate_series(1, 20000) n")
        .await;
    desk.settle().await;
    assert_eq!(desk.db.worker().await, worker, "the worker went on");
}

#[tokio::test]
async fn the_worker_wakes_up_by_itself_when_the_interval_has_passed() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    desk.settle().await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    // As if the quarter of an hour were over.
    desk.db
        .execute("UPDATE crm.map_state SET next_write_at = now()")
        .await;
    desk.db.execute("UPDATE people SET phone = 'newer'").await;
    eventually("the cell arrives without a flush", async || {
        (desk.field("p1", "phone").await == "newer").then_some(())
    })
    .await;
}

/// Edits that are sent at once are sent as soon as their records are no longer locked, though
/// nothing wakes the worker then.
#[tokio::test]
async fn an_edit_of_a_locked_record_goes_once_that_is_free() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(2).await;
    let other = live.db.session().await;
    other
        .execute("BEGIN; SELECT FROM crm.ledger WHERE record_key = 'p1' FOR UPDATE")
        .await;
    let arrives = async |key: &str, phone: &str| {
        eventually(&format!("{key} has {phone}"), async || {
            (live.field(key, "phone").await == phone).then_some(())
        })
        .await;
    };
    // Nothing but the lock holds anything up by the time that the last of these has arrived.
    for phone in ["+2", "+3"] {
        live.db
            .execute(&format!("UPDATE people SET phone = '{phone}'"))
            .await;
        arrives("p2", phone).await;
    }
    other.execute("ROLLBACK").await;
    arrives("p1", "+3").await;
    live.db.assert_checked().await;
}
