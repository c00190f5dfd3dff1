//! Pushes: rows that are there, a part at a time, with a condition that their owner writes.

use crm_suites::{Cluster, Database, SqlState, eventually};

use crate::CLUSTER;

/// A table of so many rows that are there already, mapped to the stub.
async fn loaded(rows: i32, arguments: &str) -> Database {
    loaded_in(&CLUSTER, rows, arguments).await
}

async fn loaded_in(cluster: &Cluster, rows: i32, arguments: &str) -> Database {
    let db = cluster.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text, age int);
         INSERT INTO t SELECT n, 'name ' || n, 'title ' || n, n % 100 FROM generate_series(1, {rows}) n;
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', {arguments});
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound'),
                crm.map_field(1, 'title', 'x_title', direction => 'outbound')"
    ))
    .await;
    db
}

const CREATES: &str = "on_insert => 'create'";

async fn records(db: &Database, condition: &str) -> i64 {
    db.count(&format!("crm_stub.records WHERE {condition}"))
        .await
}

#[tokio::test]
async fn a_first_load_and_a_column_added_later() {
    let db = loaded(4500, CREATES).await;
    db.execute("SELECT crm.push(1)").await;
    db.drain().await;
    assert_eq!(records(&db, "true").await, 4500);
    db.execute("SELECT crm.map_field(1, 'age', 'x_age', direction => 'outbound')")
        .await;
    db.execute("UPDATE t SET age = 7 WHERE id = 4000").await;
    db.drain().await;
    assert_eq!(records(&db, "fields ? 'x_age'").await, 1);
    let wrote = "crm.audit_log WHERE operation = 'update' AND fields - 'x_age' <> '{}'";
    db.execute("SELECT crm.push(1, '{age}')").await;
    db.drain().await;
    assert_eq!(records(&db, "fields ? 'x_age'").await, 4500);
    assert_eq!(db.count(wrote).await, 0, "that column alone");
    assert_eq!(db.count("crm.scan_request").await, 0);
    db.assert_checked().await;
}

/// Progress is in crm.progress; a push that waits can be cancelled, and what one has queued goes
/// out all the same.
#[tokio::test]
async fn a_push_shows_its_progress_and_can_be_cancelled() {
    let db = loaded(3000, "on_insert => 'create', enabled => false").await;
    db.execute("ANALYZE t").await;
    let push: i64 = db
        .one("SELECT crm.push(1, condition => 'id > 10')", &[])
        .await;
    let other: i64 = db
        .one("SELECT crm.push(1, condition => 'id <= 10')", &[])
        .await;
    let shown: Vec<String> = db
        .all(
            "SELECT concat_ws(' ', phase, push_id - $1, records_total, records_done) FROM crm.progress ORDER BY push_id",
            &[&push],
        )
        .await;
    assert_eq!(shown, ["push 0 3000 0", "push 1 3000 0"]);
    assert!(db.one::<bool>("SELECT crm.cancel_push($1)", &[&push]).await);
    assert!(!db.one::<bool>("SELECT crm.cancel_push($1)", &[&push]).await);
    db.execute("SELECT crm.enable(1)").await;
    db.drain().await;
    assert_eq!(records(&db, "true").await, 10);
    assert!(
        !db.one::<bool>("SELECT crm.cancel_push($1)", &[&other])
            .await
    );
}

/// Rows without a record are nobody's to create where on_insert does not say so, and what the CRM
/// deleted stays deleted.
#[tokio::test]
async fn a_push_creates_only_what_may_be_created() {
    let db = loaded(3, "on_insert => 'ignore', ingest => 'on'").await;
    db.execute(
        "INSERT INTO crm_stub.records (connection, crm_object, crm_id, fields) VALUES ('s', 'contact', 'theirs', '{}');
         SELECT crm.link(1, '2', 'theirs'); SELECT crm.push(1)",
    )
    .await;
    db.drain().await;
    assert_eq!(records(&db, "true").await, 1);
    assert_eq!(records(&db, "fields ->> 'last_name' = 'name 2'").await, 1);
    db.execute("UPDATE crm_stub.records SET deleted = true")
        .await;
    assert!(db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    db.execute("SELECT crm.push(1)").await;
    assert!(db.flush().await);
    assert_eq!(records(&db, "NOT deleted").await, 0);
    assert_eq!(db.count("crm.queue").await, 0);
    db.assert_checked().await;
}

#[tokio::test]
async fn a_condition_is_one_over_the_tables_own_columns() {
    let db = loaded(3, CREATES).await;
    db.execute(
        "CREATE FUNCTION mine(int) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE TABLE secrets (id int)",
    )
    .await;
    for (condition, code) in [
        ("", SqlState::SYNTAX_ERROR),
        ("id =", SqlState::SYNTAX_ERROR),
        ("id = 1) OR (", SqlState::SYNTAX_ERROR),
        ("true), (true", SqlState::SYNTAX_ERROR),
        (
            "true) FROM (SELECT 1) x WHERE (true",
            SqlState::SYNTAX_ERROR,
        ),
        ("true); DROP TABLE t; SELECT (true", SqlState::SYNTAX_ERROR),
        ("true /*", SqlState::SYNTAX_ERROR),
        ("nothing = 1", SqlState::UNDEFINED_COLUMN),
        ("id", SqlState::DATATYPE_MISMATCH),
        ("id = $1", SqlState::UNDEFINED_PARAMETER),
        ("count(*) > 0", SqlState::GROUPING_ERROR),
        ("generate_series(1, 2) > 0", SqlState::DATATYPE_MISMATCH),
        ("row_number() OVER () = 1", SqlState::WINDOWING_ERROR),
        ("(SELECT true)", SqlState::FEATURE_NOT_SUPPORTED),
        (
            "query_to_xml('SELECT 1', true, false, '') IS NULL",
            SqlState::INVALID_OBJECT_DEFINITION,
        ),
        (
            "table_to_xml('public.secrets', true, false, '') IS NULL",
            SqlState::INVALID_OBJECT_DEFINITION,
        ),
        ("pg_sleep(1) IS NULL", SqlState::INVALID_OBJECT_DEFINITION),
        ("now() > '2026-01-01'", SqlState::INVALID_OBJECT_DEFINITION),
        ("current_user = name", SqlState::INVALID_OBJECT_DEFINITION),
        ("ctid IS NULL", SqlState::INVALID_COLUMN_REFERENCE),
        ("t IS NULL", SqlState::INVALID_COLUMN_REFERENCE),
        ("public.mine(id)", SqlState::UNDEFINED_FUNCTION),
        (
            "EXISTS (SELECT FROM public.secrets)",
            SqlState::UNDEFINED_TABLE,
        ),
    ] {
        let literal = condition.replace('\'', "''");
        let error = db
            .error(&format!("SELECT crm.push(1, condition => '{literal}')"))
            .await;
        assert_eq!(error.code(), &code, "{condition}: {error:?}");
        assert!(
            error
                .message()
                .starts_with("invalid condition on public.t: "),
            "{error:?}"
        );
        assert!(error.hint().is_some(), "{error:?}");
    }
    // These say what they mean, and null is no yes.
    db.execute("SELECT crm.push(1, condition => 'id > 1 -- not the first'), crm.push(1, condition => 'CASE WHEN id < 0 THEN true END')")
        .await;
    db.drain().await;
    assert_eq!(records(&db, "true").await, 2);
    for (columns, code) in [
        ("'{nothing}'", SqlState::UNDEFINED_COLUMN),
        ("'{age}'", SqlState::UNDEFINED_COLUMN),
        ("'{}'", SqlState::INVALID_PARAMETER_VALUE),
        ("'{name,NULL}'", SqlState::INVALID_PARAMETER_VALUE),
    ] {
        let error = db.error(&format!("SELECT crm.push(1, {columns})")).await;
        assert_eq!(error.code(), &code, "{columns}: {error:?}");
    }
}

/// A condition that fails for a row ends its push, and nothing else.
#[tokio::test]
async fn a_condition_that_fails_ends_its_push() {
    let db = loaded(3, "on_insert => 'create', enabled => false").await;
    db.execute("SELECT crm.push(1, condition => '10 / (id - 2) > 0'), crm.push(1, condition => 'age > 0'), crm.push(1, condition => 'id = 3')")
        .await;
    db.execute("ALTER TABLE t DROP age; SELECT crm.enable(1)")
        .await;
    eventually("the pushes end", async || {
        (db.count("crm.scan_request").await == 0).then_some(())
    })
    .await;
    db.drain().await;
    assert_eq!(records(&db, "true").await, 1);
    let why: String = db.one("SELECT last_error FROM crm.status_wide", &[]).await;
    assert!(why.contains("because its condition failed"), "{why}");
}

/// With the owner's rights and nobody else's.
#[tokio::test]
async fn a_condition_runs_with_the_owners_rights() {
    let db = loaded(3, "on_insert => 'create', enabled => false").await;
    let name: String = db.one("SELECT current_database()::text", &[]).await;
    db.execute(&format!(
        "CREATE ROLE {name}_owner; GRANT CREATE ON SCHEMA public TO {name}_owner; ALTER TABLE t OWNER TO {name}_owner;
         CREATE FUNCTION pg_catalog.who() RETURNS name LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_user; END $$;
         SELECT crm.push(1, condition => 'who() = ''{name}_owner'' AND id = 2'); SELECT crm.enable(1)"
    ))
    .await;
    let error = db
        .error("SELECT crm.push(1, condition => 'pg_read_file(''PG_VERSION'') IS NOT NULL')")
        .await;
    assert_eq!(
        error.code(),
        &SqlState::INVALID_OBJECT_DEFINITION,
        "{error:?}"
    );
    db.drain().await;
    assert_eq!(records(&db, "fields ->> 'external_key' = '2'").await, 1);
    assert_eq!(records(&db, "true").await, 1);
}

/// A row that is inserted between the scan for the condition and that for the filter takes the
/// place of another in the second: that one is left to the next part.
#[tokio::test]
async fn a_row_inserted_meanwhile_displaces_no_other() {
    let arguments = "on_insert => 'create', filter => 'id > 1', enabled => false";
    let db = loaded(30, arguments).await;
    db.execute(
        "UPDATE t SET id = id + 100;
         CREATE FUNCTION pg_catalog.another() RETURNS void LANGUAGE plpgsql VOLATILE AS
         $$ BEGIN INSERT INTO public.t (id, name) VALUES (50, 'another') ON CONFLICT DO NOTHING; END $$;
         CREATE FUNCTION pg_catalog.adds(id int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
         $$ BEGIN PERFORM pg_catalog.another(); RETURN true; END $$;
         SELECT crm.push(1, condition => 'adds(id)'); SELECT crm.enable(1)",
    )
    .await;
    db.drain().await;
    assert_eq!(db.count("t WHERE id = 50").await, 1);
    assert_eq!(records(&db, "true").await, 31);
    db.assert_checked().await;
}

/// A worker that comes after another goes on where that one was.
#[tokio::test]
async fn a_push_goes_on_where_it_was() {
    let cluster = Cluster::with(&[("pg_crm.failpoints", "recapture::part:terminate")]);
    let db = loaded_in(&cluster, 2500, CREATES).await;
    let first = db.worker().await;
    db.execute("SELECT crm.push(1)").await;
    db.worker_after(first).await;
    db.drain().await;
    let log = cluster.log();
    assert!(
        log.contains("pg_crm pushed 2500 of 2500 rows of public.t"),
        "{}",
        cluster.log_tail()
    );
    assert_eq!(records(&db, "true").await, 2500);
    // Each row was captured once.
    let created = "crm.audit_log WHERE operation = 'create'";
    assert_eq!(db.count(created).await, 2500);
    db.assert_checked().await;
}

/// A condition that is slow keeps other maps waiting for a moment at a time, and gets on all the
/// same; one that takes too long for a row ends its push.
#[tokio::test]
async fn a_slow_condition_keeps_no_other_map_waiting() {
    let db = loaded(60, CREATES).await;
    // Only functions of the catalog can be named. These lie about what they do.
    db.execute(
        "CREATE FUNCTION pg_catalog.slow(id int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
         $$ BEGIN PERFORM pg_sleep(CASE WHEN id = 61 THEN 60 ELSE 0.2 END); RETURN true; END $$;
         CREATE TABLE other (id int PRIMARY KEY, name text);
         SELECT crm.map_object('s', 'other', 'account', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(2, 'name', 'name')",
    )
    .await;
    let push: i64 = db
        .one("SELECT crm.push(1, condition => 'slow(id)')", &[])
        .await;
    let done = format!(
        "SELECT coalesce(max(compared), 60) FROM crm.scan_request WHERE request_id = {push}"
    );
    let done = async || db.one::<i64>(&done, &[]).await;
    eventually("the push has begun", async || {
        (done().await > 0).then_some(())
    })
    .await;
    for n in 1..=5 {
        db.execute(&format!("INSERT INTO other VALUES ({n}, 'n')"))
            .await;
        let created = format!("crm_object = 'account' AND fields ->> 'external_key' = '{n}'");
        eventually("the other map has its turn", async || {
            (records(&db, &created).await == 1).then_some(())
        })
        .await;
        assert!(done().await < 60, "while the push goes on");
    }
    db.drain().await;
    assert_eq!(records(&db, "crm_object = 'contact'").await, 60);
    db.execute("INSERT INTO t (id, name) VALUES (61, 'name 61'), (62, 'name 62')")
        .await;
    db.drain().await;
    db.execute("SELECT crm.push(1, condition => 'id > 60 AND slow(id)')")
        .await;
    eventually("the push has ended", async || {
        (db.count("crm.scan_request").await == 0).then_some(())
    })
    .await;
    let why = "SELECT last_error FROM crm.status_wide WHERE map_id = 1";
    let why: String = db.one(why, &[]).await;
    assert!(why.contains("longer than 1 s for one row"), "{why}");
    db.assert_checked().await;
}
