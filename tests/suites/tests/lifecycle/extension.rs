//! The extension is dropped and made anew under a worker that has much to do.

use std::time::Duration;

use crm_suites::eventually::promptly;
use crm_suites::{Cluster, Database, Desk, Vendor, eventually, process};
use nix::sys::signal::Signal;

use crate::{CLUSTER, hanging};

const MOMENT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn dropped_while_busy_and_made_again() {
    let desk = hanging(&CLUSTER, Vendor::Salesforce).await;
    promptly(
        MOMENT,
        "DROP EXTENSION",
        desk.db.execute("DROP EXTENSION pg_crm CASCADE"),
    )
    .await;
    // The table is an ordinary one again.
    desk.db
        .execute("UPDATE people SET phone = 'no CRM'; TRUNCATE people; DROP TABLE people")
        .await;
    let left = "pg_trigger WHERE tgname LIKE 'pg_crm%'";
    assert_eq!(desk.db.count(left).await, 0);
    for round in 0..3 {
        promptly(
            MOMENT,
            "CREATE EXTENSION",
            desk.db.execute("CREATE EXTENSION pg_crm"),
        )
        .await;
        desk.db.worker().await;
        if round < 2 {
            promptly(
                MOMENT,
                "DROP EXTENSION",
                desk.db.execute("DROP EXTENSION pg_crm CASCADE"),
            )
            .await;
        }
    }
    let crm = desk.crm.connect_beside(&desk.db, Vendor::HubSpot).await;
    crm.sim().end_faults();
    let again = Desk::furnish(desk.db, crm, "on_insert => 'create'").await;
    again
        .db
        .execute("INSERT INTO people (id, last_name) VALUES ('a', 'Again')")
        .await;
    again.settle().await;
}

#[tokio::test]
async fn created_and_dropped_in_one_transaction() {
    let db = CLUSTER.bare_database().await;
    db.execute("BEGIN; CREATE EXTENSION pg_crm; ROLLBACK").await;
    db.execute("BEGIN; CREATE EXTENSION pg_crm; DROP EXTENSION pg_crm; COMMIT")
        .await;
    db.execute("CREATE EXTENSION pg_crm").await;
    db.worker().await;
    assert!(db.flush().await);
}

/// The launcher's look into a database and CREATE EXTENSION there cross each other.
#[tokio::test]
async fn created_while_a_worker_finds_that_it_is_not_there() {
    let cluster = Cluster::with(&[("pg_crm.failpoints", "start::absent:stop")]);
    let db = Database::open(&cluster, "postgres").await;
    let early = db.worker().await;
    let marker = cluster.data().join("pg_crm.failpoint.start.absent");
    eventually("the worker has looked", async || {
        marker.exists().then_some(())
    })
    .await;
    db.execute("CREATE EXTENSION pg_crm").await;
    process::signal(early, Signal::SIGCONT);
    db.worker_after(early).await;
    assert!(db.flush().await);
}

#[tokio::test]
async fn the_worker_leaves_with_the_extension() {
    let db = CLUSTER.database().await;
    db.execute("DROP EXTENSION pg_crm CASCADE").await;
    eventually("the worker is gone", async || {
        db.worker_now().await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_mapped_table_is_dropped_while_busy() {
    let desk = hanging(&CLUSTER, Vendor::HubSpot).await;
    promptly(MOMENT, "DROP TABLE", desk.db.execute("DROP TABLE people")).await;
    desk.crm.sim().end_faults();
    eventually("the map is in error", async || {
        (desk.state().await == "error").then_some(())
    })
    .await;
    promptly(
        MOMENT,
        "unmap",
        desk.db
            .execute(&format!("SELECT crm.unmap_object({})", desk.map)),
    )
    .await;
    desk.db.assert_checked().await;
    assert!(desk.db.flush().await);
}

#[tokio::test]
async fn unmapped_and_disconnected_while_busy() {
    let desk = hanging(&CLUSTER, Vendor::HubSpot).await;
    let unmap = format!("SELECT crm.unmap_object({})", desk.map);
    promptly(MOMENT, "unmap_object", desk.db.execute(&unmap)).await;
    promptly(
        MOMENT,
        "drop_connection",
        desk.db.execute("SELECT crm.drop_connection('hubspot')"),
    )
    .await;
    desk.crm.sim().end_faults();
    desk.db.assert_checked().await;
    assert!(desk.db.flush().await);
}

#[tokio::test]
async fn altering_a_mapped_table_waits_for_no_request() {
    let desk = hanging(&CLUSTER, Vendor::Salesforce).await;
    let alter = async {
        desk.db
            .execute("ALTER TABLE people ADD COLUMN more text")
            .await;
        desk.db.execute("VACUUM FULL people").await;
    };
    promptly(MOMENT, "ALTER TABLE", alter).await;
    desk.crm.sim().end_faults();
    desk.settle().await;
}
