//! A worker with nothing to do costs nothing, and one that has worked long keeps nothing.

use std::time::Duration;

use crm_suites::{Cluster, Desk, Vendor};

#[tokio::test]
async fn an_idle_worker_sleeps() {
    let cluster = Cluster::start();
    let desk = Desk::open(&cluster, Vendor::Salesforce).await;
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let launcher: i32 = desk
        .db
        .one(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_crm launcher'",
            &[],
        )
        .await;
    let worker = desk.db.worker().await;
    let sleeps = |pid: i32| crm_suites::Vitals::of(pid).sleeps;
    // What the last flush started may still come to its end.
    crm_suites::eventually("the worker settles down", async || {
        let before = sleeps(worker);
        tokio::time::sleep(Duration::from_secs(1)).await;
        (sleeps(worker) - before <= 2).then_some(())
    })
    .await;
    let before = (sleeps(worker), sleeps(launcher));
    // Here time itself is what is measured.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let woken = (sleeps(worker) - before.0, sleeps(launcher) - before.1);
    assert!(
        woken.0 <= 3 && woken.1 <= 3,
        "wake-ups of worker and launcher in 5 s: {woken:?}"
    );
}

#[tokio::test]
async fn fifty_flushes_leak_nothing() {
    let cluster = Cluster::start();
    let desk = Desk::open_with(&cluster, Vendor::HubSpot, "on_insert => 'create'").await;
    desk.link(50).await;
    let round = async |n: usize| {
        desk.db
            .execute(&format!("UPDATE people SET phone = 'round {n}'"))
            .await;
        if n.is_multiple_of(5) {
            desk.crm
                .fault(crm_suites::json!({"drop": "after", "times": 1}));
        }
        desk.db.drain().await;
    };
    for n in 0..10 {
        round(n).await;
    }
    let before = desk.db.vitals().await;
    for n in 10..60 {
        round(n).await;
    }
    let after = desk.db.vitals().await;
    assert!(
        after.files <= before.files + 3,
        "files: {before:?} {after:?}"
    );
    assert!(
        after.threads <= before.threads + 2,
        "threads: {before:?} {after:?}"
    );
    assert!(
        after.memory_kb < before.memory_kb + 20_000,
        "memory: {before:?} {after:?}"
    );
    desk.settle().await;
}
