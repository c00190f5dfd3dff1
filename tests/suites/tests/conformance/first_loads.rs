//! First loads: rows that were there before the map, and columns that are mapped later.

use crm_suites::{Contestant, Desk, Live, SqlState, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    rows_that_are_there_are_pushed,
    what_people_typed_in_the_crm_is_compared_before_it_is_pushed_over,
    a_link_brings_the_key_to_the_record,
);

async fn rows_that_are_there_are_pushed(contestant: Contestant) {
    let arguments = "on_insert => 'create', enabled => false";
    let desk = Desk::open_with(&CLUSTER, contestant, arguments).await;
    desk.db
        .execute(
            "INSERT INTO people (id, last_name, phone) SELECT 'n' || n, 'Name ' || n, '+' || n FROM generate_series(1, 5) n",
        )
        .await;
    // Laid before anything moves.
    let push = format!(
        "SELECT crm.push({}, condition => 'last_name LIKE ''Name %'' AND right(id, 1)::int <= 3')",
        desk.map
    );
    desk.db.execute(&push).await;
    desk.db
        .execute(&format!("SELECT crm.enable({})", desk.map))
        .await;
    desk.db.drain().await;
    let people = desk.crm.vendor.people();
    assert_eq!(desk.crm.records(&desk.db, people).await.len(), 3);
    // Whom the CRM has is not created again.
    desk.db
        .execute(&format!("SELECT crm.push({})", desk.map))
        .await;
    desk.settle().await;
    assert_eq!(desk.crm.records(&desk.db, people).await.len(), 5);
    // Edits behind capture of one column alone.
    desk.db
        .execute(
            "ALTER TABLE people DISABLE TRIGGER USER;
             UPDATE people SET phone = '+47 ' || id, email = id || '@example.com';
             ALTER TABLE people ENABLE TRIGGER USER",
        )
        .await;
    desk.db
        .execute(&format!("SELECT crm.push({}, '{{phone}}')", desk.map))
        .await;
    desk.db.drain().await;
    assert_eq!(desk.field("n1", "phone").await, "+47 n1");
    assert_ne!(desk.field("n1", "email").await, "n1@example.com");
    desk.db
        .execute(&format!("SELECT crm.push({})", desk.map))
        .await;
    desk.settle().await;
}

/// A bidirectional column that is mapped later: an empty field is filled, what somebody typed
/// stands, and what the ledger knows is the base.
async fn what_people_typed_in_the_crm_is_compared_before_it_is_pushed_over(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(3).await;
    live.db
        .execute(
            "ALTER TABLE people DISABLE TRIGGER USER;
             UPDATE people SET first_name = 'Behind', phone = CASE id WHEN 'p1' THEN '+2' ELSE phone END;
             ALTER TABLE people ENABLE TRIGGER USER",
        )
        .await;
    live.edit_in_crm("p1", json!({"phone": "+3"})).await;
    // As a column that was just mapped, of which the ledger knows nothing.
    live.db
        .execute("UPDATE crm.ledger SET hashes = NULL, synced_at = NULL WHERE record_key <> 'p3'")
        .await;
    live.edit_in_crm("p2", json!({"first_name": ""})).await;
    live.crm.forget(&live.db).await;
    live.db
        .execute(&format!("SELECT crm.push({})", live.map))
        .await;
    live.db.drain().await;
    live.agree().await;
    live.assert_both("p1", "phone", "+3").await;
    live.assert_both("p1", "first_name", "Ada").await;
    live.assert_both("p2", "first_name", "Behind").await;
    live.assert_both("p3", "first_name", "Behind").await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
}

/// Records that are there and have no key: a link brings it.
async fn a_link_brings_the_key_to_the_record(contestant: Contestant) {
    let vendor = contestant.vendor;
    // Laid before anything moves.
    let arguments = "on_insert => 'ignore', enabled => false";
    let desk = Desk::open_with(&CLUSTER, contestant, arguments).await;
    let theirs = ["One", "Two"].map(|name| {
        let person = json!({"last_name": name, "phone": "theirs"});
        person.as_object().cloned().unwrap_or_default()
    });
    let ids = desk.crm.create(&desk.db, vendor.people(), &theirs).await;
    let link = |key: &str, id: &str, more: &str| {
        let map = desk.map;
        format!("SELECT crm.link({map}, '{key}', '{id}'{more})")
    };
    let error = desk.db.error(&link("p1", &ids[0], "")).await;
    assert_eq!(error.code(), &SqlState::NO_DATA_FOUND, "{error:?}");
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'One')")
        .await;
    let error = desk.db.error(&link("p1", "\t", "")).await;
    assert_eq!(
        error.code(),
        &SqlState::INVALID_PARAMETER_VALUE,
        "{error:?}"
    );
    desk.db.execute(&link("p1", &ids[1], "")).await;
    let error = desk.db.error(&link("p1", &ids[0], "")).await;
    assert_eq!(error.code(), &SqlState::UNIQUE_VIOLATION, "{error:?}");
    desk.db
        .execute(&link("p1", &ids[0], ", replace => true"))
        .await;
    desk.db
        .execute(&format!("SELECT crm.enable({})", desk.map))
        .await;
    desk.db.drain().await;
    let records = desk.crm.records(&desk.db, vendor.people()).await;
    let key = |id: &str| {
        records[id]
            .get(vendor.field("id"))
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(key(&ids[0]), json!("p1"));
    assert_ne!(key(&ids[1]), json!("p1"));
    // The rest of the record is as it was.
    assert_eq!(records[&ids[0]][vendor.field("phone")], json!("theirs"));
    desk.db.assert_checked().await;
}
