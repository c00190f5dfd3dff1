//! Ending the worker takes a moment, also while the CRM keeps it waiting.

use std::time::Duration;

use crm_suites::process;
use crm_suites::{Cluster, Session, Vendor};
use nix::sys::signal::Signal;

use crate::{CLUSTER, hanging};

const MOMENT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn fast_shutdown_while_requests_hang() {
    let cluster = Cluster::start();
    let mut desk = hanging(&cluster, Vendor::Salesforce).await;
    let took = cluster.stop(Signal::SIGINT);
    assert!(took < MOMENT, "{took:?}");
    cluster.boot();
    desk.crm.sim().end_faults();
    desk.db.reconnect().await;
    desk.settle().await;
}

#[tokio::test]
async fn smart_shutdown_once_the_clients_are_gone() {
    let cluster = Cluster::start();
    let session = Session::open(cluster.path(), "postgres").await;
    session.execute("CREATE EXTENSION pg_crm").await;
    crm_suites::eventually("a worker", async || {
        let workers = "pg_stat_activity WHERE backend_type = 'pg_crm worker'";
        (session.count(workers).await > 0).then_some(())
    })
    .await;
    session.close().await;
    let took = cluster.stop(Signal::SIGTERM);
    assert!(took < MOMENT, "{took:?}");
}

#[tokio::test]
async fn sigterm_while_requests_hang() {
    let desk = hanging(&CLUSTER, Vendor::HubSpot).await;
    let worker = desk.db.worker().await;
    process::signal(worker, Signal::SIGTERM);
    let gone = async || (!process::is_running(worker)).then_some(());
    crm_suites::within(MOMENT, "the worker ends", gone).await;
    desk.crm.sim().end_faults();
    assert_ne!(desk.db.worker_after(worker).await, worker);
    desk.settle().await;
}

#[tokio::test]
async fn pg_terminate_backend_brings_a_new_worker() {
    let desk = hanging(&CLUSTER, Vendor::Salesforce).await;
    let worker = desk.db.worker().await;
    assert!(
        desk.db
            .one::<bool>("SELECT pg_terminate_backend($1, 5000)", &[&worker])
            .await
    );
    desk.crm.sim().end_faults();
    desk.db.worker_after(worker).await;
    desk.settle().await;
}

#[tokio::test]
async fn the_launcher_comes_back_as_well() {
    let db = CLUSTER.database().await;
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_crm launcher'";
    let launcher: i32 = db.one(sql, &[]).await;
    db.rows("SELECT pg_terminate_backend($1, 5000)", &[&launcher])
        .await;
    let new = crm_suites::eventually("a new launcher", async || {
        db.all::<i32>(sql, &[]).await.pop()
    })
    .await;
    assert_ne!(new, launcher);
    // It neither starts second workers nor forgets new databases.
    CLUSTER.database().await;
    let twice =
        "SELECT count(*) FROM (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_crm worker'
                                       GROUP BY datid HAVING count(*) > 1) x";
    assert_eq!(db.one::<i64>(twice, &[]).await, 0);
}
