//! Filters that fail: for some rows, or, after DDL, for all of them. No statement of an application
//! fails for it, no other row waits for it, and nothing is lost.

use crm_suites::{Database, eventually};

use crate::CLUSTER;

const MAP: &str = "SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create', on_delete => 'delete', on_filter_out => 'delete', ";

async fn table(filter: &str) -> Database {
    let db = CLUSTER.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE SCHEMA app;
         CREATE TYPE app.mood AS ENUM ('sad', 'happy');
         CREATE TYPE place AS (city text);
         CREATE TABLE t (id int PRIMARY KEY, name text, k int, mood app.mood, home place);
         {MAP} filter => $f${filter}$f$);
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound')"
    ))
    .await;
    db
}

/// What the CRM has, by key.
async fn records(db: &Database) -> String {
    db.text(
        "SELECT coalesce(string_agg(concat(fields ->> 'external_key', fields ->> 'last_name'), ' ' ORDER BY fields ->> 'external_key'), '')
         FROM crm_stub.records WHERE NOT deleted",
    )
    .await
}

/// The records whose dead letters say that the filter failed.
async fn dead(db: &Database) -> String {
    db.text(
        "SELECT coalesce(string_agg(record_key || CASE operation WHEN 'delete' THEN 'delete' ELSE '' END, ' ' ORDER BY record_key), '')
         FROM crm.dead_letters WHERE vendor_code = 'filter_failed'",
    )
    .await
}

#[tokio::test]
async fn a_row_for_which_its_filter_fails_is_neither_inside_nor_outside() {
    let db = table("10 / k > 0").await;
    db.execute("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 0), (4, 'd', 100)")
        .await;
    db.drain_but_for_the_dead().await;
    assert_eq!(records(&db).await, "1a 2b");
    assert_eq!(dead(&db).await, "3");
    let error = "SELECT error FROM crm.dead_letters";
    assert_eq!(
        db.text(error).await,
        "the filter of its map fails for this row: division by zero"
    );
    // Its record stays as it is, whatever the row holds.
    db.execute("UPDATE t SET name = upper(name), k = CASE id WHEN 2 THEN 0 ELSE k END")
        .await;
    db.execute("UPDATE t SET name = name || name WHERE id = 2")
        .await;
    db.drain_but_for_the_dead().await;
    assert_eq!(records(&db).await, "1A 2b");
    assert_eq!(dead(&db).await, "2 3");
    // As soon as the filter can tell, the row is inside or outside again.
    db.execute("UPDATE t SET k = 1 WHERE id = 3; UPDATE t SET k = 5 WHERE id = 2")
        .await;
    db.drain_but_for_the_dead().await;
    assert_eq!(records(&db).await, "1A 2BB 3C");
    assert_eq!(dead(&db).await, "");
    db.execute("UPDATE t SET k = 0 WHERE id < 4; UPDATE t SET k = 100 WHERE id = 3")
        .await;
    db.drain_but_for_the_dead().await;
    assert_eq!(records(&db).await, "1A 2BB");
    // Whether a row that is gone was inside nobody can tell.
    db.execute("DELETE FROM t").await;
    db.drain_but_for_the_dead().await;
    assert_eq!(records(&db).await, "1A 2BB");
    assert_eq!(dead(&db).await, "1delete 2delete");
    db.execute(
        "SELECT crm.replay(dead_letter_id) FROM crm.dead_letters WHERE record_key = '1';
         SELECT crm.discard(dead_letter_id, 'kept') FROM crm.dead_letters WHERE record_key = '2'",
    )
    .await;
    db.drain().await;
    assert_eq!(records(&db).await, "2BB");
    db.assert_checked().await;
}

#[tokio::test]
async fn rows_for_which_a_filter_fails_hold_up_no_scan() {
    let db = table("10 / k > 0").await;
    db.execute("INSERT INTO t SELECT n, 'a', n % 3 FROM generate_series(1, 300) n")
        .await;
    db.drain_but_for_the_dead().await;
    let failing = db.count("crm.dead_letters").await;
    assert_eq!(failing, db.count("t WHERE k = 0").await);
    // Behind capture: as many fail as before, and others do than did.
    db.execute("ALTER TABLE t DISABLE TRIGGER USER; UPDATE t SET name = 'b', k = (id + 1) % 3; ALTER TABLE t ENABLE TRIGGER USER")
        .await;
    let breaches = db
        .text("SELECT string_agg(detail, E'\\n') FROM crm.check(deep => true)")
        .await;
    assert!(
        breaches.contains("the filter of its map fails"),
        "{breaches}"
    );
    db.execute("SELECT crm.recapture(1)").await;
    db.drain_but_for_the_dead().await;
    db.execute("SELECT crm.push(1, condition => 'id <> 7')")
        .await;
    db.drain_but_for_the_dead().await;
    assert_eq!(db.text("SELECT state FROM crm.status").await, "idle");
    assert_eq!(
        dead(&db).await.split(' ').count(),
        db.count("t WHERE k = 0").await as usize
    );
    let renewed = db
        .count("crm_stub.records WHERE fields ->> 'last_name' = 'b'")
        .await;
    assert_eq!(renewed, db.count("t WHERE k <> 0").await);
    db.assert_checked().await;
}

/// A CRM record that has the key of such a row is not linked to it, and gets no row of its own.
#[tokio::test]
async fn a_record_of_a_row_for_which_its_filter_fails_waits() {
    let db = table("10 / k > 0").await;
    db.execute(
        "SELECT crm.alter_map(1, on_crm_insert => 'insert');
         SELECT crm.alter_field(1, 'name', direction => 'bidirectional');
         ALTER TABLE t DISABLE TRIGGER USER; INSERT INTO t VALUES (1, 'a', 0); ALTER TABLE t ENABLE TRIGGER USER;
         INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('s', 'contact', '{\"external_key\": \"1\", \"last_name\": \"theirs\"}')",
    )
    .await;
    db.execute("SELECT crm.ingest_now()").await;
    let waits = "crm.dead_letters WHERE path = 'ingest' AND error LIKE '%division by zero%'";
    eventually("the record is shown", async || {
        (db.count(waits).await == 1).then_some(())
    })
    .await;
    assert_eq!(db.count("t").await, 1);
    db.execute("UPDATE t SET k = 1").await;
    db.drain().await;
    assert_eq!(db.count("crm.ledger WHERE crm_id IS NOT NULL").await, 1);
    assert_eq!(db.count("crm_stub.records").await, 1);
    db.execute("SELECT crm.replay_all()").await;
    db.drain().await;
    assert_eq!(db.text("SELECT name FROM t").await, "theirs");
    db.assert_checked().await;
}

#[tokio::test]
async fn ddl_that_breaks_a_filter_stops_its_map_and_no_statement() {
    for (before, ddl, after) in [
        (
            "mood = 'happy'",
            "ALTER TYPE app.mood RENAME VALUE 'happy' TO 'glad'",
            "mood = 'glad'",
        ),
        (
            "mood = 'happy'::app.mood",
            "ALTER SCHEMA app RENAME TO erp",
            "mood = 'happy'",
        ),
        (
            "(home).city = 'in'",
            "ALTER TYPE place RENAME ATTRIBUTE city TO town",
            "(home).town = 'in'",
        ),
        ("k > 0", "ALTER TABLE t ALTER k TYPE text", "k::int > 0"),
    ] {
        let db = table(before).await;
        let old = db.session().await;
        let insert = "INSERT INTO t SELECT n, 'a', n % 2, (enum_range(NULL::mood))[1 + n % 2], ROW(CASE n % 2 WHEN 1 THEN 'in' END)::place FROM generate_series";
        let path = "SET search_path = public, app, erp";
        for session in [&old, &db] {
            session.execute(path).await;
        }
        old.execute(&format!("{insert}(1, 8) n")).await;
        db.drain().await;
        assert_eq!(records(&db).await, "1a 3a 5a 7a", "{ddl}");
        db.execute(ddl).await;
        let reason = eventually("the map stops", async || {
            let reason = db
                .text("SELECT reason FROM crm.status WHERE state = 'error'")
                .await;
            (!reason.is_empty()).then_some(reason)
        })
        .await;
        assert!(
            reason.contains("crm.alter_map(1, filter => ...)"),
            "{ddl}: {reason}"
        );
        // Sessions of before and after it: rows enter, leave, change, come and go.
        let insert = if ddl.contains("TYPE text") {
            insert.replace("n % 2, (", "(n % 2)::text, (")
        } else {
            insert.to_owned()
        };
        old.execute(&format!(
            "{insert}(9, 10) n; UPDATE t SET name = 'b' WHERE id IN (1, 2)"
        ))
        .await;
        db.execute("UPDATE t SET name = 'b', k = u.k, mood = u.mood, home = u.home FROM (SELECT id AS of, k, mood, home FROM t) u
                    WHERE t.id IN (3, 4) AND u.of = 7 - t.id").await;
        db.execute("DELETE FROM t WHERE id IN (5, 6)").await;
        assert_eq!(db.text("SELECT state FROM crm.status").await, "error");
        db.execute(&format!("SELECT crm.alter_map(1, filter => $f${after}$f$)"))
            .await;
        db.drain_but_for_the_dead().await;
        // Of the rows that are gone, the records are left, and shown.
        assert_eq!(records(&db).await, "1b 4b 5a 7a 9a", "{ddl}");
        assert_eq!(dead(&db).await, "5delete", "{ddl}");
        db.execute("SELECT crm.replay_all()").await;
        db.drain().await;
        assert_eq!(records(&db).await, "1b 4b 7a 9a", "{ddl}");
        db.assert_checked().await;
    }
}

#[tokio::test]
async fn ddl_that_a_filter_survives_stops_nothing() {
    let db = table("k > 0 AND mood >= 'happy'").await;
    db.execute("INSERT INTO t VALUES (1, 'a', 1, 'happy'), (2, 'b', 0, 'happy')")
        .await;
    db.drain().await;
    for ddl in [
        "ALTER TABLE t ALTER k TYPE bigint",
        "ALTER TYPE app.mood ADD VALUE 'great'",
        "ALTER TYPE app.mood RENAME VALUE 'sad' TO 'low'",
    ] {
        db.execute(ddl).await;
        assert_eq!(
            db.text("SELECT state FROM crm.status").await,
            "idle",
            "{ddl}"
        );
        db.execute("UPDATE t SET name = name || name").await;
        db.drain().await;
    }
    assert_eq!(records(&db).await, "1aaaaaaaa");
    db.assert_checked().await;
}
