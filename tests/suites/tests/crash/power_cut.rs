//! kill -9 of the worker, of a backend, of the whole server, at any moment of a busy day.

use std::time::Duration;

use crm_suites::{Cluster, Desk, Json, Vendor, json};
use nix::sys::signal::Signal;

/// Fifty people, and a CRM that takes its time, so that requests are under way when it happens.
async fn busy(cluster: &Cluster, vendor: Vendor) -> Desk {
    let desk = Desk::open_with(
        cluster,
        vendor,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    desk.link(50).await;
    if vendor != Vendor::Stub {
        desk.crm.sim().post("config", &json!({"latency_ms": 100}));
    }
    desk
}

/// Edits everything and has it written back meanwhile.
async fn edit(desk: &Desk, round: usize) -> tokio::task::JoinHandle<()> {
    desk.db
        .execute(&format!(
            "UPDATE people SET phone = 'round {round}';
             INSERT INTO people (id, last_name) SELECT 'r{round}-' || n, 'New' FROM generate_series(1, 5) n;
             DELETE FROM people WHERE id = 'p{round}'"
        ))
        .await;
    let session = desk.db.session().await;
    tokio::spawn(async move {
        let _ = session
            .client()
            .batch_execute("SELECT crm.flush(timeout => '10 s')")
            .await;
    })
}

#[tokio::test]
async fn the_worker_is_killed_at_random_moments() {
    for vendor in Vendor::ALL {
        let cluster = Cluster::start();
        let mut desk = busy(&cluster, vendor).await;
        for round in 1..=5 {
            let flush = edit(&desk, round).await;
            tokio::time::sleep(Duration::from_millis(40 * round as u64)).await;
            desk.db.kill_worker().await;
            flush.await.expect("the flush ends with its session");
            desk.db.reconnect().await;
        }
        desk.settle().await;
    }
}

#[tokio::test]
async fn the_server_is_cut_off_at_random_moments() {
    for vendor in Vendor::REMOTE {
        let cluster = Cluster::start();
        let mut desk = busy(&cluster, vendor).await;
        for round in 1..=4 {
            let flush = edit(&desk, round).await;
            tokio::time::sleep(Duration::from_millis(60 * round as u64)).await;
            cluster.crash();
            flush.await.expect("the flush ends with its session");
            cluster.boot();
            desk.db.reconnect().await;
        }
        desk.settle().await;
    }
}

#[tokio::test]
async fn a_backend_is_killed_in_the_middle_of_an_edit() {
    let cluster = Cluster::start();
    let mut desk = busy(&cluster, Vendor::Stub).await;
    desk.db
        .execute("UPDATE people SET phone = 'committed'")
        .await;
    let session = desk.db.session().await;
    session
        .execute("BEGIN; UPDATE people SET phone = 'never'; DELETE FROM people WHERE id = 'p1'")
        .await;
    let pid: i32 = session.one("SELECT pg_backend_pid()", &[]).await;
    crm_suites::process::signal(pid, Signal::SIGKILL);
    crm_suites::eventually("the session is gone", async || {
        session.client().is_closed().then_some(())
    })
    .await;
    desk.db.reconnect().await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, "committed");
}

#[tokio::test]
async fn a_restart_sends_nothing_again() {
    let cluster = Cluster::start();
    let mut desk = busy(&cluster, Vendor::HubSpot).await;
    desk.db.execute("UPDATE people SET phone = 'once'").await;
    desk.settle().await;
    let before = versions(&desk);
    for crash in [false, true] {
        if crash {
            cluster.crash();
            cluster.boot();
        } else {
            cluster.restart();
        }
        desk.db.reconnect().await;
        desk.db.worker().await;
        desk.settle().await;
        assert_eq!(versions(&desk), before);
    }
}

/// How often each record was modified.
fn versions(desk: &Desk) -> Vec<Json> {
    let records = desk.crm.sim().records("hubspot", "contacts");
    records
        .iter()
        .map(|record| record["version"].clone())
        .collect()
}
