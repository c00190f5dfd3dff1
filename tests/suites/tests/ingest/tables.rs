//! Rows are written as the application would write them, whatever its tables are like.

use crm_suites::{Database, Live, Vendor};

use crate::CLUSTER;

/// A database with a connection to the stub and this table `t`, mapped as a contact, which these fields of the CRM go into.
async fn taking(table: &str, fields: &[(&str, &str)]) -> Live {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute(&format!("SELECT crm.unmap_object({})", live.map))
        .await;
    live.db.execute(table).await;
    let map = "SELECT crm.map_object('stub', 't', 'contact', external_id_field => 'external_key', on_insert => 'create',
                                     on_crm_insert => 'insert', on_crm_delete => 'delete')";
    let map: i32 = live.db.one(map, &[]).await;
    for (column, field) in fields {
        let sql = "SELECT crm.map_field($1, $2::text::name, $3)";
        live.db.rows(sql, &[&map, column, field]).await;
    }
    live
}

/// Somebody edits every record in the CRM.
async fn edited(db: &Database, fields: &str) {
    let sql = format!("UPDATE crm_stub.records SET fields = fields || '{fields}'");
    db.execute(&sql).await;
}

async fn made(db: &Database, records: &[&str]) {
    for fields in records {
        let sql = format!(
            "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'contact', '{fields}')"
        );
        db.execute(&sql).await;
    }
}

async fn nothing_is_open(live: &Live) {
    let open = "SELECT coalesce((SELECT string_agg(record_key || ': ' || error, '; ') FROM crm.dead_letters), '')
                       || coalesce((SELECT string_agg(c::text, '; ') FROM crm.conflicts c), '')";
    assert_eq!(live.db.text(open).await, "");
}

#[tokio::test]
async fn columns_that_are_not_mapped_may_be_of_types_that_are_never_empty() {
    let live = taking(
        "CREATE SCHEMA kinds;
         CREATE DOMAIN kinds.code AS text NOT NULL;
         CREATE DOMAIN kinds.\"Short\" AS varchar(3) NOT NULL CHECK (VALUE <> '');
         CREATE TYPE kinds.\"mood \" AS ENUM ('sad', 'glad');
         CREATE TYPE kinds.pair AS (a int, b kinds.code);
         CREATE TABLE t (id int PRIMARY KEY, name text, c kinds.code DEFAULT 'x', short kinds.\"Short\" DEFAULT 'abc',
                         mood kinds.\"mood \", tags kinds.\"mood \"[], pair kinds.pair, twice int GENERATED ALWAYS AS (id * 2) STORED)",
        &[("name", "last_name"), ("short", "x_short"), ("mood", "x_mood"), ("tags", "x_tags"), ("pair", "x_pair")],
    )
    .await;
    live.db.execute("INSERT INTO t VALUES (1, 'Ada')").await;
    live.db.drain().await;
    edited(
        &live.db,
        r#"{"last_name": "Ada, edited", "x_short": "new", "x_mood": "glad", "x_tags": ["sad", "glad"], "x_pair": {"a": 1, "b": "y"}}"#,
    )
    .await;
    made(
        &live.db,
        &[r#"{"last_name": "Bob", "external_key": "2", "x_short": "bob", "x_mood": "sad", "x_pair": {"a": 2, "b": "z"}}"#],
    )
    .await;
    live.ingest().await;
    nothing_is_open(&live).await;
    let rows = "SELECT t::text FROM t ORDER BY id";
    assert_eq!(
        live.db.all::<String>(rows, &[]).await,
        [
            r#"(1,"Ada, edited",x,new,glad,"{glad,sad}","(1,y)",2)"#,
            r#"(2,Bob,x,bob,sad,,"(2,z)",4)"#
        ]
    );
    // What the type refuses is refused as ever.
    edited(&live.db, r#"{"x_short": "much too long"}"#).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 2);
    edited(&live.db, r#"{"x_short": "ok"}"#).await;
    live.ingest().await;
    let write = r#"SELECT outcome FROM crm.write('t', '1', '{"name": "written", "mood": "sad", "pair": {"a": 3, "b": "w"}}')"#;
    assert_eq!(live.db.text(write).await, "committed");
    let row = "SELECT concat_ws(' ', name, mood, pair) FROM t WHERE id = 1";
    assert_eq!(live.db.text(row).await, "written sad (3,w)");
}

#[tokio::test]
async fn constraints_that_are_put_off_are_checked_with_each_row() {
    let live = taking(
        "CREATE TABLE par (id int PRIMARY KEY);
         INSERT INTO par VALUES (1), (2);
         CREATE TABLE t (id int PRIMARY KEY, name text, a int REFERENCES par DEFERRABLE INITIALLY DEFERRED,
                         b int REFERENCES par DEFERRABLE INITIALLY DEFERRED)",
        &[("name", "last_name"), ("a", "x_a")],
    )
    .await;
    live.db.execute("INSERT INTO t VALUES (1, 'one', 1)").await;
    live.db.drain().await;
    edited(&live.db, r#"{"x_a": 2, "last_name": "one, edited"}"#).await;
    made(
        &live.db,
        &[
            r#"{"last_name": "two", "x_a": 1, "external_key": "2"}"#,
            r#"{"last_name": "no parent", "x_a": 7, "external_key": "3"}"#,
        ],
    )
    .await;
    live.ingest().await;
    let rows = "SELECT t::text FROM t ORDER BY id";
    let rows = live.db.all::<String>(rows, &[]).await;
    assert_eq!(rows, [r#"(1,"one, edited",2,)"#, "(2,two,1,)"]);
    let dead: Vec<String> = live.db.all("SELECT error FROM crm.dead_letters", &[]).await;
    assert!(dead.len() == 1 && dead[0].contains("t_a_fkey"), "{dead:?}");
    // A caller's own transaction checks them when its caller has it so.
    let session = live.db.session().await;
    session.execute("BEGIN").await;
    let write = r#"SELECT outcome FROM crm.write('t', '1', '{"a": 9}')"#;
    assert_eq!(session.text(write).await, "committed");
    session.execute("INSERT INTO par VALUES (9); COMMIT").await;
    assert_eq!(
        live.db.text("SELECT a::text FROM t WHERE id = 1").await,
        "9"
    );
}

#[tokio::test]
async fn rows_that_need_each_other_come_in_in_any_order() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, boss int REFERENCES t)",
        &[("name", "last_name"), ("boss", "x_boss")],
    )
    .await;
    let session = live.db.session().await;
    session
        .execute("INSERT INTO t VALUES (1, 'ada', NULL), (2, 'bob', NULL)")
        .await;
    live.db.drain().await;
    // Bosses come last; one that is none of ours is among them; a name goes on to a new row, and another to whom it was not.
    let edit = "UPDATE crm_stub.records SET fields = fields || CASE fields->>'external_key'
                WHEN '1' THEN '{\"last_name\": \"ada the elder\", \"x_boss\": 6}'::jsonb ELSE '{\"x_boss\": 77}' END";
    live.db.execute(edit).await;
    made(
        &live.db,
        &[
            r#"{"last_name": "ada", "external_key": "3", "x_boss": 4}"#,
            r#"{"last_name": "four", "external_key": "4", "x_boss": 5}"#,
            r#"{"last_name": "five", "external_key": "5", "x_boss": 6}"#,
            r#"{"last_name": "six", "external_key": "6"}"#,
        ],
    )
    .await;
    live.ingest().await;
    let rows = "SELECT concat_ws(' ', id, name, boss) FROM t ORDER BY id";
    assert_eq!(
        live.db.all::<String>(rows, &[]).await,
        [
            "1 ada the elder 6",
            "2 bob",
            "3 ada 4",
            "4 four 5",
            "5 five 6",
            "6 six"
        ]
    );
    let dead: Vec<String> = live
        .db
        .all("SELECT record_key FROM crm.dead_letters", &[])
        .await;
    assert_eq!(dead, ["2"]);
}
