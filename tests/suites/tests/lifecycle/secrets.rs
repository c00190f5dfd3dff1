//! Credentials by reference: read where the server keeps them, taken up again when they change,
//! shown nowhere.

use crm_suites::{Cluster, Desk, Vendor, eventually, json};

const ENV_SECRET: &str = "token-of-the-environment";
const FILE_SECRETS: [&str; 3] = [
    "token-of-the-file-1",
    "token-of-the-file-2",
    "token-of-the-file-3",
];

/// None of the secrets can be seen, whatever is logged.
async fn assert_secret(cluster: &Cluster, desk: &Desk) {
    let mut seen = cluster.log();
    assert!(seen.contains("set_credentials"), "statements are logged");
    for view in [
        "status",
        "cell_status",
        "audit_log",
        "dead_letters",
        "progress",
        "connection",
        "connection_state",
    ] {
        seen += &desk
            .db
            .text(&format!("SELECT to_jsonb(v) FROM crm.{view} v"))
            .await;
    }
    seen += &desk
        .db
        .text("SELECT to_jsonb(a) FROM pg_stat_activity a")
        .await;
    seen += &desk.db.text("SELECT secret FROM crm.credential").await;
    for word in FILE_SECRETS.into_iter().chain([ENV_SECRET]) {
        assert!(!seen.contains(word), "{word} can be seen");
    }
}

async fn set(desk: &Desk, reference: crm_suites::Json) {
    let credentials = json!({ "access_token": reference });
    desk.db
        .execute(&format!(
            "SELECT crm.set_credentials('hubspot', '{credentials}')"
        ))
        .await;
}

async fn admits(desk: &Desk, token: &str) {
    let sim = desk.crm.sim();
    sim.post("tokens", &json!({"vendor": "hubspot", "revoke": "all"}));
    sim.post("tokens", &json!({"vendor": "hubspot", "issue": token}));
}

async fn arrives(desk: &Desk, phone: &str) {
    desk.db
        .execute(&format!("UPDATE people SET phone = '{phone}'"))
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, phone);
}

/// The edit waits, and the map says why.
async fn waits(desk: &Desk, phone: &str) -> String {
    desk.db
        .execute(&format!("UPDATE people SET phone = '{phone}'"))
        .await;
    assert!(!desk.db.flush().await);
    eventually("the connection is in error", async || {
        (desk.state().await == "error").then_some(())
    })
    .await;
    assert_eq!(desk.db.dirty().await, 2);
    desk.db.assert_checked().await;
    desk.db.one("SELECT reason FROM crm.status", &[]).await
}

#[tokio::test]
async fn references_are_followed_and_kept() {
    let cluster = Cluster::with_environment(
        &[("log_statement", "all"), ("log_min_messages", "debug1")],
        &[("CRM_TEST_TOKEN", ENV_SECRET)],
    );
    let desk = Desk::open(&cluster, Vendor::HubSpot).await;
    desk.link(2).await;
    admits(&desk, ENV_SECRET).await;
    set(&desk, json!({"env": "CRM_TEST_TOKEN"})).await;
    arrives(&desk, "by the environment").await;
    set(&desk, json!({"env": "CRM_NO_SUCH_TOKEN"})).await;
    let why = waits(&desk, "no variable").await;
    assert!(why.contains("CRM_NO_SUCH_TOKEN is not set"), "{why}");

    let file = cluster.path().join("token");
    let reference = json!({ "file": file });
    std::fs::write(&file, format!("{}\n", FILE_SECRETS[0])).expect("a file");
    admits(&desk, FILE_SECRETS[0]).await;
    set(&desk, reference.clone()).await;
    arrives(&desk, "by a file").await;

    // Another content is taken up by a reload before anybody has noticed.
    std::fs::write(&file, FILE_SECRETS[1]).expect("a file");
    admits(&desk, FILE_SECRETS[1]).await;
    cluster.reload();
    let seen = async || {
        let ok = "SELECT ok FROM crm.test_connection('hubspot')";
        desk.db.one::<bool>(ok, &[]).await.then_some(())
    };
    eventually("the worker has read the file again", seen).await;
    arrives(&desk, "by a reload").await;

    // By set_credentials, once the old one was refused.
    std::fs::write(&file, FILE_SECRETS[2]).expect("a file");
    admits(&desk, FILE_SECRETS[2]).await;
    let why = waits(&desk, "rejected").await;
    assert!(why.contains("rejected"), "{why}");
    set(&desk, reference.clone()).await;
    arrives(&desk, "by set_credentials").await;

    // A file that cannot be read.
    std::fs::remove_file(&file).expect("it is there");
    set(&desk, reference.clone()).await;
    let why = waits(&desk, "no file").await;
    assert!(
        why.contains("cannot read file") && why.contains("token"),
        "{why}"
    );
    std::fs::write(&file, [0xff, 0xfe, b's', b'e', b'c']).expect("a file");
    set(&desk, reference.clone()).await;
    let why = waits(&desk, "no text").await;
    assert!(why.contains("cannot read file"), "{why}");
    let ok = "SELECT detail FROM crm.test_connection('hubspot')";
    let detail: String = desk.db.one(ok, &[]).await;
    assert!(detail.contains("cannot be resolved"), "{detail}");
    std::fs::write(&file, FILE_SECRETS[2]).expect("a file");
    set(&desk, reference).await;
    desk.settle().await;
    assert_secret(&cluster, &desk).await;
}
