//! Zoho's bulk write jobs: what goes by them, and what does not.

use crm_suites::{Crm, Desk, Vendor, json};

use crate::CLUSTER;

#[tokio::test]
async fn thousands_of_records_go_by_jobs() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Zoho, "on_insert => 'create'").await;
    desk.db
        .execute(
            "INSERT INTO people (id, first_name, last_name, email, phone)
             SELECT 'n' || n, E'O''Neil \"' || n || '\", Jr\nnext', 'Last; ' || n, 'n' || n || '@example.com', n
             FROM generate_series(1, 3000) n",
        )
        .await;
    desk.settle().await;
    let sim = desk.crm.sim();
    assert!(
        !sim.requests("/bulk/v8/write").is_empty(),
        "no job was used"
    );
    assert!(sim.requests("/upsert").is_empty(), "calls were used");
    sim.forget_requests();
    // What is to be cleared goes by calls, beside the job.
    desk.db
        .execute("UPDATE people SET phone = CASE WHEN right(id, 1) <> '7' THEN 'new' END")
        .await;
    desk.settle().await;
    let sent = |path: &str| sim.requests(path).len();
    assert_eq!(sent("/crm/v8/upload"), 1);
    let calls = sim.requests("/crm/v8/Contacts").into_iter();
    assert_eq!(calls.filter(|call| call["method"] == "PUT").count(), 3);
}

/// A scope that the token lacks keeps no record from being written, nor stops the connection.
#[tokio::test]
async fn without_a_right_to_jobs_records_go_by_calls() {
    let desk = Desk::open(&CLUSTER, Vendor::Zoho).await;
    desk.link(2500).await;
    let refused = json!({"code": "OAUTH_SCOPE_MISMATCH", "details": {}, "message": "invalid oauth scope", "status": "error"});
    desk.crm.fault(
        json!({"times": "unlimited", "path": "/crm/v8/org", "status": 401, "body": refused}),
    );
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    assert!(desk.crm.sim().requests("/crm/v8/upload").is_empty());
    let told = desk
        .db
        .text("SELECT state, last_error FROM crm.status_wide")
        .await;
    assert!(!told.contains("OAUTH"), "the connection goes on: {told}");
}

#[tokio::test]
async fn options_name_the_organisation_and_where_files_go() {
    let db = CLUSTER.database().await;
    let (name, options) = (
        Vendor::Zoho.name(),
        r#"{"upload_url": "http://files.acme.test"}"#,
    );
    let error = db
        .error(&format!("SELECT crm.create_connection(name => '{name}', provider => '{name}', options => '{options}')"))
        .await;
    let told = "upload_url \"http://files.acme.test\" is not allowed";
    assert_eq!(error.message(), told);
    let crm = Crm::connect_with(&db, Vendor::Zoho, r#"{"org_id": "673573045"}"#).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    desk.link(2500).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let sim = desk.crm.sim();
    assert!(sim.requests("/crm/v8/org").is_empty(), "it was told");
    assert!(!sim.requests("/crm/v8/upload").is_empty());
}
