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

/// What is held is held after a crash too, and what was approved goes.
#[tokio::test]
async fn the_fuse_holds_and_lets_go_across_crashes() {
    let cluster = Cluster::with(&[("pg_crm.fuse_records", "2")]);
    let arguments = "on_insert => 'ignore', on_delete => 'delete'";
    let mut desk = Desk::open_with(&cluster, Vendor::Stub, arguments).await;
    desk.link(10).await;
    desk.settle().await;
    let killed = async |desk: &mut Desk, point: &str, statement: &str| {
        arm(desk, point).await;
        desk.db.execute(statement).await;
        let name = format!("pg_crm.failpoint.{}", point.replace("::", "."));
        let marker = cluster.data().join(name);
        let _ = desk.db.client().batch_execute("SELECT crm.flush()").await;
        eventually(point, async || marker.exists().then_some(())).await;
        desk.db.reconnect().await;
        desk.db.worker().await;
    };
    let delete = "DELETE FROM people WHERE id <= 'p5'";
    killed(&mut desk, "fuse::before_commit", delete).await;
    eventually("it is held", async || {
        desk.db.flush().await;
        (desk.state().await == "held").then_some(())
    })
    .await;
    let records = "crm_stub.records WHERE NOT deleted";
    assert_eq!(desk.db.count(records).await, 10);
    killed(&mut desk, "claim::after_commit", "SELECT crm.approve(1)").await;
    desk.settle().await;
    let rows = desk.db.count("people").await;
    // All but p1 to p5, and p10.
    assert_eq!(rows, 4);
    assert_eq!(desk.db.count(records).await, rows);
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
