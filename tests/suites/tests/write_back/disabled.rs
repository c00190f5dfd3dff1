//! Maps that are disabled move nothing; what was edited meanwhile is found when they are enabled.

use crm_suites::{Database, Desk, SqlState, Vendor};

use crate::CLUSTER;

/// A table mapped to the stub, with the arguments of `crm.map_object` that matter.
async fn mapped(arguments: &str) -> Database {
    let db = CLUSTER.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text);
         INSERT INTO t SELECT n, 'old ' || n FROM generate_series(1, 2) n;
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', {arguments});
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound'), crm.map_field(1, 'title', 'x_title')"
    ))
    .await;
    db
}

async fn names(db: &Database) -> Vec<String> {
    db.all(
        "SELECT concat_ws(' ', fields ->> 'external_key', fields ->> 'last_name', fields ->> 'x_title')
         FROM crm_stub.records WHERE NOT deleted ORDER BY fields ->> 'external_key'",
        &[],
    )
    .await
}

async fn state(db: &Database) -> String {
    db.one("SELECT state || ' ' || capture FROM crm.status_wide", &[])
        .await
}

#[tokio::test]
async fn a_new_map_moves_nothing_until_it_is_enabled() {
    let db = mapped("on_insert => 'create', on_crm_insert => 'insert', enabled => false").await;
    assert_eq!(state(&db).await, "disabled off");
    db.execute(
        "INSERT INTO t VALUES (3, 'three'); UPDATE t SET name = 'edited' WHERE id = 1;
         INSERT INTO crm_stub.records (connection, crm_object, crm_id, fields) VALUES ('s', 'contact', 'theirs', '{\"last_name\": \"Theirs\"}')",
    )
    .await;
    assert_eq!(db.count("crm.change").await, 0);
    // Those who ask for everything are not told of it, those who ask for it are.
    assert!(db.flush().await);
    assert!(db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    for call in ["flush", "ingest_now"] {
        let sql = format!("SELECT crm.{call}(1, timeout => '10 s')");
        assert!(!db.one::<bool>(&sql, &[]).await, "{call}");
    }
    let error = db
        .error("SELECT crm.write('t', '1', '{\"title\": \"x\"}')")
        .await;
    assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains("is disabled"), "{error:?}");
    assert_eq!(db.count("crm_stub.requests").await, 0);
    db.assert_checked().await;

    // Rows that are there are no edits.
    db.execute("SELECT crm.enable(1)").await;
    assert_eq!(state(&db).await, "idle on");
    db.execute("INSERT INTO t VALUES (4, 'four')").await;
    db.drain().await;
    assert!(db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    assert_eq!(names(&db).await, ["4 four", "Theirs"]);
    assert_eq!(db.count("crm.check()").await, 0);
}

#[tokio::test]
async fn what_was_edited_while_a_map_was_disabled_is_found() {
    let db = mapped("on_insert => 'create', on_delete => 'delete'").await;
    db.execute(
        "INSERT INTO t SELECT n, 'name ' || n, 'title ' || n FROM generate_series(3, 2000) n",
    )
    .await;
    db.drain().await;
    let requests = db.count("crm_stub.requests").await;
    // Paused, so that a round that is still open does not send it.
    db.execute("SELECT crm.pause('s'); UPDATE t SET name = 'captured' WHERE id = 7")
        .await;
    db.execute("SELECT crm.disable(1); SELECT crm.resume('s')")
        .await;
    assert_eq!(state(&db).await, "disabled off");
    db.execute(
        "UPDATE t SET name = 'three' WHERE id = 3; UPDATE t SET title = 'four' WHERE id = 4;
         DELETE FROM t WHERE id IN (5, 1500); INSERT INTO t VALUES (3001, 'new');
         DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (6, 'six again', 'title 6')",
    )
    .await;
    // Also what DDL asks for waits.
    db.execute("ALTER TABLE t ALTER title TYPE text USING title || ''")
        .await;
    assert!(db.flush().await);
    assert_eq!(db.count("crm_stub.requests").await, requests);

    db.execute("SELECT crm.enable(1)").await;
    db.drain().await;
    let names = names(&db).await;
    for name in [
        "3 three title 3",
        "4 name 4 four",
        "7 captured title 7",
        "6 six again title 6",
    ] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    // The table was rewritten, so nobody knows which rows are new: the operator says.
    assert!(!names.iter().any(|n| n.starts_with("3001 ")), "{names:?}");
    for key in ["1 ", "2 ", "5 ", "1500 "] {
        assert!(!names.iter().any(|n| n.starts_with(key)), "{key}");
    }
    assert_eq!(names.len(), 1996);
    assert_eq!(db.count("crm.scan_request").await, 0);
}

#[tokio::test]
async fn rows_inserted_while_a_map_was_disabled_are_told_from_older_ones() {
    let db = mapped("on_insert => 'create'").await;
    db.execute("SELECT crm.disable(1)").await;
    db.execute("INSERT INTO t VALUES (3, 'new'); UPDATE t SET name = 'edited' WHERE id = 2")
        .await;
    // These say nothing of when a row was inserted.
    db.execute("VACUUM (FREEZE) t").await;
    db.execute("SELECT crm.enable(1)").await;
    db.drain().await;
    assert_eq!(names(&db).await, ["2 edited", "3 new"]);
    // A request that is older and knows no such time makes all of them new.
    db.execute("SELECT crm.disable(1); SELECT crm.recapture(1, new_rows => true)")
        .await;
    assert_eq!(db.count("crm.scan_request").await, 1);
    db.execute("SELECT crm.enable(1)").await;
    db.drain().await;
    assert_eq!(names(&db).await, ["1 old 1", "2 edited", "3 new"]);
    db.assert_checked().await;
}

/// Nothing of an outbound map's CRM is read, unless someone asks.
#[tokio::test]
async fn an_outbound_map_reads_nothing() {
    let desk = Desk::open_with(
        &CLUSTER,
        Vendor::HubSpot,
        "on_insert => 'create', ingest => NULL",
    )
    .await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'One')")
        .await;
    desk.settle().await;
    desk.crm.forget(&desk.db).await;
    desk.db
        .execute("UPDATE crm.ingest_state SET next_at = '-infinity'")
        .await;
    let due = "SELECT next_ingest_at IS NULL FROM crm.status_wide";
    assert!(desk.db.one::<bool>(due, &[]).await);
    assert!(desk.db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    assert!(desk.db.flush().await);
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    // Once a value flows in, changes are read.
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', 'jobtitle', direction => 'inbound')",
            desk.map
        ))
        .await;
    assert!(desk.db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    assert_ne!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    assert!(!desk.db.one::<bool>(due, &[]).await);
    desk.db.assert_checked().await;
}
