//! Databases come and go; each that has the extension has a worker, and no worker holds one back.

use std::time::Duration;

use crm_suites::eventually::promptly;
use crm_suites::{Database, Desk, Vendor};

use crate::{CLUSTER, hanging};

#[tokio::test]
async fn every_database_has_a_worker_of_its_own() {
    let first = Desk::open(&CLUSTER, Vendor::Stub).await;
    let second = Desk::open(&CLUSTER, Vendor::Stub).await;
    assert_ne!(first.db.worker().await, second.db.worker().await);
    for desk in [&first, &second] {
        desk.link(2).await;
        desk.db
            .execute("UPDATE people SET phone = current_database()")
            .await;
        desk.settle().await;
        assert_eq!(desk.field("p1", "phone").await, desk.db.name.as_str());
    }
}

#[tokio::test]
async fn a_database_without_the_extension_has_no_worker() {
    let db = CLUSTER.bare_database().await;
    CLUSTER.database().await;
    // One may look in to find that there is nothing for it.
    crm_suites::eventually("no worker stays", async || {
        db.worker_now().await.is_none().then_some(())
    })
    .await;
}

/// DROP DATABASE hanging: with FORCE the worker is terminated like any other session.
#[tokio::test]
async fn drop_database_does_not_hang() {
    let desk = hanging(&CLUSTER, Vendor::Salesforce).await;
    let name = desk.db.name.clone();
    let admin = Database::open(&CLUSTER, "postgres").await;
    let drop_it = format!("DROP DATABASE {name} WITH (FORCE)");
    promptly(
        Duration::from_secs(5),
        "DROP DATABASE",
        admin.execute(&drop_it),
    )
    .await;
    // Nobody asks for it again.
    let error = format!("database \"{name}\" does not exist");
    let other = CLUSTER.database().await;
    other.execute("SELECT crm.flush()").await;
    let complaints = CLUSTER.log().matches(&error).count();
    assert!(
        complaints <= 1,
        "{complaints} complaints about the dropped database"
    );
}

/// The worker is the only session in the database.
#[tokio::test]
async fn plain_drop_database_does_not_hang_or_fail_for_the_worker() {
    let mut db = CLUSTER.database().await;
    let name = db.name.clone();
    db.keep();
    drop(db);
    let admin = Database::open(&CLUSTER, "postgres").await;
    let sql = format!("DROP DATABASE {name}");
    let dropped = async {
        // The session of the test itself takes a moment to go.
        crm_suites::eventually("DROP DATABASE", async || {
            admin.client().batch_execute(&sql).await.ok()
        })
        .await;
    };
    promptly(Duration::from_secs(15), "DROP DATABASE", dropped).await;
}

/// PostgreSQL has every process absorb a barrier when any database is dropped.
#[tokio::test]
async fn dropping_another_database_does_not_wait_for_a_hanging_request() {
    let desk = hanging(&CLUSTER, Vendor::HubSpot).await;
    let admin = Database::open(&CLUSTER, "postgres").await;
    let name = format!("{}_bystander", desk.db.name);
    admin.execute(&format!("CREATE DATABASE {name}")).await;
    let sql = format!("DROP DATABASE {name}");
    promptly(Duration::from_secs(5), "DROP DATABASE", admin.execute(&sql)).await;
}

#[tokio::test]
async fn a_database_can_be_copied_and_renamed() {
    let mut desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    desk.db.execute("UPDATE people SET phone = 'before'").await;
    desk.settle().await;
    let (name, renamed) = (desk.db.name.clone(), format!("{}_renamed", desk.db.name));
    let admin = Database::open(&CLUSTER, "postgres").await;
    desk.db.keep();
    desk.db = Database::open(&CLUSTER, "postgres").await;
    let sql = format!("ALTER DATABASE {name} RENAME TO {renamed}");
    crm_suites::eventually("ALTER DATABASE RENAME", async || {
        // As with any session: the worker has to be told to go, and may be back before the command.
        let others =
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = $1";
        admin.rows(others, &[&name]).await;
        admin.client().batch_execute(&sql).await.ok()
    })
    .await;
    desk.db = Database::open(&CLUSTER, &renamed).await;
    desk.db.execute("UPDATE people SET phone = 'after'").await;
    desk.db.worker().await;
    desk.settle().await;
}
