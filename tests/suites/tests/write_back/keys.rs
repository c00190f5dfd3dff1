//! Keys that can be spelt in more than one way: a row has one record, whatever spells its key.

use crm_suites::{Desk, Need, Vendor, json, lacks};
use serde_json::Value as Json;

use crate::CLUSTER;

/// A table `t` with a column `name`, mapped as accounts of the stub.
async fn map(desk: &Desk, arguments: &str) -> i32 {
    let sql = format!(
        "SELECT crm.map_object('stub', 't', 'account', on_delete => 'delete', {arguments})"
    );
    let map = desk.db.one(&sql, &[]).await;
    let sql = "SELECT crm.map_field($1, 'name', 'name', direction => 'bidirectional')";
    desk.db.rows(sql, &[&map]).await;
    map
}

const CREATE: &str = "external_id_field => 'external_key', on_insert => 'create'";

/// What the CRM holds: keys and names.
async fn held(desk: &Desk) -> String {
    desk.db.drain().await;
    desk.db.assert_checked().await;
    desk.db
        .text(
            "SELECT fields ->> 'external_key', fields ->> 'name' FROM crm_stub.records
             WHERE NOT deleted ORDER BY 1, 2",
        )
        .await
}

async fn keys(desk: &Desk) -> String {
    let sql = "SELECT shard_key || '/' || record_key FROM crm.ledger ORDER BY 1";
    desk.db.text(sql).await
}

async fn write(desk: &Desk, key: &str, name: &str) -> String {
    let sql = "SELECT outcome FROM crm.write('t', $1, $2)";
    let changes = json!({ "name": name });
    desk.db.one(sql, &[&key, &changes]).await
}

/// `UPDATE … SET k = 71.00 WHERE k = 71` changes no key for PostgreSQL.
#[tokio::test]
async fn a_number_is_one_key_whatever_its_scale() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE DOMAIN amount AS numeric CHECK (VALUE > 0);
             CREATE TABLE t (k amount PRIMARY KEY, name text);",
        )
        .await;
    map(&desk, CREATE).await;
    desk.db
        .execute("INSERT INTO t VALUES (71.0, 'a'), (1e3, 'c'), (0.50, 'd')")
        .await;
    assert_eq!(held(&desk).await, "0.5 | d\n1000 | c\n71 | a");
    desk.db
        .execute("UPDATE t SET k = 71.00, name = 'b' WHERE k = 71")
        .await;
    desk.db
        .execute("UPDATE t SET k = k * 1.0, name = name || '!'")
        .await;
    assert_eq!(held(&desk).await, "0.5 | d!\n1000 | c!\n71 | b!");
    assert_eq!(write(&desk, "71.000", "by call").await, "committed");
    assert_eq!(held(&desk).await, "0.5 | d!\n1000 | c!\n71 | by call");
    assert_eq!(keys(&desk).await, "/0.5\n/1000\n/71");
    desk.db.execute("DELETE FROM t").await;
    assert_eq!(held(&desk).await, "");
    assert_eq!(keys(&desk).await, "");
}

/// Arguments are spelt as the column's type spells them, and a text is what it is.
#[tokio::test]
async fn arguments_name_a_key_in_any_spelling() {
    let uuid = "6f1b4d3a-0000-4000-8000-00000000000a";
    for (kind, key, spellings) in [
        ("int", "7", &["7", "07", " 7 ", "+7"][..]),
        ("bigint", "-12", &["-12", "-012"]),
        ("numeric(8,2)", "7.5", &["7.5", "7.50", "75e-1"]),
        (
            "uuid",
            uuid,
            &[
                uuid,
                "6F1B4D3A000040008000-00000000000A",
                "{6f1b4d3a-0000-4000-8000-00000000000A}",
            ],
        ),
        ("char(5)", "ab", &["ab", "ab   "]),
        ("varchar(5)", "ab", &["ab"]),
    ] {
        let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
        desk.db
            .execute(&format!("CREATE TABLE t (k {kind} PRIMARY KEY, name text)"))
            .await;
        let map = map(&desk, CREATE).await;
        let id = "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'account', '{\"name\": \"a\"}') RETURNING crm_id";
        let id: String = desk.db.one(id, &[]).await;
        let odd = spellings[spellings.len() - 1];
        // At once, so that the worker does not create a record for the row.
        let insert = format!("BEGIN; INSERT INTO t VALUES ('{key}', 'a')");
        desk.db.execute(&insert).await;
        desk.db
            .rows("SELECT crm.link($1, $2, $3)", &[&map, &odd, &id])
            .await;
        desk.db.execute("COMMIT").await;
        desk.db.drain().await;
        for (n, spelling) in spellings.iter().enumerate() {
            let name = format!("{n}");
            assert_eq!(
                write(&desk, spelling, &name).await,
                "committed",
                "{kind} {spelling}"
            );
            let read: Json = desk
                .db
                .one("SELECT crm.read_live('t', $1)", &[spelling])
                .await;
            assert_eq!(read, json!({ "name": name }), "{kind} {spelling}");
        }
        assert_eq!(keys(&desk).await, format!("/{key}"), "{kind}");
    }
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute("CREATE TABLE t (k varchar(3) PRIMARY KEY, name text); INSERT INTO t VALUES ('01', 'a'), ('abc', 'b')")
        .await;
    map(&desk, "on_insert => 'ignore'").await;
    // Neither is another key, and none is cut to the column's length.
    for key in ["1", "01 ", "abcd"] {
        let call = format!("SELECT crm.write('t', '{key}', '{{\"name\": \"x\"}}')");
        let error = desk.db.error(&call).await;
        assert_eq!(error.code().code(), "P0002", "{key} {error:?}");
    }
}

/// Whatever the settings of the session that edits are.
#[tokio::test]
async fn a_shard_is_one_whatever_the_session_is_set_to() {
    for (kind, shard, as_key) in [
        ("date", "2026-02-03", "2026-02-03"),
        (
            "timestamptz",
            "2026-02-03 04:05:06.7+00",
            "2026-02-03 04:05:06.7+00",
        ),
        ("timestamp", "2026-02-03 04:05:06", "2026-02-03 04:05:06"),
        ("double precision", "0.1", "0.1"),
        ("numeric", "7.10", "7.1"),
        ("boolean", "true", "true"),
    ] {
        let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
        desk.db
            .execute(&format!(
                "CREATE TABLE t (shard {kind}, id int, name text, PRIMARY KEY (shard, id))"
            ))
            .await;
        let map = map(&desk, "shard_column => 'shard'").await;
        desk.db
            .execute(&format!("INSERT INTO t VALUES ('{shard}', 1, 'a')"))
            .await;
        let id = "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'account', '{\"name\": \"a\"}') RETURNING crm_id";
        let id: String = desk.db.one(id, &[]).await;
        let link = "SELECT crm.link($1, '1', $2, $3)";
        desk.db.rows(link, &[&map, &id, &shard]).await;
        desk.db
            .execute(
                "SET datestyle = 'German, DMY'; SET timezone = 'Asia/Kolkata'; SET extra_float_digits = -10;
                 SET intervalstyle = 'sql_standard'",
            )
            .await;
        desk.db.execute("UPDATE t SET name = 'c'").await;
        desk.db.drain().await;
        let name: String = desk
            .db
            .one("SELECT fields ->> 'name' FROM crm_stub.records", &[])
            .await;
        assert_eq!(name, "c", "{kind}");
        let call = "SELECT outcome FROM crm.write('t', '1', '{\"name\": \"d\"}', shard_key => $1)";
        let outcome: String = desk.db.one(call, &[&shard]).await;
        assert_eq!(outcome, "committed", "{kind}");
        assert_eq!(desk.db.text("SELECT name FROM t").await, "d", "{kind}");
        assert_eq!(keys(&desk).await, format!("{as_key}/1"), "{kind}");
        desk.db.assert_checked().await;
    }
}

/// Tenants share ids, and the primary key finds the row, not the tenants' rows one after another.
#[tokio::test]
async fn a_composite_key_is_found_by_its_index() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE TABLE t (tenant int, id int, name text, PRIMARY KEY (tenant, id));
             INSERT INTO t SELECT n / 10, n % 10, 'a' FROM generate_series(10, 20009) n; ANALYZE t",
        )
        .await;
    let map = map(&desk, "shard_column => 'tenant'").await;
    for tenant in ["1", "2"] {
        let id = "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'account', '{\"name\": \"a\"}') RETURNING crm_id";
        let id: String = desk.db.one(id, &[]).await;
        let link = "SELECT crm.link($1, '7', $2, $3)";
        desk.db.rows(link, &[&map, &id, &tenant]).await;
    }
    desk.db.drain().await;
    let read = "SELECT pg_stat_force_next_flush(), idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 't_pkey'";
    let before = desk.db.text(read).await;
    desk.db
        .execute("UPDATE t SET name = 'first' WHERE (tenant, id) = (1, 7)")
        .await;
    desk.db.drain().await;
    let call =
        "SELECT outcome FROM crm.write('t', '7', '{\"name\": \"second\"}', shard_key => '02')";
    assert_eq!(desk.db.one::<String>(call, &[]).await, "committed");
    let names = "SELECT fields ->> 'name' FROM crm_stub.records ORDER BY crm_id";
    assert_eq!(desk.db.text(names).await, "first\nsecond");
    let edited = "SELECT tenant, id, name FROM t WHERE name <> 'a' ORDER BY tenant";
    assert_eq!(desk.db.text(edited).await, "1 | 7 | first\n2 | 7 | second");
    // What the worker read is told with its next turn.
    desk.db
        .execute("UPDATE t SET name = 'again' WHERE (tenant, id) = (1, 7)")
        .await;
    desk.db.drain().await;
    let reads = |line: &str| -> i64 {
        let last = line.rsplit(" | ").next().unwrap_or_default();
        last.parse().unwrap_or_default()
    };
    let after = desk.db.text(read).await;
    let rows = reads(&after) - reads(&before);
    assert!(rows < 200, "{rows} entries of the index were read");
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_column_that_calls_different_texts_equal_is_no_key() {
    if lacks(Need::Icu) {
        return;
    }
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE DOMAIN code AS text COLLATE ci;
             CREATE TABLE a (k text COLLATE ci PRIMARY KEY);
             CREATE TABLE b (k code PRIMARY KEY);
             CREATE TABLE c (shard text COLLATE ci, k int, PRIMARY KEY (shard, k));
             CREATE TABLE d (shard interval, k int, PRIMARY KEY (shard, k));
             CREATE TABLE e (shard int, k int NOT NULL, UNIQUE (shard, k));
             CREATE TABLE f (k double precision PRIMARY KEY)",
        )
        .await;
    for (table, arguments, why) in [
        ("a", "", "nondeterministic collation"),
        ("b", "", "nondeterministic collation"),
        (
            "c",
            ", shard_column => 'shard'",
            "nondeterministic collation",
        ),
        ("d", ", shard_column => 'shard'", "cannot be a shard_column"),
        (
            "e",
            ", shard_column => 'shard', key_column => 'k'",
            "may be null",
        ),
        ("f", "", "cannot be a key"),
    ] {
        let call = format!("SELECT crm.map_object('stub', '{table}', 'account'{arguments})");
        let error = desk.db.error(&call).await;
        assert!(error.message().contains(why), "{table}: {error:?}");
        assert!(error.hint().is_some(), "{table}: {error:?}");
    }
    // Nor may a mapped column become one.
    desk.db
        .execute("CREATE TABLE t (k text PRIMARY KEY, name text)")
        .await;
    let map = map(&desk, CREATE).await;
    desk.db.execute("INSERT INTO t VALUES ('abc', 'a')").await;
    assert_eq!(held(&desk).await, "abc | a");
    desk.db
        .execute("ALTER TABLE t ALTER k TYPE text COLLATE ci")
        .await;
    let state = "SELECT state || ': ' || reason FROM crm.status WHERE map_id = $1";
    let reason: String = desk.db.one(state, &[&map]).await;
    assert!(
        reason.contains("error: key column \"k\" has a nondeterministic"),
        "{reason}"
    );
    let error = desk
        .db
        .error("UPDATE t SET k = 'ABC' WHERE k = 'abc'")
        .await;
    assert_eq!(error.code().code(), "0A000", "{error:?}");
    desk.db
        .execute("ALTER TABLE t ALTER k TYPE text COLLATE \"default\"")
        .await;
    desk.db.rows("SELECT crm.alter_map($1)", &[&map]).await;
    desk.db.execute("UPDATE t SET name = 'b'").await;
    assert_eq!(held(&desk).await, "abc | b");
}

/// What the CRM says of its field counts more than what is usual for it.
#[tokio::test]
async fn a_case_sensitive_field_holds_keys_that_differ_in_case() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    let spec = json!({"fields": [{"name": "Strict__c", "type": "string", "length": 20, "unique": true,
                                  "external_id": true, "case_sensitive": true}]});
    desk.crm.sim().post("schema/salesforce/Contact", &spec);
    desk.db
        .execute(
            "CREATE TABLE t (k text PRIMARY KEY, name text);
             SELECT crm.map_field(crm.map_object('salesforce', 't', 'Contact', external_id_field => 'Strict__c', on_insert => 'create'),
                                  'name', 'LastName', direction => 'outbound');
             INSERT INTO t VALUES ('abc', 'lower'), ('ABC', 'upper'), ('abc ', 'padded')",
        )
        .await;
    desk.db.flush().await;
    let records = desk.crm.records(&desk.db, "Contact").await;
    let mut names: Vec<String> = records
        .values()
        .map(|fields| format!("{} {}", fields["Strict__c"], fields["LastName"]))
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[0], "\"ABC\" \"upper\"");
    let dead = "SELECT vendor_code FROM crm.dead_letters";
    assert_eq!(desk.db.text(dead).await, "duplicate_identity");
    desk.db.assert_checked().await;
}
