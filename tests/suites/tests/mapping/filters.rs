//! Filters of maps: what they may say, as whom they run, and what becomes of them when the table
//! changes.

use crm_suites::{Database, Desk, Need, SqlState, Vendor, lacks};

use crate::CLUSTER;

const MAP: &str = "SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create', on_delete => 'delete', ";

async fn table(filter: &str) -> Database {
    let db = CLUSTER.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE DOMAIN short AS varchar(5);
         CREATE TABLE t (id int PRIMARY KEY, name text, mood mood, day timestamptz, \"or\"\"d\" char(5), nick short, ord numeric(8, 3)[]);
         {MAP} filter => $f${filter}$f$);
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound')"
    ))
    .await;
    db
}

async fn count(db: &Database) -> i64 {
    db.count("crm_stub.records WHERE NOT deleted").await
}

#[tokio::test]
async fn a_filter_is_a_condition_over_the_tables_own_columns() {
    let db = table("id > 0").await;
    for (filter, code) in [
        ("true", SqlState::INVALID_PARAMETER_VALUE),
        ("id =", SqlState::SYNTAX_ERROR),
        ("nothing = 1", SqlState::UNDEFINED_COLUMN),
        ("id", SqlState::DATATYPE_MISMATCH),
        ("day > now()", SqlState::INVALID_OBJECT_DEFINITION),
        // Read once, when the condition is: another moment in each session.
        ("day < 'now'", SqlState::INVALID_OBJECT_DEFINITION),
        (
            "day <= timestamptz 'Today'",
            SqlState::INVALID_OBJECT_DEFINITION,
        ),
        (
            "day::date = '2026-01-01'",
            SqlState::INVALID_OBJECT_DEFINITION,
        ),
        ("id IN (SELECT 1)", SqlState::FEATURE_NOT_SUPPORTED),
        ("rank() OVER () = 1", SqlState::WINDOWING_ERROR),
    ] {
        let literal = filter.replace('\'', "''");
        for statement in [
            format!("SELECT crm.alter_map(1, filter => '{literal}')"),
            format!("SELECT crm.map_object('s', 't', 'account', filter => '{literal}')"),
        ] {
            let error = db.error(&statement).await;
            assert_eq!(error.code(), &code, "{statement}: {error:?}");
            assert!(error.hint().is_some(), "{error:?}");
        }
    }
    let always = db
        .error("SELECT crm.alter_map(1, capture => 'always')")
        .await;
    assert_eq!(always.code(), &SqlState::FEATURE_NOT_SUPPORTED);
    let out = db
        .error("SELECT crm.alter_map(1, on_filter_out => 'drop')")
        .await;
    assert_eq!(out.code(), &SqlState::INVALID_PARAMETER_VALUE);
    db.assert_checked().await;
}

/// Columns of all sorts, with names that a statement might use itself, and an UPDATE in which rows
/// of every kind meet.
#[tokio::test]
async fn rows_are_judged_by_columns_of_any_type() {
    let db = table(
        "mood = 'happy' AND (day IS NULL OR day >= '2026-01-01 00:00:00+00') AND \"or\"\"d\" IS DISTINCT FROM 'no'
         AND nick IS DISTINCT FROM 'x' AND coalesce(ord[1], 0.5) = 0.5 -- and no more",
    )
    .await;
    db.execute(
        "INSERT INTO t (id, name, mood, day, \"or\"\"d\", nick, ord)
         VALUES (1, 'in', 'happy', '2026-01-01 00:00:00+00', NULL, 'a', '{0.500}'), (2, 'sad', 'sad', NULL, NULL, NULL, NULL),
                (3, 'early', 'happy', '2025-12-31 23:59:59.999999+00', NULL, NULL, NULL), (4, 'no', 'happy', NULL, 'no', NULL, NULL),
                (5, 'x', 'happy', NULL, NULL, 'x', NULL), (6, 'ord', 'happy', NULL, NULL, NULL, '{0.501}'), (7, 'null', NULL, NULL, NULL, NULL, NULL),
                (8, 'in too', 'happy', NULL, 'yes', 'y', NULL)",
    )
    .await;
    db.drain().await;
    assert_eq!(count(&db).await, 2);
    // One enters, one leaves, one changes, one stays outside.
    db.execute("SELECT crm.alter_map(1, on_filter_out => 'delete')")
        .await;
    db.execute("UPDATE t SET mood = CASE id WHEN 2 THEN 'happy' WHEN 1 THEN 'sad' ELSE mood END::mood, name = 'new' WHERE id IN (1, 2, 7, 8)")
        .await;
    db.drain().await;
    let names = "SELECT string_agg(concat(fields ->> 'external_key', fields ->> 'last_name'), ' ' ORDER BY fields ->> 'external_key')
                 FROM crm_stub.records WHERE NOT deleted";
    assert_eq!(db.text(names).await, "2new 8new");
    db.assert_checked().await;
}

/// With the owner's rights, whoever changes the row.
#[tokio::test]
async fn a_filter_runs_as_the_owner_of_the_table() {
    let db = table("id > 0").await;
    let name: String = db.one("SELECT current_database()::text", &[]).await;
    db.execute(&format!(
        "CREATE ROLE {name}_owner; GRANT CREATE ON SCHEMA public TO {name}_owner; ALTER TABLE t OWNER TO {name}_owner;
         CREATE FUNCTION pg_catalog.who() RETURNS name LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_user; END $$;
         SELECT crm.alter_map(1, filter => 'who() = ''{name}_owner'' AND 10 / id > 0');
         CREATE ROLE {name}_writer; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {name}_writer"
    ))
    .await;
    let writer = db.session().await;
    writer
        .execute(&format!(
            "SET ROLE {name}_writer; INSERT INTO t (id, name) VALUES (1, 'a'), (20, 'b'); UPDATE t SET name = 'c'"
        ))
        .await;
    db.drain().await;
    assert_eq!(count(&db).await, 1);
    db.assert_checked().await;
}

#[tokio::test]
async fn a_filter_whose_column_is_gone_stops_its_map() {
    let db = table("name <> 'no'").await;
    db.execute("INSERT INTO t (id, name) VALUES (1, 'a'), (2, 'no'), (3, 'c')")
        .await;
    db.drain().await;
    db.execute("SELECT crm.map_field(1, 'nick', 'x_nick', direction => 'outbound')")
        .await;
    for (alter, filter) in [
        ("ALTER TABLE t RENAME name TO title", "title <> 'no'"),
        (
            "ALTER TABLE t ADD flag bool",
            "flag IS NOT TRUE AND id <> 2",
        ),
        ("ALTER TABLE t DROP flag", "id <> 2"),
    ] {
        db.execute(alter).await;
        let state = "SELECT state FROM crm.status WHERE map_id = 1";
        let reason = "SELECT coalesce(reason, '') FROM crm.map_state WHERE map_id = 1";
        if !alter.contains("ADD") {
            assert_eq!(db.text(state).await, "error", "{alter}");
            let reason = db.text(reason).await;
            assert!(reason.contains("does not exist"), "{reason}");
            // Edits go on, and nothing is lost or deleted by them.
            db.execute("UPDATE t SET nick = 'n' || id; INSERT INTO t (id) VALUES (9); DELETE FROM t WHERE id = 9")
                .await;
        }
        db.execute(&format!(
            "SELECT crm.alter_map(1, filter => $f${filter}$f$)"
        ))
        .await;
        db.drain().await;
        assert_eq!(count(&db).await, 2, "{alter}");
        db.assert_checked().await;
    }
    let nicks = "crm_stub.records WHERE fields ->> 'x_nick' = 'n' || (fields ->> 'external_key')";
    assert_eq!(db.count(nicks).await, 2);
}

#[tokio::test]
async fn a_filter_is_exported_and_imported() {
    let arguments = "on_insert => 'create', filter => 'notes = ''in''', on_filter_out => 'unlink'";
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, arguments).await;
    let document: crm_suites::Json = desk.db.one("SELECT crm.export_mapping()", &[]).await;
    desk.db
        .execute("SELECT crm.alter_map(1, filter => '', on_filter_out => 'ignore')")
        .await;
    let import = "SELECT count(*) FROM crm.import_mapping($1, false) WHERE action = 'alter'";
    assert_eq!(desk.db.one::<i64>(import, &[&document]).await, 1);
    let again: crm_suites::Json = desk.db.one("SELECT crm.export_mapping()", &[]).await;
    assert_eq!(again, document);
    desk.db.assert_checked().await;
}

/// The same answer wherever it is asked: by the collation of the column, and without the checks
/// that a domain got later.
#[tokio::test]
async fn a_filter_judges_values_as_their_columns_do() {
    if lacks(Need::Icu) {
        return;
    }
    let db = CLUSTER.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE DOMAIN tier AS text;
         CREATE TABLE t (id int PRIMARY KEY, name text, kind text COLLATE caseless, tier tier);
         {MAP} filter => $$kind = 'VIP' AND tier <> 'none'$$, on_filter_out => 'delete');
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound');
         INSERT INTO t VALUES (1, 'one', 'VIP', 'old'), (2, 'two', 'vip', 'old'), (3, 'three', 'other', 'old')"
    ))
    .await;
    db.drain().await;
    assert_eq!(count(&db).await, 2);
    db.execute("ALTER DOMAIN tier ADD CHECK (VALUE <> 'old') NOT VALID")
        .await;
    db.execute("UPDATE t SET kind = 'ViP', name = 'new', tier = 'new'")
        .await;
    db.drain().await;
    let renewed = "crm_stub.records WHERE NOT deleted AND fields ->> 'last_name' = 'new'";
    assert_eq!(db.count(renewed).await, 3);
    db.assert_checked().await;
}
