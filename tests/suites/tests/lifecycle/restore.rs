//! pg_dump and a restore keep mappings, links and what waits; credentials stay behind, and nothing is sent again.

use std::process::Stdio;

use crm_suites::{Database, Desk, Vendor, cluster, eventually, process};

use crate::CLUSTER;

/// A copy of the database by way of pg_dump.
async fn restored(desk: &Desk) -> Database {
    let copy = CLUSTER.bare_database().await;
    let socket = CLUSTER.path();
    let mut dump = cluster::program("pg_dump");
    dump.arg("-h")
        .arg(socket)
        .args(["-U", "postgres", &desk.db.name]);
    let script = process::run(&mut dump).stdout;
    let text = String::from_utf8_lossy(&script);
    for secret in ["sf-token", "hs-token"] {
        assert!(!text.contains(secret), "{secret} is in the dump");
    }
    let file = socket.join(format!("{}.sql", copy.name));
    std::fs::write(&file, &script).expect("the dump");
    let mut psql = cluster::program("psql");
    psql.arg("-h").arg(socket).args([
        "-X",
        "-q",
        "-U",
        "postgres",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        &copy.name,
        "-f",
    ]);
    process::run(psql.arg(file).stdout(Stdio::null()));
    copy
}

#[tokio::test]
async fn a_restore_sends_nothing_again() {
    let mut desk = Desk::open_with(
        &CLUSTER,
        Vendor::Salesforce,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    desk.link(20).await;
    desk.db.execute("UPDATE people SET phone = 'before'").await;
    desk.settle().await;
    // The original waits: it must not be its worker that sends what follows.
    desk.db.execute("SELECT crm.pause('salesforce')").await;
    desk.db
        .execute("UPDATE people SET phone = 'left over' WHERE id = 'p7'")
        .await;
    let copy = restored(&desk).await;
    desk.crm.sim().forget_requests();
    desk.db = copy;
    desk.db.worker().await;
    desk.db.assert_checked().await;
    assert_eq!(
        desk.db.count("crm.credential WHERE secret <> '{}'").await,
        0
    );
    assert_eq!(
        desk.db.count("crm.ledger WHERE crm_id IS NOT NULL").await,
        20
    );
    desk.db.execute("SELECT crm.resume('salesforce')").await;
    assert!(!desk.db.flush().await, "without credentials nothing can go");
    assert_eq!(
        desk.crm.sim().requests("/composite").len() + desk.crm.sim().requests("/sobjects").len(),
        0
    );
    let said = desk.db.text("SELECT state, reason FROM crm.status").await;
    assert!(
        said.contains("error") && said.contains("credential"),
        "{said}"
    );

    desk.db
        .execute(r#"SELECT crm.set_credentials('salesforce', '{"access_token": "sf-token"}')"#)
        .await;
    desk.settle().await;
    let writes = desk
        .crm
        .sim()
        .requests("/sobjects")
        .into_iter()
        .filter(|request| request["method"] != "GET");
    assert_eq!(writes.count(), 1, "only what was left over");
    // Captured by the restored triggers.
    desk.db
        .execute("UPDATE people SET phone = 'after'; DELETE FROM people WHERE id = 'p3'")
        .await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('n1', 'New')")
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn rules_and_renames_hold_after_a_restore() {
    let mut desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.map_field("title", r#"validation => '{"max_length": 3}'"#)
        .await;
    desk.db = restored(&desk).await;
    let error = desk
        .db
        .error("INSERT INTO people (id, last_name, title) VALUES ('p1', 'x', 'long')")
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    desk.db
        .execute("ALTER TABLE people RENAME COLUMN title TO headline")
        .await;
    let mapped = "SELECT column_name::text FROM crm.field_map WHERE crm_field = 'x_title'";
    assert_eq!(desk.db.one::<String>(mapped, &[]).await, "headline");
    eventually("the worker is there", async || desk.db.worker_now().await).await;
    desk.db.assert_checked().await;
}
