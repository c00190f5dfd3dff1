//! Transactions that are prepared: what they changed goes to the CRM once they are committed,
//! whoever commits them.

use std::time::Duration;

use crm_suites::eventually::within;
use crm_suites::{Cluster, Crm, Database, Desk, Vendor, eventually, json};

use crate::CLUSTER;

/// Far from the next round and the next look for changes.
const RARELY: &str =
    "on_insert => 'create', write_interval => '24 hours', ingest_interval => '24 hours'";
const SOON: Duration = Duration::from_secs(20);

async fn at_a_desk(cluster: &Cluster) -> Desk {
    let db = cluster.database().await;
    let crm = Crm::connect(&db, Vendor::Stub).await;
    let desk = Desk::furnish_as(db, crm, "bidirectional", RARELY, "").await;
    desk.link(1).await;
    desk.db.drain().await;
    asleep(&desk.db).await;
    desk
}

/// Waits until the worker has had nothing to do for a while, so that it does not come across an
/// edit by itself.
async fn asleep(db: &Database) {
    let sql =
        "pg_stat_activity WHERE backend_type = 'pg_crm worker' AND datname = current_database()
               AND state = 'idle' AND state_change < now() - interval '2 s'";
    eventually("the worker sleeps", async || {
        (db.count(sql).await == 1).then_some(())
    })
    .await;
}

async fn arrives(desk: &Desk, phone: &str) {
    within(SOON, "the CRM has the edit", async || {
        (desk.field("p1", "phone").await == json!(phone)).then_some(())
    })
    .await;
    desk.settle().await;
}

#[tokio::test]
async fn commit_prepared_wakes_the_worker() {
    let desk = at_a_desk(&CLUSTER).await;
    desk.db
        .execute("BEGIN; UPDATE people SET phone = 'prepared'; PREPARE TRANSACTION 'an edit'")
        .await;
    // Another session than the one that prepared it.
    let session = desk.db.session().await;
    session.execute("COMMIT PREPARED 'an edit'").await;
    arrives(&desk, "prepared").await;
}

#[tokio::test]
async fn commit_prepared_wakes_the_worker_after_a_restart() {
    let cluster = Cluster::start();
    let mut desk = at_a_desk(&cluster).await;
    desk.db
        .execute("BEGIN; UPDATE people SET phone = 'survived'; PREPARE TRANSACTION 'an edit'")
        .await;
    cluster.crash();
    cluster.boot();
    desk.db.reconnect().await;
    desk.db.worker().await;
    asleep(&desk.db).await;
    desk.db.execute("COMMIT PREPARED 'an edit'").await;
    arrives(&desk, "survived").await;
}

#[tokio::test]
async fn an_extension_that_is_prepared_gets_its_worker() {
    // In a server of its own: nothing else has the launcher look around.
    let cluster = Cluster::start();
    let db = cluster.bare_database().await;
    db.execute("BEGIN; CREATE EXTENSION pg_crm; PREPARE TRANSACTION 'an extension'")
        .await;
    db.execute("COMMIT PREPARED 'an extension'").await;
    eventually("the database has a worker", async || db.worker_now().await).await;
    assert!(db.flush().await);
}
