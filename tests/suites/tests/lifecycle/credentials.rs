//! Credentials change while requests are on their way: what comes of the old ones says nothing of
//! the new ones.

use crm_suites::{Cluster, Crm, Desk, Session, Vendor, eventually, json, with_remote_crms};
use tokio::task::JoinHandle;

use crate::CLUSTER;

async fn at_a_desk(vendor: Vendor, direction: &str) -> Desk {
    at_a_desk_of(&CLUSTER, vendor, direction).await
}

async fn at_a_desk_of(cluster: &Cluster, vendor: Vendor, direction: &str) -> Desk {
    let db = cluster.database().await;
    let crm = Crm::connect(&db, vendor).await;
    let desk = Desk::furnish_as(db, crm, direction, "on_insert => 'create'", "").await;
    desk.link(2).await;
    desk.db.drain().await;
    desk
}

/// A statement whose first request is on its way, and will be refused.
async fn under_way(desk: &Desk, statement: &'static str) -> JoinHandle<()> {
    desk.crm
        .fault(json!({"status": 401, "delay_ms": 3000, "times": 1}));
    let session = desk.db.session().await;
    let running = tokio::spawn(async move {
        let _ = session.client().batch_execute(statement).await;
    });
    eventually("the request is under way", async || {
        (desk.crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    running
}

fn renewal(desk: &Desk) -> String {
    let (name, credentials) = (desk.crm.vendor.name(), desk.crm.credentials());
    format!("SELECT crm.set_credentials('{name}', '{credentials}')")
}

async fn is_well(desk: &Desk) {
    let said = desk
        .db
        .text("SELECT state, failures, last_error FROM crm.connection_state")
        .await;
    assert_eq!(said, "ok | 0 | (null)");
    desk.db.drain().await;
    desk.ingest().await;
    desk.settle().await;
}

/// New credentials are in force, and at work, when the refusal of the old ones comes.
async fn outlive_a_refusal(desk: Desk, statement: &'static str) {
    let running = under_way(&desk, statement).await;
    desk.db.execute(&renewal(&desk)).await;
    let test = format!(
        "SELECT ok FROM crm.test_connection('{}')",
        desk.crm.vendor.name()
    );
    assert!(desk.db.one::<bool>(&test, &[]).await, "the new ones work");
    assert!(
        desk.crm.sim().under_way() > 0,
        "the old ones were refused too early"
    );
    running.await.expect("no panic");
    is_well(&desk).await;
}

async fn a_refused_call(vendor: Vendor) {
    let desk = at_a_desk(vendor, "bidirectional").await;
    let write = "SELECT crm.write('people', 'p1', '{\"phone\": \"called\"}')";
    outlive_a_refusal(desk, write).await;
}

async fn a_refused_look(vendor: Vendor) {
    let desk = at_a_desk(vendor, "bidirectional").await;
    outlive_a_refusal(desk, "SELECT crm.ingest_now(timeout => '10 s')").await;
}

async fn a_refused_edit(vendor: Vendor) {
    let desk = at_a_desk(vendor, "bidirectional").await;
    let edit = "UPDATE people SET phone = 'edited'; SELECT crm.flush(timeout => '10 s')";
    outlive_a_refusal(desk, edit).await;
}

async fn a_refused_slice(vendor: Vendor) {
    let desk = at_a_desk(vendor, "outbound").await;
    let edit = "UPDATE people SET phone = 'sent'; SELECT crm.flush(timeout => '10 s')";
    outlive_a_refusal(desk, edit).await;
}

/// The refusal is written down while somebody is just setting new ones.
async fn a_refusal_while_they_are_set(vendor: Vendor) {
    let desk = at_a_desk(vendor, "outbound").await;
    let edit = "UPDATE people SET phone = 'sent'; SELECT crm.flush(timeout => '10 s')";
    let running = under_way(&desk, edit).await;
    let setter: Session = desk.db.session().await;
    setter.execute(&format!("BEGIN; {}", renewal(&desk))).await;
    eventually("the refusal is written down, or waits to be", async || {
        let waits = "pg_stat_activity WHERE backend_type = 'pg_crm worker'
                     AND datname = current_database() AND wait_event_type = 'Lock'";
        let settled = desk.db.count("crm.claim").await == 0;
        (settled || desk.db.count(waits).await == 1).then_some(())
    })
    .await;
    setter.execute("COMMIT").await;
    running.await.expect("no panic");
    is_well(&desk).await;
}

with_remote_crms!(
    a_refused_call,
    a_refused_look,
    a_refused_edit,
    a_refused_slice,
    a_refusal_while_they_are_set
);

/// Each change of a connection's state is one line of the server's log.
#[tokio::test]
async fn trouble_is_told_once() {
    // A worker's line does not name its database, so there is but one.
    let cluster = Cluster::start();
    let desk = at_a_desk_of(&cluster, Vendor::Salesforce, "outbound").await;
    let told = |what: &str| cluster.log().matches(what).count();
    let flush = "SELECT crm.flush(timeout => '300 ms')";
    desk.crm.fault(json!({"status": 503, "times": "unlimited"}));
    desk.db.execute("UPDATE people SET phone = 'later'").await;
    eventually("the circuit is open", async || {
        let _: Option<bool> = desk.db.one(flush, &[]).await;
        let failures = "SELECT failures FROM crm.connection_state";
        (desk.db.one::<i32>(failures, &[]).await >= 4).then_some(())
    })
    .await;
    assert_eq!(told("failed requests in a row"), 1);
    desk.crm.sim().end_faults();
    desk.db.execute("SELECT crm.resume('salesforce')").await;
    desk.db.drain().await;
    assert_eq!(
        told("responds again"),
        0,
        "crm.resume() has closed it already"
    );

    desk.crm.fault(json!({"status": 401, "times": "unlimited"}));
    desk.db.execute("UPDATE people SET phone = 'refused'").await;
    for _ in 0..3 {
        assert!(!desk.db.flush().await);
    }
    assert_eq!(told("stops connection \"salesforce\""), 1);
    desk.crm.sim().end_faults();
    desk.db.execute(&renewal(&desk)).await;
    desk.settle().await;

    desk.crm
        .fault(json!({"status": 400, "times": 2, "body": "[{\"errorCode\": \"STRING_TOO_LONG\", \"message\": \"too long\"}]"}));
    desk.db
        .execute("UPDATE people SET phone = 'dead' WHERE id = 'p1'")
        .await;
    desk.db.drain_but_for_the_dead().await;
    desk.db
        .execute("UPDATE people SET phone = 'dead' WHERE id = 'p2'")
        .await;
    desk.db.drain_but_for_the_dead().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 2);
    assert_eq!(told("gives up on a record of public.people"), 1);
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
}
