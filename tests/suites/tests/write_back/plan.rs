//! What a map would do is shown before it does it, and looking changes nothing.

use crm_suites::{Database, SqlState};

use crate::CLUSTER;

/// `item number` of each line of a step.
async fn plan(db: &Database, step: &str) -> Vec<String> {
    let sql =
        "SELECT concat_ws(' ', item, coalesce(number::text, '?')) FROM crm.plan(1) WHERE step = $1";
    db.all(sql, &[&step]).await
}

fn has(lines: &[String], line: &str) {
    assert!(lines.iter().any(|l| l == line), "{line}: {lines:?}");
}

async fn loaded(arguments: &str) -> Database {
    let db = CLUSTER.database().await;
    db.execute(&format!(
        r#"SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text);
         INSERT INTO t SELECT n, 'name ' || n, 'title ' || n FROM generate_series(1, 2500) n;
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', ingest => 'on', {arguments});
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound', validation => '{{"max_length": 8}}'),
                crm.map_field(1, 'title', 'x_title', direction => 'outbound')"#
    ))
    .await;
    db
}

#[tokio::test]
async fn a_first_load_is_seen_before_the_map_is_enabled() {
    let db = loaded("on_insert => 'create', enabled => false").await;
    db.execute(
        "SELECT crm.alter_connection('s', options => '{\"rate_limit\": {\"requests\": 1, \"seconds\": 10}}');
         INSERT INTO crm_stub.records (connection, crm_object, crm_id, fields) VALUES ('s', 'contact', 'theirs', '{\"x_title\": \"Head\"}');
         UPDATE t SET title = NULL WHERE id = 7; SELECT crm.link(1, '7', 'theirs', write_key => false)",
    )
    .await;
    let push = plan(&db, "push").await;
    for line in [
        "row 2500",
        "create 2499",
        "update 1",
        "clear 1",
        "skip 0",
        "unreadable 0",
    ] {
        has(&push, line);
    }
    // name 1 to name 9 have six characters, name 1000 has nine.
    has(&push, "break rules 1501");
    let per_request: i64 = db
        .one(
            "SELECT crm_internal.plan_requests('stub', '{}', 'contact', 1000, 0, 0, 0)",
            &[],
        )
        .await;
    let requests = (2499 * per_request + 999) / 1000 + 1;
    let shown: i64 = db
        .one(
            "SELECT number FROM crm.plan(1) WHERE (step, item) = ('push', 'request')",
            &[],
        )
        .await;
    assert!((1..=requests).contains(&shown), "{shown}, not {requests}");
    // At one request in ten seconds.
    has(&push, &format!("second {}", 10 * shown));
    let samples: Vec<String> = db
        .one(
            "SELECT samples FROM crm.plan(1) WHERE (step, item) = ('push', 'clear')",
            &[],
        )
        .await;
    assert_eq!(samples, ["7"]);
    let backfill = plan(&db, "backfill").await;
    has(&backfill, "record 1");
    has(&backfill, "record without a row 0");
    has(&plan(&db, "next round").await, "create 0");
    // Nothing is written, and nothing changed.
    let written = "crm_stub.requests WHERE path ~ '(write|upsert|delete)'";
    assert_eq!(db.count(written).await, 0);
    assert_eq!(db.count("crm_stub.records").await, 1);
    assert_eq!(db.count("crm.queue").await, 0);
    assert_eq!(db.count("crm.change").await, 0);
    db.execute("BEGIN READ ONLY; SELECT * FROM crm.plan(1); COMMIT")
        .await;
}

#[tokio::test]
async fn the_next_round_is_what_waits() {
    let db = loaded("on_insert => 'create', on_delete => 'delete'").await;
    db.execute("SELECT crm.push(1)").await;
    db.drain().await;
    db.execute(
        "SELECT crm.pause('s');
         UPDATE t SET title = NULL WHERE id <= 20; DELETE FROM t WHERE id > 1800;
         INSERT INTO t VALUES (9001, 'new', 'new'), (9002, 'new', 'new')",
    )
    .await;
    let round = plan(&db, "next round").await;
    for line in ["create 2", "update 20", "delete 700"] {
        has(&round, line);
    }
    assert!(round.iter().any(|l| l.starts_with("held 7")), "{round:?}");
    has(&plan(&db, "backfill").await, "record ?");
    db.execute("SELECT crm.resume('s')").await;
    crm_suites::eventually("it is held", async || {
        db.flush().await;
        let held = "crm.status WHERE state = 'held'";
        (db.count(held).await == 1).then_some(())
    })
    .await;
    let round = plan(&db, "next round").await;
    for line in [
        "create 2",
        "update 20",
        "delete 700",
        "clear 20",
        "held 722",
    ] {
        has(&round, line);
    }
    assert!(db.one::<bool>("SELECT crm.approve(1)", &[]).await);
    db.drain().await;
    has(&plan(&db, "next round").await, "delete 0");
    has(&plan(&db, "backfill").await, "record 1802");
    // Ingestion that is held holds no round.
    db.execute("INSERT INTO crm.fuse (map_id, direction, held_at, held) VALUES (1, 'inbound', now(), '{}')")
        .await;
    let round = plan(&db, "next round").await;
    assert!(!round.iter().any(|l| l.starts_with("held")), "{round:?}");
    db.execute("DELETE FROM crm.fuse WHERE direction = 'inbound'")
        .await;
    // Creations that are due before updates are not what is looked at for emptied fields.
    db.execute(
        "INSERT INTO t SELECT n, 'new', 'new' FROM generate_series(20001, 22100) n;
         UPDATE t SET title = NULL WHERE id = 30",
    )
    .await;
    crm_suites::eventually("it is held", async || {
        db.flush().await;
        let held = "crm.status WHERE state = 'held'";
        (db.count(held).await == 1).then_some(())
    })
    .await;
    db.execute("UPDATE crm.queue SET next_attempt_at = now() + interval '1 hour' WHERE op = 'u'")
        .await;
    has(&plan(&db, "next round").await, "clear 1");
    db.execute("UPDATE crm.queue SET next_attempt_at = '-infinity'; SELECT crm.approve(1)")
        .await;
    db.drain().await;
    db.execute("CREATE ROLE plan_other; SELECT crm.grant_access('plan_other', 'admin')")
        .await;
    let error = db
        .error("SET ROLE plan_other; SELECT * FROM crm.plan(1)")
        .await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    db.execute("RESET ROLE; DROP OWNED BY plan_other; DROP ROLE plan_other")
        .await;
    db.assert_checked().await;
}

/// What a push leaves out is in none of its numbers.
#[tokio::test]
async fn rows_outside_the_filter_are_not_planned() {
    let db = loaded("on_insert => 'create', enabled => false, filter => 'id <= 40'").await;
    db.execute(
        "INSERT INTO crm_stub.records (connection, crm_object, crm_id, fields)
         VALUES ('s', 'contact', 'inside', '{}'), ('s', 'contact', 'outside', '{}');
         SELECT crm.link(1, '7', 'inside', write_key => false), crm.link(1, '77', 'outside', write_key => false)",
    )
    .await;
    let push = plan(&db, "push").await;
    for line in ["create 39", "update 1", "skip 0", "unreadable 0"] {
        has(&push, line);
    }
}
