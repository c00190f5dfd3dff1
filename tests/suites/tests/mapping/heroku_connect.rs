//! `crm.import_heroku_connect()`: tables that Heroku Connect kept in step go on from where it left
//! them, with their links.

use crm_suites::{Crm, Database, Json, Vendor, json};
use serde_json::Map;

use crate::CLUSTER;

/// Tables as Heroku Connect makes them; applications gave each contact a key.
const TABLES: &str = r#"
CREATE SCHEMA salesforce;
CREATE TABLE salesforce.account (
    createddate timestamp, isdeleted bool, name varchar(255), annualrevenue float8, systemmodstamp timestamp,
    sfid varchar(18) COLLATE "C" UNIQUE, id serial PRIMARY KEY, _hc_lastop varchar(32), _hc_err text
);
CREATE TABLE salesforce.contact (
    createddate timestamp, isdeleted bool, name varchar(121), firstname varchar(40), lastname varchar(80), phone varchar(40),
    accountid varchar(18), birthdate bool, external_key__c varchar(255) NOT NULL UNIQUE, systemmodstamp timestamp,
    sfid varchar(18) COLLATE "C" UNIQUE, id serial PRIMARY KEY, _hc_lastop varchar(32), _hc_err text
);
"#;

const IMPORT: &str = "SELECT concat_ws(' | ', object, item, outcome, detail) FROM crm.import_heroku_connect($1, 'salesforce', dry_run => $2)";

fn mapping(object: &str, access: &str, fields: &[&str], more: &Json) -> Json {
    let fields: Map<String, Json> = fields
        .iter()
        .map(|name| ((*name).to_owned(), json!({})))
        .collect();
    let mut config = json!({
        "access": access, "sf_notify_enabled": false, "sf_polling_seconds": 600,
        "fields": fields, "indexes": {"Id": {"unique": true}, "SystemModstamp": {"unique": false}},
    });
    for (name, value) in more.as_object().expect("options") {
        config[name] = value.clone();
    }
    json!({"object_name": object, "config": config})
}

fn document(mappings: &[Json]) -> Json {
    json!({
        "connection": {"app_name": "desk", "organization_id": "00D000000000001", "exported_at": "2026-01-02T03:04:05+00:00"},
        "mappings": mappings, "version": 1,
    })
}

fn people(contact: &Json, account: &Json) -> Json {
    const CONTACT: [&str; 9] = [
        "AccountId",
        "CreatedDate",
        "External_Key__c",
        "FirstName",
        "Id",
        "IsDeleted",
        "LastName",
        "Name",
        "SystemModstamp",
    ];
    const ACCOUNT: [&str; 6] = [
        "AnnualRevenue",
        "CreatedDate",
        "Id",
        "IsDeleted",
        "Name",
        "SystemModstamp",
    ];
    document(&[
        mapping("Contact", "read_write", &CONTACT, contact),
        mapping("Account", "read_only", &ACCOUNT, account),
    ])
}

async fn open() -> (Database, Crm) {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::Salesforce).await;
    db.execute(TABLES).await;
    (db, crm)
}

async fn create(db: &Database, crm: &Crm, object: &str, records: &[Json]) -> Vec<String> {
    let records: Vec<_> = records
        .iter()
        .filter_map(|r| r.as_object().cloned())
        .collect();
    crm.create(db, object, &records).await
}

async fn import(db: &Database, document: &Json, dry_run: bool) -> Vec<String> {
    db.all(IMPORT, &[document, &dry_run]).await
}

#[tokio::test]
async fn tables_go_on_with_their_links() {
    let (db, crm) = open().await;
    let contacts = [
        json!({"id": "k1", "first_name": "Ada", "last_name": "Byron"}),
        json!({"id": "k2", "first_name": "Charles", "last_name": "Babbage"}),
    ];
    let contacts = create(&db, &crm, "Contact", &contacts).await;
    let accounts = create(&db, &crm, "Account", &[json!({"firm": "Engines"})]).await;
    // The short spelling of an id, and the long one.
    let rows = format!(
        "INSERT INTO salesforce.contact (firstname, lastname, external_key__c, sfid)
         VALUES ('Ada', 'Byron', 'k1', '{}'), ('Charles', 'Babbage', 'k2', '{}');
         INSERT INTO salesforce.account (name, sfid) VALUES ('Engines', '{}')",
        &contacts[0][..15],
        contacts[1],
        accounts[0]
    );
    db.execute(&rows).await;
    let document = people(&json!({"upsert_field": "External_Key__c"}), &json!({}));

    let said = import(&db, &document, true).await;
    for table in ["crm.object_map", "crm.field_map", "crm.ledger"] {
        assert_eq!(db.count(table).await, 0, "{table} after a dry run");
    }
    let expected = [
        "Contact | table | mapped | map 1: salesforce.contact, key column external_key__c, disabled",
        "Contact | sfid | linked | 2 rows",
        "Contact | AccountId | mapped | bidirectional",
        "Contact | CreatedDate | mapped | inbound",
        "Contact | External_Key__c | mapped | external_id_field, which holds the key of the row",
        "Contact | FirstName | mapped | bidirectional",
        "Contact | Id | left out | kept as the link",
        "Contact | IsDeleted | left out | not needed: deleting a record deletes its row",
        "Contact | LastName | mapped | bidirectional",
        "Contact | Name | mapped | inbound: the CRM does not allow writes to \"Name\"",
        "Contact | SystemModstamp | mapped | inbound",
        "Account | table | mapped | map 2: salesforce.account, key column id, disabled",
        "Account | sfid | linked | 1 rows",
        "Account | AnnualRevenue | mapped | inbound",
        "Account | CreatedDate | mapped | inbound",
        "Account | Id | left out | kept as the link",
        "Account | IsDeleted | left out | not needed: deleting a record deletes its row",
        "Account | Name | mapped | inbound",
        "Account | SystemModstamp | mapped | inbound",
    ];
    // Ids are drawn from a sequence, which a dry run advances.
    let unnumbered = |lines: &[String]| -> Vec<String> {
        let cut = |line: &String| line.replace(char::is_numeric, "");
        lines.iter().map(cut).collect()
    };
    assert_eq!(
        unnumbered(&said),
        unnumbered(&expected.map(str::to_owned)),
        "{said:#?}"
    );
    assert_eq!(
        unnumbered(&import(&db, &document, false).await),
        unnumbered(&said)
    );
    let links: Vec<String> = db
        .all(
            "SELECT record_key || ' ' || crm_id FROM crm.ledger ORDER BY record_key",
            &[],
        )
        .await;
    let linked = [
        format!("1 {}", accounts[0]),
        format!("k1 {}", contacts[0]),
        format!("k2 {}", contacts[1]),
    ];
    assert_eq!(links, linked);
    let mapped = "SELECT count(*) FROM crm.field_map WHERE column_name = 'sfid'";
    assert_eq!(db.one::<i64>(mapped, &[]).await, 0);

    crm.forget(&db).await;
    db.execute("SELECT crm.enable(map_id) FROM crm.object_map")
        .await;
    assert!(db.flush().await);
    assert_eq!(crm.asked(&db).await, Vec::<String>::new());
    db.execute(
        "UPDATE salesforce.contact SET firstname = 'Augusta' WHERE external_key__c = 'k1';
         INSERT INTO salesforce.contact (firstname, lastname, external_key__c) VALUES ('Luigi', 'Menabrea', 'k3')",
    )
    .await;
    db.drain().await;
    crm.pass_time();
    crm.edit(
        &db,
        "Contact",
        &contacts[1],
        &json!({"first_name": "Chas."}),
    )
    .await;
    crm.edit(&db, "Account", &accounts[0], &json!({"firm": "Looms"}))
        .await;
    create(&db, &crm, "Account", &[json!({"firm": "Cards"})]).await;
    assert!(db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    db.drain().await;
    let records = crm.records(&db, "Contact").await;
    assert_eq!(records.len(), 3, "{records:?}");
    assert_eq!(records[&contacts[0]]["FirstName"], "Augusta");
    let names: Vec<String> = db
        .all(
            "SELECT firstname || ' ' || name FROM salesforce.contact ORDER BY external_key__c",
            &[],
        )
        .await;
    assert_eq!(
        names,
        [
            "Augusta Augusta Byron",
            "Chas. Chas. Babbage",
            "Luigi Luigi Menabrea"
        ]
    );
    let names: Vec<String> = db
        .all("SELECT name FROM salesforce.account ORDER BY id", &[])
        .await;
    assert_eq!(names, ["Looms", "Cards"]);
    assert_eq!(crm.records(&db, "Account").await.len(), 2);
    assert_eq!(
        db.count("crm.conflicts").await + db.count("crm.dead_letters").await,
        0
    );

    let again = import(&db, &document, false).await;
    assert_eq!(again.len(), 2, "{again:?}");
    for line in again {
        assert!(
            line.contains(" | table | not carried over | ")
                && line.contains("is already mapped to"),
            "{line}"
        );
    }
    assert_eq!(db.count("crm.object_map").await, 2);
    db.assert_checked().await;
}

/// Everything that is not carried over is named, and the rest is there.
#[tokio::test]
async fn what_cannot_be_carried_over_is_reported() {
    let (db, crm) = open().await;
    let contacts = [json!({"last_name": "One"}), json!({"last_name": "Two"})];
    let contacts = create(&db, &crm, "Contact", &contacts).await;
    db.execute(&format!(
        "ALTER TABLE salesforce.contact ALTER external_key__c DROP NOT NULL, DROP CONSTRAINT contact_sfid_key;
         INSERT INTO salesforce.contact (id, sfid) VALUES (1, '{}'), (2, '{1}'), (3, '{1}'), (4, 'nonsense'), (5, ''), (6, NULL);
         CREATE TABLE salesforce.lead (id serial PRIMARY KEY, lastname text)",
        contacts[0], contacts[1]
    ))
    .await;
    let fields = [
        "Birthdate",
        "External_Key__c",
        "LastName",
        "Nowhere__c",
        "Phone",
        "Title",
    ];
    let more = json!({
        "upsert_field": "External_Key__c", "sf_notify_enabled": true, "sf_polling_seconds": 10,
        "sf_max_daily_api_calls": 30000, "made_up": 1,
    });
    let mut contact = mapping("Contact", "read_write", &fields, &more);
    contact["config"]["fields"]["Phone"] = json!({"mask": true});
    contact["label"] = "People".into();
    let mut document = document(&[
        contact,
        mapping("Case", "read_only", &["Subject"], &json!({})),
        mapping("Lead", "read_only", &["LastName"], &json!({})),
        mapping("Account", "write_only", &["Name"], &json!({})),
        mapping("Account", "read_write", &["Name"], &json!({})),
    ]);
    document["more"] = json!({});
    let said = import(&db, &document, false).await;
    let expected = [
        "more | not carried over | not known",
        "Contact | table | mapped | ",
        "Contact | sfid | linked | 1 rows",
        "Contact | sfid | not carried over | 2 rows whose sfid is also that of another row: 2, 3",
        "Contact | sfid | not carried over | 1 rows whose sfid is not the id of a record: 4",
        "Contact | upsert_field | not carried over | column \"external_key__c\" of \"salesforce.contact\" may be null; ",
        "Contact | Birthdate | not carried over | ",
        "Contact | External_Key__c | mapped | bidirectional",
        "Contact | LastName | mapped | bidirectional",
        "Contact | Nowhere__c | not carried over | column \"nowhere__c\" of \"salesforce.contact\" does not exist",
        "Contact | Phone | not carried over | options {\"mask\": true}",
        "Contact | Phone | mapped | bidirectional",
        "Contact | Title | not carried over | column \"title\" of \"salesforce.contact\" does not exist",
        "Contact | sf_notify_enabled | not carried over | ",
        "Contact | sf_polling_seconds | not carried over | ingest_interval is 00:01:00",
        "Contact | sf_max_daily_api_calls | not carried over | ",
        "Contact | label | not carried over | not known",
        "Contact | made_up | not carried over | not known",
        "Case | table | not carried over | schema \"salesforce\" has no table \"case\"",
        "Lead | table | not carried over | column \"sfid\" of \"salesforce.lead\" does not exist",
        "Account | table | not carried over | access \"write_only\" is neither read_only nor read_write",
        "Account | table | mapped | ",
        "Account | sfid | linked | 0 rows",
        "Account | upsert_field | not carried over | none is given",
        "Account | Name | mapped | bidirectional",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (line, start) in said.iter().zip(expected) {
        assert!(line.starts_with(start), "{line} is not {start}: {said:#?}");
    }
    let maps: Vec<String> = db
        .all(
            "SELECT concat_ws(' ', relation::regclass, key_column, on_insert, on_delete, on_crm_insert, on_crm_delete, enabled)
             FROM crm.object_map ORDER BY map_id",
            &[],
        )
        .await;
    assert_eq!(
        maps,
        [
            "salesforce.contact id ignore delete insert delete f",
            "salesforce.account id ignore delete insert delete f"
        ]
    );
    assert_eq!(
        db.count("crm.ledger").await,
        1,
        "links of what is unambiguous"
    );
    db.assert_checked().await;
}

#[tokio::test]
async fn another_document_is_refused() {
    let (db, _crm) = open().await;
    for (document, word) in [
        ("null", "type null"),
        ("[]", "type array"),
        ("{}", "version"),
        (r#"{"version": 2, "mappings": []}"#, "version is 2"),
        (r#"{"version": 1}"#, "mappings"),
        (r#"{"version": 1, "mappings": {}}"#, "mappings"),
        (r#"{"version": 1, "mappings": [1]}"#, "not an object"),
        (r#"{"version": 1, "mappings": [{}]}"#, "object_name"),
        (
            r#"{"version": 1, "mappings": [{"object_name": "A"}]}"#,
            "config",
        ),
        (
            r#"{"version": 1, "mappings": [{"object_name": "A", "config": {}}]}"#,
            "access",
        ),
        (
            r#"{"version": 1, "mappings": [{"object_name": "A", "config": {"access": "read_only", "fields": []}}]}"#,
            "fields",
        ),
    ] {
        let sql = format!("SELECT * FROM crm.import_heroku_connect('{document}', 'salesforce')");
        let error = db.error(&sql).await;
        assert_eq!(error.code().code(), "22023", "{document}: {error:?}");
        let detail = error.detail().unwrap_or_default();
        assert!(detail.contains(word), "{document}: {error:?}");
        assert!(error.hint().is_some(), "{document}: {error:?}");
    }
    db.execute("SELECT crm.create_connection('stub', 'stub')")
        .await;
    let empty = r#"{"version": 1, "mappings": []}"#;
    for (connection, code) in [("stub", "22023"), ("nobody", "42704")] {
        let sql = format!("SELECT * FROM crm.import_heroku_connect('{empty}', '{connection}')");
        assert_eq!(db.error(&sql).await.code().code(), code, "{connection}");
    }
    let sql = format!("SELECT * FROM crm.import_heroku_connect('{empty}', 'salesforce')");
    assert_eq!(db.rows(&sql, &[]).await.len(), 0);
}

/// In parts, and whatever has another link is left alone.
#[tokio::test]
async fn many_rows_are_linked() {
    let (db, _crm) = open().await;
    db.execute(
        "INSERT INTO salesforce.contact (external_key__c, sfid)
         SELECT 'k' || n, '003000000' || lpad(n::text, 6, '0') FROM generate_series(1, 2500) AS n;
         CREATE SCHEMA other;
         CREATE TABLE other.contact (LIKE salesforce.contact INCLUDING ALL);
         INSERT INTO other.contact SELECT * FROM salesforce.contact WHERE id > 2498",
    )
    .await;
    let contacts = mapping("Contact", "read_only", &["LastName"], &json!({}));
    let document = document(&[contacts]);
    let said = import(&db, &document, false).await;
    assert!(
        said.contains(&"Contact | sfid | linked | 2500 rows".to_owned()),
        "{said:?}"
    );
    assert_eq!(db.count("crm.ledger WHERE length(crm_id) = 18").await, 2500);
    let said: Vec<String> = db
        .all(
            "SELECT detail FROM crm.import_heroku_connect($1, 'salesforce', 'other', false) WHERE item = 'sfid'",
            &[&document],
        )
        .await;
    assert_eq!(
        said,
        [
            "0 rows",
            "2 rows whose record is linked to a row of another map"
        ]
    );
    assert_eq!(db.count("crm.ledger").await, 2500);
    db.assert_checked().await;
}

/// The tables belong to others, and stay theirs.
#[tokio::test]
async fn an_admin_imports_tables_of_his_own() {
    let (db, _crm) = open().await;
    let admin = format!("{}_importer", db.name);
    db.execute(&format!(
        "CREATE ROLE {admin}; SELECT crm.grant_access('{admin}', 'admin'); GRANT USAGE ON SCHEMA salesforce TO {admin};
         ALTER TABLE salesforce.account OWNER TO {admin}; SET ROLE {admin}"
    ))
    .await;
    let tables = ["Account", "Contact"]
        .map(|object| mapping(object, "read_only", &["CreatedDate"], &json!({})));
    let said = import(&db, &document(&tables), false).await;
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].starts_with("Account | table | mapped"), "{said:?}");
    assert!(
        said[3].starts_with("Contact | table | not carried over | ") && said[3].contains("owner"),
        "{said:?}"
    );
    db.execute(&format!(
        "RESET ROLE; SELECT crm.unmap_object(map_id) FROM crm.object_map; DROP OWNED BY {admin} CASCADE; DROP ROLE {admin}"
    ))
    .await;
}
