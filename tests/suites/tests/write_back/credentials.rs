//! Tokens expire and are revoked; work waits for them and is never lost; secrets stay where they are.

use crm_suites::{Desk, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    an_expired_token_is_refreshed_once_and_the_work_goes_on,
    refused_credentials_stop_the_connection_until_new_ones_come,
    a_tested_connection_says_what_it_saw,
);

/// What a connection needs to obtain tokens by itself.
pub fn refreshable(desk: &Desk) -> String {
    match desk.crm.vendor {
        Vendor::Salesforce => json!({"client_id": "sf-client", "client_secret": "sf-secret",
                                     "refresh_token": "sf-refresh", "login_url": desk.crm.url()}),
        _ => json!({"client_id": "hs-client", "client_secret": "hs-secret", "refresh_token": "hs-refresh"}),
    }
    .to_string()
}

pub async fn set_credentials(desk: &Desk, credentials: &str) {
    let name = desk.crm.vendor.name();
    desk.db
        .execute(&format!(
            "SELECT crm.set_credentials('{name}', '{credentials}')"
        ))
        .await;
}

async fn an_expired_token_is_refreshed_once_and_the_work_goes_on(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(5).await;
    set_credentials(&desk, &refreshable(&desk)).await;
    desk.db.execute("UPDATE people SET phone = '1'").await;
    desk.settle().await;
    let sim = desk.crm.sim();
    for round in 0..2 {
        sim.post("tokens", &json!({"vendor": vendor.name(), "expire": "all"}));
        sim.forget_requests();
        desk.db
            .execute(&format!("UPDATE people SET phone = 'round {round}'"))
            .await;
        assert!(desk.db.flush().await);
        desk.settle().await;
        assert_eq!(
            sim.requests("/oauth").len(),
            1,
            "token requests in round {round}"
        );
    }
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    assert_secret(
        &desk,
        &["sf-secret", "hs-secret", "sf-refresh", "hs-refresh"],
    )
    .await;
}

async fn refused_credentials_stop_the_connection_until_new_ones_come(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(5).await;
    desk.crm
        .sim()
        .post("tokens", &json!({"vendor": vendor.name(), "revoke": "all"}));
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await, "a flush cannot have worked");
    eventually("the map shows the error", async || {
        (desk.state().await == "error").then_some(())
    })
    .await;
    desk.db.assert_checked().await;
    assert_eq!(
        desk.db.count("crm.dead_letters").await,
        0,
        "none is lost, none is dead"
    );
    assert_eq!(desk.db.dirty().await, 5);
    desk.crm.sim().forget_requests();
    assert!(!desk.db.flush().await);
    let asked = desk.crm.sim().requests("").len();
    assert!(
        asked <= 1,
        "{asked} requests with credentials that were refused"
    );
    desk.crm.sim().post(
        "tokens",
        &json!({"vendor": vendor.name(), "issue": "new-token"}),
    );
    set_credentials(&desk, r#"{"access_token": "new-token"}"#).await;
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
    assert_secret(&desk, &["new-token", "sf-token", "hs-token"]).await;
}

async fn a_tested_connection_says_what_it_saw(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    let name = vendor.name();
    let sql = format!("SELECT ok FROM crm.test_connection('{name}')");
    assert!(desk.db.one::<bool>(&sql, &[]).await);
    set_credentials(&desk, r#"{"access_token": "wrong-token"}"#).await;
    assert!(!desk.db.one::<bool>(&sql, &[]).await);
    let detail = desk
        .db
        .text(&format!("SELECT detail FROM crm.test_connection('{name}')"))
        .await;
    assert!(
        !detail.is_empty() && !detail.contains("wrong-token"),
        "{detail}"
    );
}

/// None of these words is to be seen anywhere but in `crm.credential`.
pub async fn assert_secret(desk: &Desk, words: &[&str]) {
    let views = [
        "status",
        "cell_status",
        "audit_log",
        "dead_letters",
        "progress",
        "connection",
        "connection_state",
    ];
    let mut seen = CLUSTER.log();
    for view in views {
        seen += &desk
            .db
            .text(&format!("SELECT to_jsonb(v) FROM crm.{view} v"))
            .await;
    }
    seen += &desk
        .db
        .text("SELECT to_jsonb(a) FROM pg_stat_activity a WHERE backend_type LIKE 'pg_crm%'")
        .await;
    for word in words {
        // Statements that the suites themselves send are not logged: none of them fails.
        assert!(!seen.contains(word), "{word} can be seen");
    }
}

#[tokio::test]
async fn credentials_may_be_given_by_reference() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(1).await;
    let file = CLUSTER.path().join(format!("{}.token", desk.db.name));
    std::fs::write(&file, "sf-token\n").expect("a file");
    set_credentials(
        &desk,
        &format!(r#"{{"access_token": {{"file": "{}"}}}}"#, file.display()),
    )
    .await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
}
