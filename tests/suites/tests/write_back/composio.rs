//! By way of Composio: the CRM's own outcomes, and the broker's own refusals.

use crm_suites::crm::facts::Guarded;
use crm_suites::{Contestant, Desk, Live, Vendor, eventually, json};

use crate::CLUSTER;

const KEY: &str = r#"{"api_key": "composio-key"}"#;

mod carried {
    crm_suites::with_remote_crms!(
        everything_goes_through_the_broker,
        the_crms_condition_holds_through_the_broker,
        an_account_that_cannot_be_used_stops_the_connection,
        the_brokers_limit_is_waited_for_and_shown,
        a_write_whose_answer_the_broker_lost_is_not_done_twice,
    );
    use super::*;
}

async fn desk(vendor: Vendor) -> Desk {
    let contestant = Contestant::by_composio(vendor);
    Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await
}

async fn live(vendor: Vendor) -> Live {
    Live::open(&CLUSTER, Contestant::by_composio(vendor)).await
}

async fn everything_goes_through_the_broker(vendor: Vendor) {
    let desk = desk(vendor).await;
    let people = "INSERT INTO people (id, last_name, email) SELECT 'n' || n, 'Zoë & ' || n, n || '@x.example' FROM generate_series(1, 250) n";
    desk.db.execute(people).await;
    desk.settle().await;
    desk.db
        .execute("UPDATE people SET phone = '+47 ' || id; DELETE FROM people WHERE id = 'n7'")
        .await;
    desk.db.drain().await;
    let map = desk.map;
    desk.db
        .execute(&format!(
            "SELECT crm.describe('{}', '{}')",
            vendor.name(),
            vendor.people()
        ))
        .await;
    let checked = format!("SELECT count(*) FROM crm.check_mapping({map}) WHERE severity = 'error'");
    assert_eq!(desk.db.one::<i64>(&checked, &[]).await, 0);
    // The CRM saw the broker alone, and the broker each request of the CRM's.
    let sim = desk.crm.sim();
    let of =
        |vendor: &str| sim.get(&format!("requests?vendor={vendor}&limit=5000"))["requests"].take();
    let (outer, inner) = (of("composio"), of(vendor.name()));
    let proxied = outer.as_array().expect("a list").iter();
    let proxied = proxied.filter(|r| r["path"] == "/api/v3.1/tools/execute/proxy");
    assert_eq!(proxied.count(), inner.as_array().expect("a list").len());
    for request in outer.as_array().expect("a list") {
        assert_eq!(request["headers"].get("authorization"), None, "{request}");
    }
    // Each round's requests go by its id.
    let rounds = "SELECT DISTINCT operation_id::text FROM crm.audit_log WHERE path = 'batch'";
    for round in desk.db.all::<String>(rounds, &[]).await {
        let goes_by = |request: &crm_suites::Json| request["headers"]["x-request-id"] == round;
        let requests = outer.as_array().expect("a list");
        assert!(requests.iter().any(goes_by), "{round}");
    }
    desk.db.assert_checked().await;
}

async fn the_crms_condition_holds_through_the_broker(vendor: Vendor) {
    let live = live(vendor).await;
    live.people(2).await;
    let written = live
        .write_with(
            "p1",
            json!({"phone": "ours"}),
            "correlation_id => 'order 7'",
        )
        .await;
    written.expect("committed");
    live.assert_both("p1", "phone", "ours").await;
    let sent = live.crm.sim().get("requests?vendor=composio&limit=1");
    let told = &sent["requests"][0]["headers"]["x-correlation-id"];
    assert_eq!(told, "order 7", "{sent}");
    // Somebody is quicker.
    live.edit_between("p2", json!({"phone": "theirs"})).await;
    let written = live.write("p2", json!({"phone": "mine"})).await;
    match vendor.guards_one() {
        Guarded::Reported => drop(written.expect("committed")),
        _ => {
            written.expect("conflict");
            assert_eq!(live.field("p2", "phone").await, "theirs");
        }
    }
    live.db.assert_checked().await;
}

async fn an_account_that_cannot_be_used_stops_the_connection(vendor: Vendor) {
    let desk = desk(vendor).await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('a', 'Byron')")
        .await;
    desk.settle().await;
    let account = format!("accounts/ca_{}", vendor.name());
    for status in ["EXPIRED", "INACTIVE"] {
        desk.crm.sim().patch(&account, &json!({ "status": status }));
        desk.db
            .execute(&format!("UPDATE people SET phone = '{status}'"))
            .await;
        assert!(!desk.db.flush().await);
        eventually("the map shows the error", async || {
            (desk.state().await == "error").then_some(())
        })
        .await;
        let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
        assert!(reason.contains(status), "{reason}");
        assert_eq!(desk.db.dirty().await, 1);
        assert_eq!(desk.db.count("crm.dead_letters").await, 0);
        desk.db.assert_checked().await;
        // New credentials do not mend the account, and the reason is still told.
        desk.crm.set_credentials(&desk.db, KEY).await;
        let tested = format!(
            "SELECT detail FROM crm.test_connection('{}')",
            vendor.name()
        );
        let detail: String = desk.db.one(&tested, &[]).await;
        assert!(detail.contains(status), "{detail}");
        desk.crm.sim().patch(&account, &json!({"status": "ACTIVE"}));
        desk.crm.set_credentials(&desk.db, KEY).await;
        desk.settle().await;
    }
}

async fn the_brokers_limit_is_waited_for_and_shown(vendor: Vendor) {
    let desk = desk(vendor).await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('a', 'Byron')")
        .await;
    desk.settle().await;
    let sql = "SELECT \"limit\", per FROM crm.rate_budget WHERE budget = 'broker'";
    assert_eq!(desk.db.text(sql).await, "20000 | 00:10:00");
    // It refuses in words that are not those of its API.
    desk.crm.sim().fault(json!({"vendor": "composio", "path": "/proxy", "times": 3, "status": 429,
        "headers": {"Retry-After": "1"}, "body": {"message": "Rate limit exceeded. Limit: 1 requests per 10 minutes"}}));
    desk.db.execute("UPDATE people SET phone = 'later'").await;
    desk.settle().await;
    assert_eq!(desk.crm.sim().faults_left(), 0);
    // It cost no attempt.
    let attempts = "SELECT max(attempt) FROM crm.audit_log";
    assert_eq!(desk.db.text(attempts).await, "1");
}

async fn a_write_whose_answer_the_broker_lost_is_not_done_twice(vendor: Vendor) {
    let desk = desk(vendor).await;
    let mut fault = desk.crm.matching("create");
    fault["drop"] = "after".into();
    desk.crm.fault(fault);
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('a', 'Byron')")
        .await;
    desk.settle().await;
    assert_eq!(desk.crm.sim().faults_left(), 0, "the fault never struck");
    assert_eq!(desk.crm.records(&desk.db, vendor.people()).await.len(), 1);
}

/// The account that is named is another CRM's, another user's, or nobody's.
#[tokio::test]
async fn a_wrong_account_is_told_before_anything_is_sent() {
    let db = CLUSTER.database().await;
    let sim = crm_suites::Sim::start();
    for (n, (account, user, why)) in [
        (
            "ca_hubspot",
            "user-1",
            "belongs to hubspot, not to salesforce",
        ),
        ("ca_salesforce", "user-2", "belongs to another user"),
        ("ca_none", "user-1", "not found"),
    ]
    .into_iter()
    .enumerate()
    {
        let options = json!({"via": "composio", "connected_account_id": account, "user_id": user});
        db.execute(&format!(
            "SELECT crm.create_connection('c{n}', 'salesforce', base_url => '{}', options => '{options}', credentials => '{KEY}')",
            sim.composio
        ))
        .await;
        let tested = format!("SELECT detail FROM crm.test_connection('c{n}')");
        let detail: String = db.one(&tested, &[]).await;
        assert!(detail.contains(why), "{detail}");
    }
    assert_eq!(sim.requests("/proxy").len(), 0);
}
