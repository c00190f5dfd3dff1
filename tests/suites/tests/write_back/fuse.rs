//! A round that would delete, clear or create too many records is held before any of them is sent,
//! until somebody approves.

use std::sync::{Arc, Mutex};

use crm_suites::{Cluster, Database, Json, eventually, json};

use crate::CLUSTER;

/// So many rows that are linked to records of the stub.
async fn linked(cluster: &Cluster, rows: i32) -> Database {
    let db = cluster.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text);
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create', on_delete => 'delete');
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound'),
                crm.map_field(1, 'title', 'x_title', direction => 'outbound');
         INSERT INTO t SELECT n, 'name ' || n, 'title ' || n FROM generate_series(1, {rows}) n"
    ))
    .await;
    db.drain().await;
    assert_eq!(db.count("crm_stub.records").await, i64::from(rows));
    db.execute("TRUNCATE crm_stub.requests").await;
    db
}

async fn state(db: &Database) -> String {
    db.one("SELECT state FROM crm.status", &[]).await
}

/// Flushes until the map is held; nothing was sent.
async fn held(db: &Database) -> Json {
    eventually("the map is held", async || {
        let _: bool = db.one("SELECT crm.flush(timeout => '5 s')", &[]).await;
        (state(db).await == "held").then_some(())
    })
    .await;
    assert_eq!(db.count("crm_stub.requests").await, 0, "nothing was sent");
    db.one(
        "SELECT held FROM crm.fuse WHERE direction = 'outbound'",
        &[],
    )
    .await
}

async fn approve(db: &Database) {
    assert!(db.one::<bool>("SELECT crm.approve(1)", &[]).await);
    assert!(!db.one::<bool>("SELECT crm.approve(1)", &[]).await);
}

/// A first load and a push are asked for; deletions, emptied fields and creations on top are not,
/// beyond a fifth of the records.
#[tokio::test]
async fn too_many_deletions_creations_and_emptied_fields_wait() {
    let db = linked(&CLUSTER, 3000).await;
    let events: Arc<Mutex<Vec<Json>>> = Arc::default();
    let _listener = db.listen("crm", events.clone()).await;

    // A fifth passes.
    db.execute("UPDATE t SET title = NULL WHERE id <= 600")
        .await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    db.execute("TRUNCATE crm_stub.requests; DELETE FROM t WHERE id > 2300")
        .await;
    let mut counts = held(&db).await;
    // An estimate.
    let records = counts["records"].take().as_i64().unwrap_or_default();
    assert!((2700..3300).contains(&records), "{records}");
    let expected = json!({"deletes": 700, "clears": 0, "creates": 0, "records": null});
    assert_eq!(counts, expected);
    let reason: String = db.one("SELECT reason FROM crm.status", &[]).await;
    let what = "held: 700 CRM records would be deleted, 0 cleared and 0 created, and ";
    assert!(
        reason.starts_with(what) && reason.ends_with(" are linked; crm.approve(1) releases them"),
        "{reason}"
    );
    let notices = db.notices("SELECT crm.flush(timeout => '5 s')").await;
    assert!(notices.contains("held: 700 CRM records"), "{notices}");
    eventually("an event", async || {
        let heard = events.lock().unwrap();
        let is_it = |e: &Json| {
            e["event"] == "integration.crm.sync_held"
                && e["counts"]["deletes"] == 700
                && e["operation_id"].is_string()
        };
        heard.iter().any(is_it).then_some(())
    })
    .await;
    db.assert_checked().await;
    approve(&db).await;
    db.drain().await;
    assert_eq!(db.count("crm_stub.records WHERE NOT deleted").await, 2300);
    let audited = "crm.audit_log WHERE path = 'setup' AND operation = 'approve' AND fields #>> '{outbound,deletes}' = '700'";
    assert_eq!(db.count(audited).await, 1);

    db.execute("TRUNCATE crm_stub.requests; UPDATE t SET title = NULL WHERE id > 600")
        .await;
    assert_eq!(held(&db).await["clears"], 1700);
    approve(&db).await;
    db.drain().await;
    db.execute(
        "TRUNCATE crm_stub.requests; INSERT INTO t SELECT n, 'new', 'new' FROM generate_series(10001, 11000) n",
    )
    .await;
    assert_eq!(held(&db).await["creates"], 1000);
    // What comes after the hold is not what was approved.
    db.execute("DELETE FROM t WHERE id BETWEEN 1 AND 800").await;
    approve(&db).await;
    eventually("the deletions are held", async || {
        let _: bool = db.one("SELECT crm.flush(timeout => '5 s')", &[]).await;
        let held = "crm.fuse WHERE held ->> 'deletes' = '800' AND held ->> 'creates' = '0'";
        (db.count(held).await == 1).then_some(())
    })
    .await;
    assert_eq!(
        db.count("crm_stub.records WHERE deleted").await,
        700,
        "none of those"
    );
    approve(&db).await;
    db.drain().await;
    assert_eq!(db.count("crm_stub.records WHERE NOT deleted").await, 2500);
    db.assert_checked().await;
}

/// A table that is emptied and loaded anew is no deletion, however many slices of changes that
/// takes.
#[tokio::test]
async fn a_table_that_is_reloaded_is_not_held() {
    let cluster = Cluster::with(&[("pg_crm.batch_rows", "500")]);
    let db = linked(&cluster, 2000).await;
    db.execute(
        "CREATE TABLE kept AS SELECT * FROM t; DELETE FROM t; INSERT INTO t SELECT * FROM kept",
    )
    .await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    assert_eq!(db.count("crm_stub.records WHERE NOT deleted").await, 2000);
    // In as many slices, the deletions are counted before the first is sent.
    db.execute("TRUNCATE crm_stub.requests; DELETE FROM t WHERE id > 500")
        .await;
    assert_eq!(held(&db).await["deletes"], 1500);
    // A worker that dies knows it still.
    let old = db.kill_worker().await;
    let mut db = db;
    db.reconnect().await;
    db.worker_after(old).await;
    assert_eq!(held(&db).await["deletes"], 1500);
    approve(&db).await;
    db.drain().await;
    assert_eq!(db.count("crm_stub.records WHERE NOT deleted").await, 500);
    db.assert_checked().await;
}

/// Cells that are empty on both sides clear nothing, whichever way they flow.
#[tokio::test]
async fn what_is_empty_already_is_not_cleared() {
    let db = linked(&CLUSTER, 0).await;
    db.execute(
        "SELECT crm.alter_map(1, on_delete => 'ignore'); SELECT crm.alter_field(1, 'title', direction => 'bidirectional');
         INSERT INTO t SELECT n, 'name ' || n, CASE WHEN n <= 10 THEN 'title' END FROM generate_series(1, 1200) n",
    )
    .await;
    db.drain().await;
    db.execute(
        "CREATE TABLE kept AS SELECT * FROM t; TRUNCATE t; INSERT INTO t SELECT * FROM kept",
    )
    .await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    db.assert_checked().await;
}

/// Whoever pushes has asked for it; and who sets the fuse to -1, for everything.
#[tokio::test]
async fn a_push_is_its_own_approval() {
    let db = linked(&CLUSTER, 600).await;
    db.execute(
        "ALTER TABLE t DISABLE TRIGGER USER;
         UPDATE t SET title = NULL;
         INSERT INTO t SELECT n, 'new', 'new' FROM generate_series(1001, 3500) n;
         ALTER TABLE t ENABLE TRIGGER USER;
         SELECT crm.push(1)",
    )
    .await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    assert_eq!(db.count("crm_stub.records").await, 3100);
    assert_eq!(
        db.count("crm_stub.records WHERE fields ? 'x_title'").await,
        2500
    );
    db.assert_checked().await;
}

/// As soon as all of it is sent, and its caller knows.
#[tokio::test]
async fn a_push_approves_nothing_that_comes_after_it() {
    let db = linked(&CLUSTER, 600).await;
    db.execute("SELECT crm.push(1)").await;
    let done: bool = db.one("SELECT crm.flush()", &[]).await;
    assert!(done);
    db.execute("TRUNCATE crm_stub.requests; INSERT INTO t SELECT n, 'new', 'new' FROM generate_series(1001, 2000) n")
        .await;
    assert_eq!(held(&db).await["creates"], 1000);
    approve(&db).await;
    db.drain().await;
    assert_eq!(db.count("crm_stub.records").await, 1600);
    db.assert_checked().await;
}

/// Rows that are back and fields that are filled again need no person; less than that does.
#[tokio::test]
async fn what_was_undone_is_no_longer_held() {
    let db = linked(&CLUSTER, 2000).await;
    let events: Arc<Mutex<Vec<Json>>> = Arc::default();
    let _listener = db.listen("crm", events.clone()).await;
    db.execute("CREATE TABLE kept AS SELECT * FROM t; DELETE FROM t WHERE id > 500")
        .await;
    assert_eq!(held(&db).await["deletes"], 1500);
    db.execute("INSERT INTO t SELECT * FROM kept WHERE id > 1500")
        .await;
    for _ in 0..2 {
        let done: bool = db.one("SELECT crm.flush()", &[]).await;
        assert!(!done);
    }
    // What crm.approve() covers is what it covered.
    assert_eq!(held(&db).await["deletes"], 1500);
    db.execute("INSERT INTO t SELECT * FROM kept WHERE id BETWEEN 501 AND 1500")
        .await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    assert_eq!(db.count("crm_stub.records WHERE deleted").await, 0);

    db.execute("TRUNCATE crm_stub.requests; UPDATE t SET title = NULL")
        .await;
    assert_eq!(held(&db).await["clears"], 2000);
    db.execute("UPDATE t SET title = 'title ' || id").await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    let cleared = "crm_stub.records WHERE fields ->> 'x_title' IS NULL";
    assert_eq!(db.count(cleared).await, 0);
    let held = |e: &&Json| e["event"] == "integration.crm.sync_held";
    assert_eq!(events.lock().unwrap().iter().filter(held).count(), 2);

    // And of cells that are compared with the CRM first.
    db.execute("SELECT crm.alter_field(1, 'title', direction => 'bidirectional')")
        .await;
    db.execute("TRUNCATE crm_stub.requests; UPDATE t SET title = NULL")
        .await;
    eventually("the edits are held", async || {
        (state(&db).await == "held").then_some(())
    })
    .await;
    db.execute("UPDATE t SET title = 'title ' || id").await;
    db.drain().await;
    assert_eq!(state(&db).await, "idle");
    assert_eq!(db.count(cleared).await, 0);
    db.assert_checked().await;
}

#[tokio::test]
async fn without_a_fuse_nothing_is_held() {
    let cluster = Cluster::with(&[("pg_crm.fuse_records", "-1")]);
    let db = linked(&cluster, 1500).await;
    db.execute("DELETE FROM t").await;
    db.drain().await;
    assert_eq!(db.count("crm_stub.records WHERE NOT deleted").await, 0);
    db.assert_checked().await;
}
