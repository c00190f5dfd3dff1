//! What a call may not say, or may not do to the table: an error that helps, and the CRM is not
//! asked at all.

use crm_suites::{Crm, Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(what_breaks_a_rule_never_reaches_the_crm);

async fn what_breaks_a_rule_never_reaches_the_crm(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.map_field(
        "title",
        r#"validation => '{"max_length": 5, "pattern": "^v"}'"#,
    )
    .await;
    live.db
        .execute(
            "CREATE TABLE cities (name text PRIMARY KEY); INSERT INTO cities VALUES ('Oslo');
             ALTER TABLE people ADD CHECK (phone <> 'bad'), ADD UNIQUE (email), ADD CHECK (length(first_name) < 20)",
        )
        .await;
    live.people(2).await;
    let call = |changes: &str| format!("SELECT crm.write('people', 'p1', '{changes}')");
    for (sql, code, word) in [
        (call(r#"{"title": "too long"}"#), "23514", "title"),
        (call(r#"{"phone": "bad"}"#), "23514", "phone"),
        (call(r#"{"email": "p2@b.example"}"#), "23505", "email"),
        (call(r#"{"last_name": null}"#), "23502", "last_name"),
        (call("{}"), "22023", "changes"),
        (call("[]"), "22023", "changes"),
        (call(r#"{"notes": "x"}"#), "22023", "not mapped"),
        (
            call(r#"{"nonsense": "x", "phone": "1"}"#),
            "22023",
            "nonsense",
        ),
        (call(r#"{"Phone": "1"}"#), "22023", "Phone"),
        (call(r#"{"id": "p9"}"#), "22023", "id"),
        (
            "SELECT crm.write('people', 'nobody', '{\"phone\": \"1\"}')".into(),
            "P0002",
            "nobody",
        ),
        (
            "SELECT crm.write('people', NULL, '{\"phone\": \"1\"}')".into(),
            "22004",
            "record_key",
        ),
        (
            "SELECT crm.write('cities', 'Oslo', '{\"name\": \"1\"}')".into(),
            "42704",
            "not mapped",
        ),
        (
            "SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}', connection => 'other')".into(),
            "42704",
            "other",
        ),
        (
            "SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}', base => '{\"notes\": 1}')"
                .into(),
            "22023",
            "notes",
        ),
        (
            "SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}', base => '3')".into(),
            "22023",
            "base",
        ),
        (
            "SELECT crm.write('people', 'p1', NULL)".into(),
            "22023",
            "changes",
        ),
        (
            "SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}', shard_key => 's')".into(),
            "22023",
            "shard_column",
        ),
    ] {
        let error = live.db.error(&sql).await;
        assert_eq!(error.code().code(), code, "{sql}: {error:?}");
        let told = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert!(
            told.contains(word) || error.column() == Some(word) || error.constraint().is_some(),
            "{sql}: {error:?}"
        );
    }
    assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
    assert_eq!(live.db.count("crm.pending_writes").await, 0);
    assert_eq!(live.db.dirty().await, 0);
    // A letter is no blank.
    live.write("p1", json!({"title": "v", "phone": "v v"}))
        .await
        .expect("committed");
    live.assert_both("p1", "phone", "v v").await;
    live.agree().await;
}

#[tokio::test]
async fn what_can_be_written_is_listed() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute(&format!(
            "SELECT crm.map_field({0}, 'title', 'x_title', direction => 'outbound');
             SELECT crm.map_field({0}, 'source', 'x_source', direction => 'inbound');
             SELECT crm.map_field({0}, 'notes', 'x_notes', materialize => false)",
            live.map
        ))
        .await;
    live.link(1).await;
    for (column, why) in [
        ("title", "mapped outbound"),
        ("source", "mapped inbound"),
        ("notes", "not written back"),
        ("born", "not mapped"),
    ] {
        let error = live
            .db
            .error(&format!(
                "SELECT crm.write('people', 'p1', '{{\"{column}\": \"x\"}}')"
            ))
            .await;
        assert_eq!(error.code().code(), "22023", "{error:?}");
        assert!(
            error.message().contains(why) && error.message().contains(column),
            "{error:?}"
        );
        assert_eq!(
            error.detail(),
            Some("Columns that can be written: first_name, last_name, email, phone.")
        );
        assert!(error.hint().is_some(), "{error:?}");
    }
    // An inbound column is read, and can be what an edit is based on.
    live.db
        .execute("UPDATE crm_stub.records SET fields = fields || '{\"x_source\": \"Web\"}'")
        .await;
    live.write_with(
        "p1",
        json!({"phone": "1"}),
        r#"base => '{"source": "Mail"}'"#,
    )
    .await
    .expect("conflict");
    let written = live
        .write_with(
            "p1",
            json!({"phone": "1"}),
            r#"base => '{"source": "Web"}'"#,
        )
        .await
        .expect("committed");
    assert_eq!(written.values["source"], "Web");
    let error = live
        .db
        .error(
            "SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}', base => '{\"title\": \"x\"}')",
        )
        .await;
    assert!(error.message().contains("base"), "{error:?}");
    live.agree().await;
}

/// The one CRM is asked while the caller waits, the other gets the edit as it gets any.
#[tokio::test]
async fn one_of_several_connections_must_be_named() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    let other = live.crm.connect_beside(&live.db, Vendor::HubSpot).await;
    let map: i32 = live
        .db
        .one("SELECT crm.map_object('hubspot', 'people', 'contacts', external_id_field => 'external_key', on_insert => 'create')", &[])
        .await;
    for column in ["first_name", "last_name", "phone"] {
        let sql = format!(
            "SELECT crm.map_field({map}, '{column}', '{}')",
            Vendor::HubSpot.field(column)
        );
        live.db.execute(&sql).await;
    }
    live.link(1).await;
    eventually_created(&live, &other).await;
    let error = live
        .db
        .error("SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}')")
        .await;
    assert_eq!(error.code().code(), "42P08", "{error:?}");
    let detail = error.detail().unwrap_or_default();
    assert!(
        detail.contains("salesforce") && detail.contains("hubspot"),
        "{error:?}"
    );
    for connection in ["salesforce", "hubspot"] {
        let phone = format!("by {connection}");
        live.write_with(
            "p1",
            json!({"phone": phone}),
            &format!("connection => '{connection}'"),
        )
        .await
        .expect("committed");
        live.quiet().await;
        live.assert_both("p1", "phone", &phone).await;
        let records = other.records(&live.db, "contacts").await;
        assert_eq!(
            records.into_values().next().map(|mut r| r.remove("phone")),
            Some(Some(Json::from(phone)))
        );
    }
    let read: Json = live
        .db
        .one("SELECT crm.read_live('people', 'p1', 'hubspot')", &[])
        .await;
    assert_eq!(
        read,
        json!({"first_name": "First 1", "last_name": "Last 1", "phone": "by hubspot"})
    );
    live.agree().await;
}

async fn eventually_created(live: &Live, other: &Crm) {
    live.db.flush().await;
    live.quiet().await;
    assert_eq!(other.records(&live.db, "contacts").await.len(), 1);
}
