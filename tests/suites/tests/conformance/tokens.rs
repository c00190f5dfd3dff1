//! Tokens expire and are revoked: they are obtained once however many requests find that out, work
//! waits for them and is never lost, and they are seen nowhere.

use crm_suites::crm::facts::Situation;
use crm_suites::desk::map_people;
use crm_suites::{Contestant, Desk, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    an_expired_token_is_refreshed_once_and_the_work_goes_on,
    one_refresh_however_many_requests_find_the_token_expired,
    refused_credentials_stop_the_connection_until_new_ones_come,
    a_refused_refresh_stops_its_connection_alone,
    a_tested_connection_says_what_it_saw,
);

/// People at a CRM to whom it leads by a token that it gave out.
async fn by_grant(contestant: Contestant, people: usize) -> Desk {
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(people).await;
    let credentials = desk.crm.refreshable();
    desk.crm.set_credentials(&desk.db, &credentials).await;
    let first = "UPDATE people SET phone = '1' WHERE id = 'p1'";
    desk.db.execute(first).await;
    assert!(desk.db.flush().await);
    desk.crm.forget(&desk.db).await;
    desk
}

async fn an_expired_token_is_refreshed_once_and_the_work_goes_on(contestant: Contestant) {
    if contestant.lacks(Situation::Tokens) {
        return;
    }
    let desk = by_grant(contestant, 5).await;
    for round in 0..2 {
        desk.crm.tokens(json!({"expire": "all"}));
        desk.crm.forget(&desk.db).await;
        let edit = format!("UPDATE people SET phone = 'round {round}'");
        desk.db.execute(&edit).await;
        assert!(desk.db.flush().await);
        desk.settle().await;
        assert_eq!(desk.crm.token_requests(), 1, "in round {round}");
    }
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    desk.assert_secret(&CLUSTER, &desk.crm.secrets()).await;
}

/// Ten requests; the token expires while four of them are on their way.
async fn one_refresh_however_many_requests_find_the_token_expired(contestant: Contestant) {
    if contestant.lacks(Situation::Tokens) {
        return;
    }
    let desk = by_grant(contestant, 10 * contestant.vendor.facts().batch).await;
    // The first two pass, tokens expire with the third, and the others that came with it find that.
    let third = json!({"skip": 2, "delay_ms": 300, "expire_tokens": true});
    desk.crm.answer(&desk.db, "batch", &third, 1).await;
    let others = json!({"skip": 3, "delay_ms": 1500});
    desk.crm.answer(&desk.db, "batch", &others, 3).await;
    desk.db.execute("UPDATE people SET phone = '2'").await;
    assert!(desk.db.flush().await);
    desk.settle().await;
    let refused = desk.crm.sim().get("requests?status=401")["requests"]
        .as_array()
        .map_or(0, Vec::len);
    assert!(refused > 1, "{refused} requests with the expired token");
    assert_eq!(desk.crm.token_requests(), 1);
    let attempts = format!("crm.audit_log WHERE map_id = {} AND attempt > 1", desk.map);
    assert_eq!(desk.db.count(&attempts).await, 0, "attempts charged");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

async fn refused_credentials_stop_the_connection_until_new_ones_come(contestant: Contestant) {
    if contestant.lacks(Situation::Tokens) {
        return;
    }
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(5).await;
    desk.crm.tokens(json!({"revoke": "all"}));
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await, "a flush cannot have worked");
    eventually("the map shows the error", async || {
        (desk.state().await == "error").then_some(())
    })
    .await;
    desk.db.assert_checked().await;
    let dead = desk.db.count("crm.dead_letters").await;
    assert_eq!(dead, 0, "none is lost, none is dead");
    assert_eq!(desk.db.dirty().await, 5);
    desk.crm.forget(&desk.db).await;
    assert!(!desk.db.flush().await);
    let asked = desk.crm.asked(&desk.db).await;
    assert!(asked.len() <= 1, "with refused credentials: {asked:?}");
    desk.crm.tokens(json!({"issue": "new-token"}));
    let renewed = desk.crm.with_token("new-token");
    desk.crm.set_credentials(&desk.db, &renewed).await;
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
    desk.assert_secret(&CLUSTER, &["new-token"]).await;
    desk.assert_secret(&CLUSTER, &desk.crm.secrets()).await;
}

/// Its work waits, and the vendor's reason is shown; that of another connection goes on.
async fn a_refused_refresh_stops_its_connection_alone(contestant: Contestant) {
    if contestant.lacks(Situation::Tokens) {
        return;
    }
    let people = 5 * contestant.vendor.facts().batch;
    let desk = by_grant(contestant, people).await;
    let beside = match contestant.vendor {
        Vendor::Salesforce => Vendor::HubSpot,
        _ => Vendor::Salesforce,
    };
    let other = desk.crm.connect_beside(&desk.db, beside).await;
    let map = map_people(&desk.db, beside, "people", "on_insert => 'create'").await;
    desk.crm.tokens(json!({"revoke": "all"}));
    desk.db.execute("UPDATE people SET phone = '2'").await;
    assert!(!desk.db.flush().await, "there are no credentials");
    assert_eq!(desk.state().await, "error");
    let reason = "SELECT reason FROM crm.status WHERE map_id = $1";
    let reason: String = desk.db.one(reason, &[&desk.map]).await;
    let grant = desk.crm.grant();
    assert!(
        reason.contains("rejected") && reason.contains(grant.refusal),
        "the vendor's reason: {reason}"
    );
    assert_eq!(desk.crm.token_requests(), 1);
    eventually("the other connection goes on", async || {
        let records = other.records(&desk.db, beside.people()).await;
        (records.len() == people).then_some(())
    })
    .await;
    desk.db.assert_checked().await;
    let dead = "SELECT dead FROM crm.status WHERE map_id = $1";
    assert_eq!(desk.db.one::<i64>(dead, &[&desk.map]).await, 0);
    assert_eq!(desk.db.one::<i64>(dead, &[&map]).await, 0);
    let own = "refresh-of-their-own";
    desk.crm.tokens(json!({"issue_refresh": own}));
    let renewed = desk.crm.refreshable().replace(grant.refresh_token, own);
    desk.crm.set_credentials(&desk.db, &renewed).await;
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
    desk.assert_secret(&CLUSTER, &[own]).await;
    desk.assert_secret(&CLUSTER, &desk.crm.secrets()).await;
}

async fn a_tested_connection_says_what_it_saw(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    let name = contestant.vendor.name();
    let sql = format!("SELECT ok FROM crm.test_connection('{name}')");
    assert!(desk.db.one::<bool>(&sql, &[]).await);
    if contestant.lacks(Situation::Tokens) {
        return;
    }
    let wrong = desk.crm.with_token("wrong-token");
    desk.crm.set_credentials(&desk.db, &wrong).await;
    assert!(!desk.db.one::<bool>(&sql, &[]).await);
    let detail = format!("SELECT detail FROM crm.test_connection('{name}')");
    let detail = desk.db.text(&detail).await;
    assert!(
        !detail.is_empty() && !detail.contains("wrong-token"),
        "{detail}"
    );
    desk.db.assert_checked().await;
}
