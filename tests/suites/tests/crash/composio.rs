//! A write that a broker carries, and whoever waits for it, may die on the way.

use crm_suites::{Cluster, Contestant, Desk, Live, Vendor, eventually, json};

#[tokio::test]
async fn records_that_a_broker_was_creating_are_created_once() {
    let cluster = Cluster::start();
    let carried = Contestant::by_composio(Vendor::HubSpot);
    let mut desk = Desk::open_with(&cluster, carried, "on_insert => 'create'").await;
    // Applied, and its answer held.
    desk.crm
        .fault(json!({"path": "/batch/upsert", "times": 1, "delay_after_ms": 3000}));
    desk.db
        .execute("INSERT INTO people (id, last_name) SELECT 'n' || n, 'Byron' FROM generate_series(1, 50) n")
        .await;
    let session = desk.db.session().await;
    let flush = tokio::spawn(async move {
        let _ = session.client().batch_execute("SELECT crm.flush()").await;
    });
    eventually("the records are being created", async || {
        (desk.crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    desk.db.kill_worker().await;
    desk.db.reconnect().await;
    let _ = flush.await;
    desk.settle().await;
    let people = desk.crm.vendor.people();
    assert_eq!(desk.crm.records(&desk.db, people).await.len(), 50);
}

#[tokio::test]
async fn a_call_whose_backend_dies_is_settled() {
    let cluster = Cluster::start();
    let carried = Contestant::by_composio(Vendor::HubSpot);
    let mut live = Live::open(&cluster, carried).await;
    live.people(1).await;
    live.crm
        .fault(json!({"method": "PATCH", "times": 1, "delay_after_ms": 2000}));
    let session = live.db.session().await;
    let pid: i32 = session.one("SELECT pg_backend_pid()", &[]).await;
    let call = tokio::spawn(async move {
        let call = r#"SELECT crm.write('people', 'p1', '{"phone": "+2"}')"#;
        let _ = session.client().batch_execute(call).await;
    });
    eventually("the write is on its way", async || {
        (live.crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    crm_suites::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = call.await;
    live.reconnect().await;
    // Its transaction came to nothing, but the CRM had applied it: the row takes what the CRM
    // holds.
    live.agree().await;
    live.assert_both("p1", "phone", "+2").await;
}
