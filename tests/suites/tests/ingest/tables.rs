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
