//! Listings of records when the CRM is busy or slow.

use crm_suites::{Live, SqlState, Vendor, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(a_listing_waits_as_the_crm_asks, a_listing_can_be_cancelled);

/// Three people in the CRM, and the statement that counts them.
async fn three(vendor: Vendor) -> (Live, String) {
    let live = Live::with(&CLUSTER, vendor, "enabled => false", "").await;
    let people = ["One", "Two", "Three"].map(|name| json!({ "last_name": name }));
    let people: Vec<_> = people
        .iter()
        .filter_map(|p| p.as_object().cloned())
        .collect();
    live.crm.create(&live.db, vendor.people(), &people).await;
    let (name, object) = (vendor.name(), vendor.people());
    let count = format!("SELECT count(DISTINCT crm_id) FROM crm.records('{name}', '{object}')");
    (live, count)
}

async fn a_listing_waits_as_the_crm_asks(vendor: Vendor) {
    let (live, count) = three(vendor).await;
    let busy = json!({"path": vendor.facts().changes, "times": 1, "status": 429, "headers": {"Retry-After": "2"}});
    live.crm.fault(busy);
    live.crm.sim().forget_requests();
    assert_eq!(live.db.one::<i64>(&count, &[]).await, 3);
    assert_eq!(live.crm.sim().faults_left(), 0);
    let asked = live.crm.sim().requests("");
    let at = |n: usize| asked[n]["at_ms"].as_i64().expect("a time");
    let first = asked.iter().position(|r| r["status"] == 429).expect("429");
    // The next of the listing, that is; other threads of the worker may ask for something else.
    let next = (first + 1..asked.len()).find(|&n| asked[n]["path"] == asked[first]["path"]);
    let gap = at(next.expect("it asks again")) - at(first);
    assert!(gap >= 2000, "{gap} ms");
    // What the listing met is no outage of the connection.
    let state = "SELECT count(*) FROM crm.connection_state WHERE state = 'error'";
    assert_eq!(live.db.one::<i64>(state, &[]).await, 0);
    live.db.assert_checked().await;
}

async fn a_listing_can_be_cancelled(vendor: Vendor) {
    let (live, count) = three(vendor).await;
    let slow = json!({"path": vendor.facts().changes, "times": 1, "delay_ms": 60_000});
    live.crm.fault(slow);
    live.db.execute("SET statement_timeout = '1s'").await;
    let error = live.db.error(&count).await;
    assert_eq!(error.code(), &SqlState::QUERY_CANCELED, "{error:?}");
    live.db.execute("RESET statement_timeout").await;
    assert_eq!(live.db.one::<i64>(&count, &[]).await, 3);
    live.db.assert_checked().await;
}
