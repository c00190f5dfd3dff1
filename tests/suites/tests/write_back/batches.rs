//! Batches: each record gets its own result, and none pays for another.

use crm_suites::{Crm, Desk, Json, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    a_batch_partial_success_is_not_dropped_silently,
    one_conflict_does_not_fail_the_whole_batch,
    results_are_tied_to_their_rows_in_any_order,
    an_update_of_a_record_that_was_deleted_there_is_not_lost_silently,
);

/// A code that each vendor gives one record of a batch and still takes the others.
fn refusal(vendor: Vendor) -> Json {
    match vendor {
        Vendor::Salesforce => json!("FIELD_CUSTOM_VALIDATION_EXCEPTION"),
        _ => json!("VALIDATION_ERROR"),
    }
}

async fn a_batch_partial_success_is_not_dropped_silently(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(30).await;
    // HubSpot refuses the whole batch for these, which must be split until only they are left.
    desk.crm.fault(json!({"times": "unlimited", "fail_records": {"keys": ["p7", "p23"], "code": refusal(vendor),
                          "message": "the phone is not to our liking", "fields": [vendor.field("phone")]}}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    let letters =
        "SELECT record_key FROM crm.dead_letters WHERE error_class = 'validation' ORDER BY 1";
    let dead = eventually("two dead letters", async || {
        let dead: Vec<String> = desk.db.all(letters, &[]).await;
        (dead.len() == 2).then_some(dead)
    });
    assert_eq!(dead.await, ["p23", "p7"]);
    let applied = "SELECT count(DISTINCT record_key) FROM crm.audit_log WHERE result = 'applied'";
    assert_eq!(desk.db.one::<i64>(applied, &[]).await, 28);
    assert_eq!(desk.field("p7", "phone").await, "+47 7");
    assert_eq!(desk.field("p8", "phone").await, "new");
    desk.db.assert_checked().await;
    let shown = desk.db.text("SELECT error FROM crm.dead_letters").await;
    assert!(shown.contains("not to our liking"), "the reason: {shown}");
    desk.crm.sim().end_faults();
    assert_eq!(desk.db.one::<i64>("SELECT crm.replay_all()", &[]).await, 2);
    desk.settle().await;
}

async fn one_conflict_does_not_fail_the_whole_batch(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(10).await;
    let (code, message) = match vendor {
        Vendor::Salesforce => ("DUPLICATE_VALUE", "duplicate value found: Email"),
        _ => ("CONFLICT", "A contact with this email exists"),
    };
    desk.crm.fault(json!({"times": "unlimited", "fail_records": {"keys": ["p4"], "code": code, "message": message}}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    for n in [1, 3, 5, 10] {
        assert_eq!(desk.field(&format!("p{n}"), "phone").await, "new", "p{n}");
    }
    desk.crm.sim().end_faults();
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
}

async fn results_are_tied_to_their_rows_in_any_order(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    // Two of them exist already, under ids of their own; one is refused.
    let existing = ["n5", "n2"].map(|key| {
        let cells = json!({"id": key, "last_name": "Old", "email": format!("{key}@example.com")});
        cells.as_object().cloned().unwrap_or_default()
    });
    desk.crm.create(&desk.db, vendor.people(), &existing).await;
    desk.crm.fault(json!({"times": "unlimited", "fail_records": {"keys": ["n6"], "code": refusal(vendor), "message": "no"}}));
    desk.db
        .execute(
            "INSERT INTO people (id, last_name, email)
             SELECT 'n' || n, 'Last ' || n, 'n' || n || '@example.com' FROM generate_series(1, 9) n",
        )
        .await;
    desk.db.flush().await;
    desk.crm.sim().end_faults();
    eventually("n6 is a dead letter", async || {
        (desk
            .db
            .count("crm.dead_letters WHERE record_key = 'n6'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    desk.db.execute("SELECT crm.replay_all()").await;
    // Every id was tied to its row, or names would differ.
    desk.settle().await;
    assert_eq!(
        desk.crm.records(&desk.db, vendor.people()).await.len(),
        9,
        "no twins"
    );
}

async fn an_update_of_a_record_that_was_deleted_there_is_not_lost_silently(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    let ids = desk.link(3).await;
    desk.crm.sim().delete(&format!(
        "objects/{}/{}/{}",
        vendor.name(),
        vendor.people(),
        ids[1]
    ));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    assert_eq!(desk.field("p1", "phone").await, "new");
    assert_eq!(desk.field("p3", "phone").await, "new");
    // on_crm_delete is unlink: the pair is forgotten, and the audit says so.
    assert_eq!(desk.crm_id("p2").await, None);
    let told = "crm.audit_log WHERE record_key = 'p2' AND error_class = 'not_found'";
    assert!(desk.db.count(told).await >= 1);
    desk.db.assert_checked().await;
}

/// More than HubSpot's or Salesforce's largest batch in one go; Salesforce takes it as a bulk job.
#[tokio::test]
async fn ten_thousand_records_go_in_bulk_to_salesforce() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Salesforce, "on_insert => 'create'").await;
    desk.db
        .execute(
            "INSERT INTO people (id, first_name, last_name, phone)
             SELECT 'n' || n, E'O''Neil \"' || n || '\", Jr\nnext', 'Last ' || n, nullif(n % 3, 0)
             FROM generate_series(1, 10000) n",
        )
        .await;
    desk.settle().await;
    let jobs = desk.crm.sim().requests("/jobs/ingest");
    assert!(!jobs.is_empty(), "no bulk job was used");
    assert!(
        desk.crm.sim().requests("/composite/sobjects").is_empty(),
        "collections were used"
    );
    desk.db
        .execute("UPDATE people SET phone = NULL, first_name = NULL")
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn bulk_results_are_tied_to_input_rows() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3000).await;
    let keys: Vec<String> = (1..=3000).step_by(500).map(|n| format!("p{n}")).collect();
    desk.crm.fault(json!({"times": "unlimited", "fail_records": {"keys": keys,
                          "code": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "message": "not this one"}}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    let dead = "SELECT record_key FROM crm.dead_letters ORDER BY substr(record_key, 2)::int";
    let found = eventually("dead letters of the refused rows", async || {
        let found: Vec<String> = desk.db.all(dead, &[]).await;
        (found.len() >= keys.len()).then_some(found)
    });
    assert_eq!(found.await, keys);
    desk.crm.sim().end_faults();
    desk.db.execute("SELECT crm.replay_all('salesforce')").await;
    desk.settle().await;
}

#[tokio::test]
async fn a_failed_bulk_job_is_no_silent_noop_when_retried() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3000).await;
    desk.crm.fault(json!({"times": 1, "fail_records": {"keys": ["p1500"], "code": "JOB_FAILED", "message": "later"}}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
}

/// HubSpot refuses a whole batch for one record's sake; the others must not wait for ever.
#[tokio::test]
async fn a_batch_refused_as_a_whole_is_split() {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    desk.map_field("source", "data_type => 'choice'").await;
    desk.link(100).await;
    // Not among the values of the property: the portal refuses the request.
    desk.db
        .execute("UPDATE people SET source = CASE id WHEN 'p42' THEN 'NONSENSE' ELSE 'NEW' END")
        .await;
    desk.db.flush().await;
    let dead = eventually("a dead letter", async || {
        let dead: Vec<String> = desk
            .db
            .all("SELECT record_key FROM crm.dead_letters", &[])
            .await;
        (!dead.is_empty()).then_some(dead)
    });
    assert_eq!(dead.await, ["p42"]);
    assert_eq!(desk.field("p41", "source").await, "NEW");
    assert_eq!(desk.field("p100", "source").await, "NEW");
    desk.db
        .execute("UPDATE people SET source = 'OPEN' WHERE id = 'p42'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p42", "source").await, "OPEN");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

#[tokio::test]
async fn an_unknown_field_stops_the_map_when_every_record_fails_so() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(10).await;
    let schema = "schema/salesforce/Contact";
    let sim = desk.crm.sim();
    sim.post(
        schema,
        &json!({"fields": [{"name": "Nonsense__c", "type": "string", "length": 80}]}),
    );
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'notes', 'Nonsense__c', direction => 'outbound')",
            desk.map
        ))
        .await;
    sim.post(schema, &json!({"remove": ["Nonsense__c"]}));
    desk.db.execute("UPDATE people SET notes = 'x'").await;
    eventually("the map is in error", async || {
        desk.db.flush().await;
        (desk.state().await == "error").then_some(())
    })
    .await;
    let why = desk
        .db
        .text("SELECT reason, last_error FROM crm.status")
        .await;
    assert!(why.contains("Nonsense__c"), "{why}");
    desk.db.assert_checked().await;
    desk.db
        .execute(&format!("SELECT crm.unmap_field({}, 'notes')", desk.map))
        .await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.db.execute("UPDATE people SET phone = 'goes on'").await;
    desk.settle().await;
}
