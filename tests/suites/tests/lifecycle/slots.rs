//! No worker slot is free: the server says so, the status says so, edits wait, and more slots mend
//! it.

use crm_suites::{Cluster, Crm, Desk, Vendor, eventually};

#[tokio::test]
async fn too_few_slots_are_told_and_nothing_is_lost() {
    // One is the logical replication launcher's, one is pg_crm's launcher's, one is for the first
    // database.
    let cluster = Cluster::with(&[("max_worker_processes", "3")]);
    cluster.provokes("found no free worker slot");
    let first = cluster.database().await;
    let db = cluster.bare_database().await;
    db.execute("CREATE EXTENSION pg_crm").await;
    let crm = Crm::connect(&db, Vendor::Stub).await;
    let mut desk = Desk::furnish(db, crm, "on_insert => 'create'").await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'Patient')")
        .await;
    eventually("the log says what is missing", async || {
        let log = cluster.log();
        log.lines()
            .any(|line| line.contains("max_worker_processes"))
            .then_some(())
    })
    .await;
    let shown = eventually("crm.status says that there is no worker", async || {
        let shown: String = desk.db.one("SELECT worker FROM crm.status_wide", &[]).await;
        (shown != "running" && shown != "starting").then_some(shown)
    });
    assert!(shown.await.contains("slot"));
    assert!(
        !desk
            .db
            .client()
            .query_one("SELECT crm.flush(timeout => '1 s')", &[])
            .await
            .is_ok_and(|row| row.get(0))
    );
    first.assert_checked().await;

    cluster.configure(&[("max_worker_processes", "10")]);
    cluster.restart();
    desk.db.reconnect().await;
    desk.db.worker().await;
    desk.settle().await;
}

#[tokio::test]
async fn a_slot_that_becomes_free_is_taken() {
    let cluster = Cluster::with(&[("max_worker_processes", "3")]);
    cluster.provokes("found no free worker slot");
    let first = cluster.database().await;
    let second = cluster.bare_database().await;
    second.execute("CREATE EXTENSION pg_crm").await;
    first.execute("DROP EXTENSION pg_crm CASCADE").await;
    second.worker().await;
}
