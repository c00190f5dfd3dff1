//! Access tokens: obtained, renewed once however many requests find them expired, and refused.

use crm_suites::desk::map_people;
use crm_suites::{Crm, Desk, Vendor, eventually, json};

use crate::CLUSTER;
use crate::credentials::{assert_secret, refreshable, set_credentials};

crm_suites::with_remote_crms!(
    one_refresh_however_many_requests_find_the_token_expired,
    a_refused_refresh_stops_its_connection_alone,
);

/// Part of the path of the requests that carry batches.
fn batches(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Salesforce => "/composite",
        _ => "/batch/",
    }
}

/// Twelve batches; the token expires while four of them are on their way.
async fn one_refresh_however_many_requests_find_the_token_expired(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(1200).await;
    set_credentials(&desk, &refreshable(&desk)).await;
    desk.db
        .execute("UPDATE people SET phone = '1' WHERE id = 'p1'")
        .await;
    assert!(desk.db.flush().await);
    let sim = desk.crm.sim();
    sim.forget_requests();
    let path = batches(vendor);
    // The first two pass, tokens expire with the third, and the others that came with it find that.
    desk.crm.fault(
        json!({"path": path, "skip": 2, "times": 1, "delay_ms": 300, "expire_tokens": true}),
    );
    desk.crm
        .fault(json!({"path": path, "skip": 3, "times": 3, "delay_ms": 1500}));
    desk.db.execute("UPDATE people SET phone = '2'").await;
    assert!(desk.db.flush().await);
    desk.settle().await;
    let refused = sim.get("requests?status=401")["requests"]
        .as_array()
        .map_or(0, Vec::len);
    assert!(refused > 1, "{refused} requests with the expired token");
    assert_eq!(sim.requests("/oauth").len(), 1, "token requests");
    let attempts = format!("crm.audit_log WHERE map_id = {} AND attempt > 1", desk.map);
    assert_eq!(desk.db.count(&attempts).await, 0, "attempts charged");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

/// Its work waits; that of another connection goes on.
async fn a_refused_refresh_stops_its_connection_alone(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(1200).await;
    set_credentials(&desk, &refreshable(&desk)).await;
    let beside = match vendor {
        Vendor::Salesforce => Vendor::HubSpot,
        _ => Vendor::Salesforce,
    };
    let other: Crm = desk.crm.connect_beside(&desk.db, beside).await;
    let map = map_people(&desk.db, beside, "people", "on_insert => 'create'").await;
    desk.db
        .execute("UPDATE people SET phone = '1' WHERE id = 'p1'")
        .await;
    assert!(desk.db.flush().await);
    let sim = desk.crm.sim();
    sim.forget_requests();
    sim.post("tokens", &json!({"vendor": vendor.name(), "revoke": "all"}));
    desk.db.execute("UPDATE people SET phone = '2'").await;
    assert!(!desk.db.flush().await, "there are no credentials");
    assert_eq!(desk.state().await, "error");
    let reason = "SELECT reason FROM crm.status WHERE map_id = $1";
    let reason: String = desk.db.one(reason, &[&desk.map]).await;
    let words = match vendor {
        Vendor::Salesforce => "expired access/refresh token",
        _ => "missing or invalid refresh token",
    };
    assert!(
        reason.contains("refused") && reason.contains(words),
        "the vendor's reason: {reason}"
    );
    assert_eq!(sim.requests("/oauth").len(), 1, "token requests");
    eventually("the other connection goes on", async || {
        let records = other.records(&desk.db, beside.people()).await;
        (records.len() == 1200).then_some(())
    })
    .await;
    desk.db.assert_checked().await;
    let dead = "SELECT dead FROM crm.status WHERE map_id = $1";
    assert_eq!(desk.db.one::<i64>(dead, &[&desk.map]).await, 0);
    assert_eq!(desk.db.one::<i64>(dead, &[&map]).await, 0);
    sim.post(
        "tokens",
        &json!({"vendor": vendor.name(), "issue_refresh": "refresh-of-their-own"}),
    );
    let renewed = refreshable(&desk)
        .replace("sf-refresh", "refresh-of-their-own")
        .replace("hs-refresh", "refresh-of-their-own");
    set_credentials(&desk, &renewed).await;
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
    assert_secret(
        &desk,
        &[
            "refresh-of-their-own",
            "sf-refresh",
            "hs-refresh",
            "sf-secret",
            "hs-secret",
        ],
    )
    .await;
}

#[tokio::test]
async fn salesforce_client_credentials() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3).await;
    desk.settle().await;
    set_credentials(
        &desk,
        r#"{"client_id": "sf-client", "client_secret": "sf-secret"}"#,
    )
    .await;
    let sim = desk.crm.sim();
    for round in ["first", "renewed"] {
        sim.forget_requests();
        desk.db
            .execute(&format!("UPDATE people SET phone = '{round}'"))
            .await;
        desk.settle().await;
        let asked = sim.requests("/services/oauth2/token");
        assert_eq!(asked.len(), 1, "token requests, {round}");
        let form = asked[0]["body"].as_str().unwrap_or_default();
        assert!(form.contains("grant_type=client_credentials"), "{form}");
        sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    }
    sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    set_credentials(
        &desk,
        r#"{"client_id": "sf-client", "client_secret": "not the secret"}"#,
    )
    .await;
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await);
    let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("invalid client credentials"), "{reason}");
    set_credentials(
        &desk,
        r#"{"client_id": "sf-client", "client_secret": "sf-secret"}"#,
    )
    .await;
    desk.settle().await;
    assert_secret(&desk, &["sf-secret", "not the secret"]).await;
}
