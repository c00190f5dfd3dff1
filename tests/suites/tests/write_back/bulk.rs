//! Bulk jobs of the vendors that have them, and what stops a map.

use crm_suites::{Desk, Vendor, eventually, json};

use crate::CLUSTER;

#[tokio::test]
async fn rows_that_a_job_of_salesforce_refuses_are_told_and_no_others() {
    refused_rows_are_told(Vendor::Salesforce, "FIELD_CUSTOM_VALIDATION_EXCEPTION").await;
}

#[tokio::test]
async fn rows_that_a_job_of_zoho_refuses_are_told_and_no_others() {
    refused_rows_are_told(Vendor::Zoho, "INVALID_DATA").await;
}

async fn refused_rows_are_told(vendor: Vendor, code: &str) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3000).await;
    let keys: Vec<String> = (1..=3000).step_by(500).map(|n| format!("p{n}")).collect();
    let refusal = json!({"keys": keys, "code": code, "message": "not this one"});
    desk.crm
        .fault(json!({"times": "unlimited", "fail_records": refusal}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    let dead = "SELECT record_key FROM crm.dead_letters ORDER BY substr(record_key, 2)::int";
    let found = eventually("dead letters of the refused rows", async || {
        let found: Vec<String> = desk.db.all(dead, &[]).await;
        (found.len() >= keys.len()).then_some(found)
    });
    assert_eq!(found.await, keys);
    assert_ne!(desk.crm.sim().requests(job(vendor)).len(), 0, "a job");
    if vendor == Vendor::Zoho {
        let why = "SELECT error FROM crm.dead_letters LIMIT 1";
        let why = desk.db.text(why).await;
        assert!(why.contains("the bulk job skipped it"), "{why}");
    }
    desk.db.assert_checked().await;
    desk.crm.sim().end_faults();
    desk.db
        .execute(&format!("SELECT crm.replay_all('{}')", vendor.name()))
        .await;
    desk.settle().await;
}

/// Part of the path of what makes a job.
fn job(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Zoho => "/bulk/v8/write",
        _ => "/jobs/ingest",
    }
}

#[tokio::test]
async fn a_job_of_salesforce_that_breaks_off_is_taken_up() {
    a_job_that_breaks_off_is_taken_up(Vendor::Salesforce).await;
}

#[tokio::test]
async fn a_job_of_zoho_that_breaks_off_is_taken_up() {
    a_job_that_breaks_off_is_taken_up(Vendor::Zoho).await;
}

async fn a_job_that_breaks_off_is_taken_up(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3000).await;
    desk.crm.fault(json!({"times": 1, "fail_records": {"keys": ["p1500"], "code": "JOB_FAILED", "message": "later"}}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    assert_eq!(desk.crm.sim().faults_left(), 0, "no job broke off");
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
        .text("SELECT reason, last_error FROM crm.status_wide")
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
