//! The worker is killed at each step of its cycle. The server then restarts everything, and the
//! work is taken up again.

use crm_suites::{Cluster, Desk, Vendor, eventually};

/// The steps of the cycle, in order.
const POINTS: [&str; 8] = [
    "fold::before_commit",
    "fold::after_commit",
    "claim::before_commit",
    "claim::after_commit",
    "send::before",
    "send::after",
    "settle::before_commit",
    "settle::after_commit",
];

#[tokio::test]
async fn stub() {
    killed_at_every_step(Vendor::Stub).await;
}

#[tokio::test]
async fn salesforce() {
    killed_at_every_step(Vendor::Salesforce).await;
}

async fn killed_at_every_step(vendor: Vendor) {
    let cluster = Cluster::start();
    let mut desk = Desk::open_with(
        &cluster,
        vendor,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    desk.link(20).await;
    for (n, point) in POINTS.into_iter().enumerate() {
        arm(&desk, point).await;
        // An update, a creation and a deletion at each step.
        desk.db
            .execute(&format!(
                "BEGIN;
                 UPDATE people SET phone = '{point}', first_name = first_name || '.' WHERE id <> 'p{n}';
                 INSERT INTO people (id, last_name) VALUES ('n{n}', 'New at {point}');
                 DELETE FROM people WHERE id = 'p{n}';
                 COMMIT"
            ))
            .await;
        let name = format!("pg_crm.failpoint.{}", point.replace("::", "."));
        let marker = cluster.data().join(name);
        // The session dies with the server's restart; the flush is only there to start the cycle.
        let _ = desk.db.client().batch_execute("SELECT crm.flush()").await;
        eventually(point, async || marker.exists().then_some(())).await;
        desk.db.reconnect().await;
        desk.db.worker().await;
        desk.settle().await;
    }
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

/// Has the worker kill itself when it gets there; not before the work that this is about.
async fn arm(desk: &Desk, point: &str) {
    eventually("the last round is over", async || {
        (desk.db.count("crm.progress").await == 0).then_some(())
    })
    .await;
    desk.db
        .execute(&format!("ALTER SYSTEM SET pg_crm.failpoints = '{point}'"))
        .await;
    desk.db.execute("SELECT pg_reload_conf()").await;
    let armed = async || {
        let seen: String = desk.db.one("SHOW pg_crm.failpoints", &[]).await;
        (seen == point).then_some(())
    };
    eventually("the setting is in force", armed).await;
}
