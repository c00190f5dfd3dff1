//! Servers that log whatever runs: what pg_crm does with credentials shows none of them. What a
//! client writes into its own statement is the client's affair.

use crm_suites::{Cluster, Crm, Need, Vendor, eventually, json, lacks};

/// All that Debian's PostgreSQL can log of statements inside of functions, with their plans.
fn talkative() -> Cluster {
    Cluster::with(&[
        (
            "shared_preload_libraries",
            "pg_crm,auto_explain,pg_stat_statements",
        ),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_nested_statements", "on"),
        ("auto_explain.log_verbose", "on"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_triggers", "on"),
        ("pg_stat_statements.track", "all"),
        ("log_error_verbosity", "verbose"),
        ("log_min_duration_statement", "0"),
    ])
}

#[tokio::test]
async fn statements_inside_of_functions_show_no_credentials() {
    if lacks(Need::Library("auto_explain")) {
        return;
    }
    let cluster = talkative();
    let db = cluster.database().await;
    db.execute("CREATE EXTENSION pg_stat_statements").await;
    // Where the client has them from without writing them down.
    let path = cluster.path().join("given");
    let given = |secret: &str| {
        let credentials = json!({"access_token": format!("{secret}-access"), "client_secret": format!("{secret}-client")});
        std::fs::write(&path, credentials.to_string()).expect("a file");
    };
    let from = format!("pg_read_file('{}')::jsonb", path.display());
    given("first-secret");
    db.execute(&format!(
        "SELECT crm.create_connection('crm', 'hubspot', credentials => {from})"
    ))
    .await;
    given("second-secret");
    db.execute(&format!("SELECT crm.set_credentials('crm', {from})"))
        .await;
    // Errors, with all their context.
    for wrong in [
        r#"{"access_token": ["third-secret-x"]}"#,
        r#"{"token_url": "http://third-secret@x.test"}"#,
        r#"{"no_such_key": "third-secret"}"#,
    ] {
        std::fs::write(&path, wrong).expect("a file");
        let error = db
            .error(&format!("SELECT crm.set_credentials('crm', {from})"))
            .await;
        assert!(!format!("{error:?}").contains("third-secret"), "{error:?}");
    }
    let log = cluster.log();
    assert!(
        log.contains("INSERT INTO crm.credential"),
        "nested statements are logged"
    );
    for secret in ["first-secret", "second-secret", "third-secret"] {
        if let Some(at) = log.find(secret) {
            panic!(
                "{secret}: {}",
                &log[log.floor_char_boundary(at.saturating_sub(1500))..at]
            );
        }
        let seen = db.text("SELECT query FROM pg_stat_statements").await;
        assert!(!seen.contains(secret), "{secret} in pg_stat_statements");
    }
}

#[tokio::test]
async fn a_token_that_the_worker_keeps_is_not_logged() {
    if lacks(Need::Library("auto_explain")) {
        return;
    }
    let cluster = talkative();
    let db = cluster.database().await;
    let crm = Crm::connect(&db, Vendor::Pipedrive).await;
    crm.tokens(json!({"rotate_refresh": true}));
    crm.set_credentials(&db, &crm.refreshable()).await;
    let first = crm.grant().refresh_token;
    let kept = eventually("the refresh token is replaced", async || {
        let _: bool = db
            .one("SELECT ok FROM crm.test_connection('pipedrive')", &[])
            .await;
        let sql = "SELECT secret ->> 'refresh_token' FROM crm.credential";
        let token: String = db.one(sql, &[]).await;
        (token != first).then_some(token)
    })
    .await;
    let log = cluster.log();
    assert!(
        log.contains("UPDATE crm.credential SET secret"),
        "the worker's statements are logged"
    );
    if let Some(at) = log.find(&kept) {
        panic!(
            "{}",
            &log[log.floor_char_boundary(at.saturating_sub(1500))..at]
        );
    }
}
