//! `crm.diagnose()` finds each trouble, and the remedy that it names ends it.

use crm_suites::{Database, eventually};

use crate::CLUSTER;

/// Three rows at the stub, linked and written.
async fn at_rest() -> Database {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text);
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound'),
                crm.map_field(1, 'title', 'x_title', direction => 'bidirectional');
         INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, 3) n",
    )
    .await;
    db.drain().await;
    db
}

/// Topics and severities of what needs attention, but for the settings of a cluster of tests.
async fn findings(db: &Database) -> String {
    db.text(
        "SELECT coalesce(string_agg(topic || ' ' || severity, ', ' ORDER BY topic), '') FROM crm.diagnose()
         WHERE severity <> 'green' AND topic <> 'durability'",
    )
    .await
}

/// The only finding is this one; it goes once its remedy has run.
async fn is_mended(db: &Database, expected: &str, words: &str) {
    eventually(expected, async || {
        (findings(db).await == expected).then_some(())
    })
    .await;
    let (finding, remedy): (String, String) = {
        let rows = db
            .rows(
                "SELECT finding, remedy FROM crm.diagnose() WHERE severity <> 'green' AND topic <> 'durability'",
                &[],
            )
            .await;
        (rows[0].get(0), rows[0].get(1))
    };
    assert!(finding.contains(words), "{finding}");
    // One by one: CREATE INDEX CONCURRENTLY cannot run within a transaction.
    for statement in remedy.split("; ").filter(|s| !s.starts_with("--")) {
        db.execute(statement).await;
    }
    eventually(&remedy, async || {
        findings(db).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_remedy_ends_what_it_is_for() {
    let db = at_rest().await;
    assert_eq!(findings(&db).await, "");
    for (trouble, expected, words) in [
        (
            "ALTER TABLE t DISABLE TRIGGER pg_crm_1_update; UPDATE t SET name = 'unseen'",
            "capture red",
            "is disabled",
        ),
        (
            "DROP TRIGGER pg_crm_1_update ON t; UPDATE t SET name = 'unseen again'",
            "capture red",
            "is missing",
        ),
        (
            "SELECT crm.pause('s'); UPDATE t SET name = 'waits'",
            "connection yellow",
            "paused, with",
        ),
        (
            "SELECT crm.pause(1); UPDATE t SET name = 'waits again'",
            "map yellow",
            "paused, with",
        ),
        ("SELECT crm.disable(1)", "map yellow", "disabled"),
        (
            "SELECT crm_stub.inject('s', 'validation', 1, operation => 'write'); UPDATE t SET name = 'refused' WHERE id = 2",
            "dead letters yellow",
            "a dead letter: ",
        ),
    ] {
        db.execute(trouble).await;
        if words.contains("dead") {
            db.execute("SELECT crm.flush(timeout => '5 s')").await;
        }
        is_mended(&db, expected, words).await;
        db.drain().await;
        let names: String = db
            .one(
                "SELECT string_agg(DISTINCT fields ->> 'last_name', ',') FROM crm_stub.records",
                &[],
            )
            .await;
        let rows = db
            .text("SELECT string_agg(DISTINCT name, ',') FROM t")
            .await;
        assert_eq!(names, rows, "{trouble}");
    }
    db.assert_checked().await;
}

/// The most urgent first; who may see the views may see it.
#[tokio::test]
async fn a_reader_sees_what_is_urgent_first() {
    let mut db = at_rest().await;
    db.execute(
        "SELECT crm.pause(1);
         ALTER TABLE t DROP CONSTRAINT t_pkey;
         UPDATE crm.connection_state SET failures = 5, blocked_until = now() + interval '1 hour', error_class = 'transient', last_error = 'no route'",
    )
    .await;
    let role = format!("reader_of_{}", std::process::id());
    db.execute(&format!(
        "CREATE ROLE {role}; SELECT crm.grant_access('{role}', 'reader')"
    ))
    .await;
    db.execute(&format!("SET ROLE {role}")).await;
    let seen = db
        .text("SELECT topic, severity FROM crm.diagnose() WHERE topic IN ('connection', 'index', 'map', 'worker')")
        .await;
    db.execute("RESET ROLE").await;
    assert_eq!(
        seen,
        "connection | red\nindex | red\nmap | red\nmap | yellow\nworker | green"
    );
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    db.drop_at_the_end();
}

/// Findings quote names that a table's owner chose; remedies are run by somebody who may do more.
#[tokio::test]
async fn no_name_becomes_a_remedy() {
    let db = CLUSTER.database().await;
    db.execute(
        r#"SELECT crm.create_connection('s', 'stub');
           CREATE TABLE t (id int PRIMARY KEY, name text, "SELECT crm.unmap_object(1)" text) PARTITION BY RANGE (id);
           CREATE TABLE "p; run DROP TABLE t; --" PARTITION OF t DEFAULT;
           SELECT crm.map_object('s', 't', 'contact');
           SELECT crm.map_field(1, 'name', 'last_name'), crm.map_field(1, 'SELECT crm.unmap_object(1)', 'x_title');
           ALTER TABLE "p; run DROP TABLE t; --" DISABLE TRIGGER ALL"#,
    )
    .await;
    let remedies = "SELECT coalesce(string_agg(remedy, '|' ORDER BY topic), '') FROM crm.diagnose() WHERE topic IN ('capture', 'map')";
    let partition = db.text(remedies).await;
    assert!(
        partition.starts_with(r#"ALTER TABLE public."p; run DROP TABLE t; --" ENABLE TRIGGER"#),
        "{partition}"
    );
    db.execute(r#"ALTER TABLE "p; run DROP TABLE t; --" ENABLE TRIGGER ALL; ALTER TABLE t DROP COLUMN "SELECT crm.unmap_object(1)""#)
        .await;
    let finding = "SELECT finding FROM crm.diagnose() WHERE topic = 'map'";
    let finding = db.text(finding).await;
    assert!(finding.contains("unmap_object(1)"), "{finding}");
    let column = db.text(remedies).await;
    assert!(!column.contains("unmap_object"), "{column}");
}
