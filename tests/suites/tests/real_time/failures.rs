//! The CRM does not take the edit: the row has it, it waits, and it arrives.

use std::time::{Duration, Instant};

use crm_suites::eventually::promptly;
use crm_suites::{Cluster, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    a_record_without_a_link_waits_for_it,
    a_connection_that_stands_still_makes_nobody_wait,
    a_crm_that_does_not_answer_keeps_nobody_for_long,
);

async fn a_record_without_a_link_waits_for_it(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.db
        .execute("INSERT INTO people (id, last_name, phone) VALUES ('p1', 'New', '+1')")
        .await;
    let written = live
        .write("p1", json!({"phone": "+2"}))
        .await
        .expect_pending("not_found");
    assert_eq!(live.cell("p1", "phone").await, "+2");
    eventually("it waits for a link", async || {
        (live.state_of(&written.write_id).await == "unlinked").then_some(())
    })
    .await;
    let shown = "SELECT unlinked FROM crm.status_wide";
    let _: i64 = live.db.one(shown, &[]).await;
    live.db.assert_checked().await;
    let person = json!({"last_name": "New", "phone": "+1"});
    let ids = live
        .crm
        .create(
            &live.db,
            vendor.people(),
            &[person.as_object().unwrap().clone()],
        )
        .await;
    live.db
        .rows("SELECT crm.link($1, 'p1', $2)", &[&live.map, &ids[0]])
        .await;
    live.agree().await;
    live.assert_both("p1", "phone", "+2").await;
    assert_eq!(live.state_of(&written.write_id).await, "committed");
}

async fn a_connection_that_stands_still_makes_nobody_wait(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    let name = vendor.name();
    live.db
        .execute(&format!("SELECT crm.pause('{name}')"))
        .await;
    let paused = async || {
        let written = live.write("p1", json!({"phone": "paused"})).await;
        (written.outcome == "pending"
            && written
                .error
                .as_deref()
                .is_some_and(|e| e.contains("paused") || e.contains("waits")))
        .then_some(())
    };
    promptly(
        Duration::from_secs(5),
        "no waiting for a paused connection",
        eventually("paused", paused),
    )
    .await;
    assert_ne!(live.field("p1", "phone").await, "paused");
    live.db.assert_checked().await;
    live.db
        .execute(&format!("SELECT crm.resume('{name}')"))
        .await;
    live.agree().await;

    // Told to wait for a minute: who comes next is not sent at all.
    if vendor != Vendor::Stub {
        live.crm.fail(&live.db, "write", "rate_limited", 1).await;
        live.write("p1", json!({"phone": "first"}))
            .await
            .expect_pending("rate_limited");
        live.crm.forget(&live.db).await;
        let start = Instant::now();
        live.write("p1", json!({"phone": "second"}))
            .await
            .expect("pending");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
        live.agree().await;
        live.assert_both("p1", "phone", "second").await;
    }
}

async fn a_crm_that_does_not_answer_keeps_nobody_for_long(vendor: Vendor) {
    if vendor == Vendor::Stub {
        return;
    }
    let cluster = Cluster::with(&[("pg_crm.request_timeout", "500ms")]);
    let live = Live::open(&cluster, vendor).await;
    live.people(1).await;
    let mut fault = live.crm.matching("write");
    fault["delay_ms"] = json!(3000);
    fault["times"] = json!("unlimited");
    live.crm.fault(fault);
    let start = Instant::now();
    live.write("p1", json!({"phone": "late"}))
        .await
        .expect_pending("transient");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    live.crm.relent(&live.db).await;
    live.agree().await;
    live.assert_both("p1", "phone", "late").await;
}
