//! Fields of a map: those that are not written back, and many of them.

use crm_suites::{Crm, Desk, Json, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(a_field_that_is_not_materialized_is_validated_and_not_written);

async fn a_field_that_is_not_materialized_is_validated_and_not_written(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    desk.link(2).await;
    desk.settle().await;
    let rule = r#"validation => '{"max_length": 5}'"#;
    desk.map_field("title", &format!("materialize => false, {rule}"))
        .await;
    let error = desk.db.error("UPDATE people SET title = 'too long'").await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    desk.db.at_rest().await;
    desk.db
        .execute(
            "UPDATE people SET title = 'short' WHERE id = 'p1';
             UPDATE people SET title = 'two', phone = '2' WHERE id = 'p2';
             INSERT INTO people (id, last_name, title) VALUES ('p3', 'Three', 'three')",
        )
        .await;
    let changed = "SELECT string_agg(DISTINCT column_name::text, ' ') FROM crm.cell_status
                   WHERE record_key IN ('p1', 'p2') AND state = 'changed'";
    assert_eq!(desk.db.text(changed).await, "phone");
    desk.settle().await;
    for key in ["p1", "p2", "p3"] {
        assert_eq!(desk.field(key, "title").await, Json::Null, "{key}");
    }
    let audited = format!("crm.audit_log WHERE fields ? '{}'", vendor.field("title"));
    assert_eq!(desk.db.count(&audited).await, 0);
    // From now on it is written; what was there is not.
    desk.map_field("title", "materialize => true").await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, Json::Null);
    desk.db
        .execute("UPDATE people SET title = 'new' WHERE id = 'p1'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "new");
    // That does not end while edits wait that would be lost.
    desk.db.at_rest().await;
    desk.db
        .execute("UPDATE people SET title = 'x', phone = 'x'")
        .await;
    let end = format!(
        "SELECT crm.alter_field({}, 'title', materialize => false)",
        desk.map
    );
    let error = desk.db.error(&end).await;
    assert_eq!(error.code().code(), "55006", "{error:?}");
    assert!(
        error.hint().unwrap_or_default().contains("crm.flush("),
        "{error:?}"
    );
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "x");
    desk.db.execute(&end).await;
    desk.db.execute("UPDATE people SET title = 'y'").await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "x");
    desk.map_field("title", "materialize => true").await;
    // What was edited while the field was not written is not in step, as a deep check would say.
    desk.db.drain().await;
    desk.assert_same().await;
    desk.db.execute("UPDATE people SET title = 'z'").await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "z");
}

/// How many columns are mapped: three words of a mask, the last of them almost empty.
const WIDE: usize = 131;

#[tokio::test]
async fn more_fields_than_a_word_of_the_mask_stub() {
    more_fields_than_a_word_of_the_mask(Vendor::Stub).await;
}

#[tokio::test]
async fn more_fields_than_a_word_of_the_mask_salesforce() {
    more_fields_than_a_word_of_the_mask(Vendor::Salesforce).await;
}

async fn more_fields_than_a_word_of_the_mask(vendor: Vendor) {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, vendor).await;
    let (object, key, name) = match vendor {
        Vendor::Stub => ("account", "external_key", "name"),
        _ => ("Account", "External_Key__c", "Name"),
    };
    let field = |n: usize| match vendor {
        Vendor::Stub => format!("x_{n}"),
        _ => format!("C{n}__c"),
    };
    if vendor != Vendor::Stub {
        let fields: Vec<Json> = (0..WIDE)
            .map(|n| json!({"name": field(n), "type": "string", "length": 255}))
            .collect();
        crm.sim()
            .post("schema/salesforce/Account", &json!({"fields": fields}));
    }
    let columns: Vec<String> = (0..WIDE).map(|n| format!("c{n} text")).collect();
    db.execute(&format!(
        "CREATE TABLE wide (id text PRIMARY KEY, name text, {})",
        columns.join(", ")
    ))
    .await;
    let map: i32 = db
        .one(
            &format!(
                "SELECT crm.map_object('{}', 'wide', '{object}', external_id_field => '{key}', on_insert => 'create')",
                vendor.name()
            ),
            &[],
        )
        .await;
    for n in 0..WIDE {
        // The column without which no account can be made is the last.
        db.execute(&format!(
            "SELECT crm.map_field({map}, 'c{n}', '{}', direction => 'outbound')",
            field(n)
        ))
        .await;
    }
    db.execute(&format!(
        "SELECT crm.map_field({map}, 'name', '{name}', direction => 'outbound')"
    ))
    .await;
    let values: Vec<String> = (0..WIDE).map(|n| format!("'{n} of ' || k")).collect();
    db.execute(&format!(
        "INSERT INTO wide SELECT 'w' || k, 'Name ' || k, {} FROM generate_series(1, 3) k",
        values.join(", ")
    ))
    .await;
    db.drain().await;
    db.assert_checked().await;
    assert_same(&db, &crm, object, key, &field).await;
    db.at_rest().await;
    // Cells at the ends of words, alone and together, and one edit after another before they are
    // sent.
    db.execute("UPDATE wide SET c63 = 'a' WHERE id = 'w1'; UPDATE wide SET c64 = 'b', c130 = NULL WHERE id = 'w1'")
        .await;
    db.execute("UPDATE wide SET c0 = 'c', c127 = 'd', c128 = 'e' WHERE id = 'w2'")
        .await;
    let changed = "SELECT string_agg(record_key || '.' || column_name, ' ' ORDER BY record_key, column_name COLLATE \"C\")
                   FROM crm.cell_status WHERE state = 'changed'";
    assert_eq!(
        db.text(changed).await,
        "w1.c130 w1.c63 w1.c64 w2.c0 w2.c127 w2.c128"
    );
    let dirty: i64 = db.one("SELECT dirty_cells FROM crm.status", &[]).await;
    assert_eq!(dirty, 6);
    db.drain().await;
    db.assert_checked().await;
    assert_same(&db, &crm, object, key, &field).await;
    let sent = "SELECT count(*) FROM crm.audit_log a, jsonb_object_keys(a.fields) WHERE operation = 'update'";
    assert_eq!(
        db.one::<i64>(sent, &[]).await,
        6,
        "only what had changed was sent"
    );
    // A column that comes when the others are there.
    db.execute("ALTER TABLE wide ADD late text").await;
    db.execute(&format!("SELECT crm.unmap_field({map}, 'c5')"))
        .await;
    db.execute(&format!(
        "SELECT crm.map_field({map}, 'late', '{}', direction => 'outbound')",
        field(5)
    ))
    .await;
    db.execute("UPDATE wide SET late = 'better', c64 = 'again'")
        .await;
    db.drain().await;
    db.assert_checked().await;
    for (_, record) in crm.records(&db, object).await {
        assert_eq!(record[&field(5)], "better");
        assert_eq!(record[&field(64)], "again");
    }
}

async fn assert_same(
    db: &crm_suites::Database,
    crm: &Crm,
    object: &str,
    key: &str,
    field: &impl Fn(usize) -> String,
) {
    let records = crm.records(db, object).await;
    assert_eq!(records.len(), 3);
    for (_, record) in records {
        let id = record[key].as_str().expect("a key");
        let row: Json = db
            .one("SELECT to_jsonb(w) FROM wide w WHERE id = $1", &[&id])
            .await;
        for n in 0..WIDE {
            let held = record.get(&field(n)).cloned().unwrap_or_default();
            assert_eq!(held, row[format!("c{n}")], "{id}: {n}");
        }
    }
}
