//! The CRM stumbles: everything arrives once it is back, and no record pays an attempt for it.

use std::time::{Duration, Instant};

use crm_suites::eventually::promptly;
use crm_suites::{Desk, Json, Vendor, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    server_errors,
    dropped_connections,
    answers_lost_after_the_write,
    nonsense_for_an_answer,
    an_outage_of_any_length_needs_no_hand,
    cancelling_a_flush_is_immediate,
);

/// Three people edited while `fault` strikes; they arrive and are nobody's dead letter.
async fn survives(vendor: Vendor, fault: Json) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3).await;
    desk.crm.fault(fault.clone());
    desk.db
        .execute("UPDATE people SET phone = 'new', first_name = first_name || '!'")
        .await;
    desk.settle().await;
    let left = desk.crm.sim().get("faults");
    let spent = left["faults"]
        .as_array()
        .is_some_and(|faults| faults.iter().all(|f| f["remaining"] == 0));
    assert!(
        spent,
        "{fault} did not strike as often as it should: {left}"
    );
    assert_eq!(desk.db.count("crm.dead_letters").await, 0, "{fault}");
}

async fn server_errors(vendor: Vendor) {
    for status in [500, 502, 503] {
        survives(vendor, json!({"status": status, "times": 2})).await;
    }
}

async fn dropped_connections(vendor: Vendor) {
    for when in ["before", "partial"] {
        survives(vendor, json!({"drop": when, "times": 2})).await;
    }
}

async fn answers_lost_after_the_write(vendor: Vendor) {
    survives(vendor, json!({"drop": "after", "times": 1})).await;
    survives(vendor, json!({"status": 504, "applied": true, "times": 1})).await;
}

async fn nonsense_for_an_answer(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(1).await;
    let page = "<html>sf-token hs-token</html>";
    desk.crm.fault(
        json!({"status": 200, "headers": {"Content-Type": "text/html"}, "body": page, "times": 1}),
    );
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    desk.db.assert_checked().await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
}

async fn an_outage_of_any_length_needs_no_hand(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(20).await;
    desk.crm.fault(json!({"status": 503, "times": "unlimited"}));
    desk.db
        .execute("UPDATE people SET phone = 'during the outage'")
        .await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let _: Option<bool> = desk
            .db
            .one("SELECT crm.flush(timeout => '500 ms')", &[])
            .await;
    }
    desk.db.assert_checked().await;
    let why = desk
        .db
        .text("SELECT reason, last_error FROM crm.status_wide")
        .await;
    assert!(
        why.contains("waiting for the CRM"),
        "crm.status says nothing of the outage: {why}"
    );
    let asked = desk.crm.sim().requests("").len();
    assert!(asked < 60, "{asked} requests to a CRM that is down");
    desk.crm.sim().end_faults();
    desk.settle().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

async fn cancelling_a_flush_is_immediate(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(1).await;
    desk.crm.fault(json!({"delay_ms": 4000, "times": 1}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    let session = desk.db.session().await;
    let cancelled =
        session.error("SET statement_timeout = '300ms'; SELECT crm.flush(timeout => '1 min')");
    let error = promptly(Duration::from_secs(2), "the flush is cancelled", cancelled).await;
    assert_eq!(error.code().code(), "57014", "{error:?}");
    // With a timeout of its own it answers false.
    let start = Instant::now();
    assert!(
        !desk
            .db
            .one::<bool>("SELECT crm.flush(timeout => '300 ms')", &[])
            .await
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    desk.settle().await;
}
