//! Bulk jobs of Salesforce, and what stops a map.

use crm_suites::{Desk, Vendor, eventually, json};

use crate::CLUSTER;

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
