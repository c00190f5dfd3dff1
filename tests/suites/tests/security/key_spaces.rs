//! A CRM record goes with one row, over all tables that are mapped to its object.

use crm_suites::{Desk, Vendor};

use crate::{CLUSTER, refused, role};

async fn second_table(desk: &Desk) -> (String, crm_suites::Session) {
    let (owner, session) = role(&desk.db, "other", Some("admin")).await;
    desk.db
        .execute(&format!(
            "CREATE TABLE others (id text PRIMARY KEY, first_name text, last_name text, email text, phone text);
             ALTER TABLE others OWNER TO {owner}"
        ))
        .await;
    (owner, session)
}

#[tokio::test]
async fn two_tables_do_not_share_a_key_field() {
    let desk = Desk::open_with(
        &CLUSTER,
        Vendor::Stub,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    let (_, session) = second_table(&desk).await;
    let object = Vendor::Stub.people();
    let key = Vendor::Stub.field("id");
    for (object, key) in [
        (object.to_owned(), key.to_owned()),
        (object.to_uppercase(), key.to_uppercase()),
    ] {
        let error = session
            .error(&format!("SELECT crm.map_object('stub', 'others', '{object}', external_id_field => '{key}', on_insert => 'create')"))
            .await;
        assert_eq!(error.code().code(), "42710", "{error:?}");
        assert!(
            error.detail().unwrap_or_default().contains("people"),
            "{error:?}"
        );
        assert!(
            error
                .hint()
                .unwrap_or_default()
                .contains("its own external_id_field"),
            "{error:?}"
        );
    }
    // With a field of its own, or none, it may.
    session
        .execute(&format!(
            "SELECT crm.map_object('stub', 'others', '{object}', external_id_field => 'other_key')"
        ))
        .await;
    refused(
        &session,
        &format!(
            "SELECT crm.map_object('stub', 'people', '{object}', external_id_field => 'third_key')"
        ),
    )
    .await;
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_record_that_another_table_has_is_not_linked() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let ids = desk.link(2).await;
    let (_, session) = second_table(&desk).await;
    let object = Vendor::Stub.people();
    let other: i32 = session
        .one(
            &format!("SELECT crm.map_object('stub', 'others', '{object}')"),
            &[],
        )
        .await;
    session
        .execute("INSERT INTO others VALUES ('o1'), ('o2')")
        .await;
    let error = session
        .error(&format!("SELECT crm.link({other}, 'o1', '{}')", ids[0]))
        .await;
    assert_eq!(error.code().code(), "23505", "{error:?}");
    assert!(
        error.message().contains(&format!("map {}", desk.map)),
        "{error:?}"
    );
    // Where somebody forced it, check() tells.
    desk.db
        .execute(&format!(
            "INSERT INTO crm.ledger (map_id, record_key, crm_id) VALUES ({other}, 'o1', '{}')",
            ids[0]
        ))
        .await;
    let found = desk
        .db
        .text("SELECT rule || ': ' || detail FROM crm.check()")
        .await;
    assert!(
        found.contains("no duplicate link") && found.contains("record o1 of map"),
        "{found}"
    );
    desk.db
        .execute("DELETE FROM crm.ledger WHERE record_key = 'o1'")
        .await;
    desk.db.assert_checked().await;
}

/// The second table would take in every record of the object that it does not know.
#[tokio::test]
async fn a_record_that_another_table_has_is_not_taken_in() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(2).await;
    desk.db
        .execute("CREATE TABLE others (id text PRIMARY KEY DEFAULT gen_random_uuid(), first_name text, last_name text, email text, phone text)")
        .await;
    let object = Vendor::Stub.people();
    let other: i32 = desk
        .db
        .one(
            &format!(
                "SELECT crm.map_object('stub', 'others', '{object}', on_crm_insert => 'insert')"
            ),
            &[],
        )
        .await;
    for column in crm_suites::desk::COLUMNS {
        let field = Vendor::Stub.field(column);
        desk.db
            .execute(&format!(
                "SELECT crm.map_field({other}, '{column}', '{field}', direction => 'inbound')"
            ))
            .await;
    }
    desk.db
        .execute(&format!("SELECT crm.backfill({other})"))
        .await;
    assert_eq!(desk.db.count("others").await, 0);
    // One that nobody has is.
    let person = serde_json::json!({"first_name": "New", "last_name": "One", "email": "new@example.com", "phone": "1"});
    desk.crm
        .create(
            &desk.db,
            object,
            &[person.as_object().expect("an object").clone()],
        )
        .await;
    desk.db
        .execute(&format!("SELECT crm.ingest_now({other})"))
        .await;
    assert_eq!(desk.db.count("others").await, 1);
    desk.db.assert_checked().await;
}
