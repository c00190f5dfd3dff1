//! A refresh token that the CRM replaced is kept before the new access token is used.

use crm_suites::{Cluster, Desk, Vendor, eventually, json};

#[tokio::test]
async fn salesforce_rotated_tokens_survive() {
    rotated_tokens_survive(Vendor::Salesforce).await;
}

#[tokio::test]
async fn hubspot_rotated_tokens_survive() {
    rotated_tokens_survive(Vendor::HubSpot).await;
}

async fn rotated_tokens_survive(vendor: Vendor) {
    let cluster = Cluster::start();
    let mut desk = Desk::open(&cluster, vendor).await;
    desk.link(3).await;
    let (name, path) = match vendor {
        Vendor::Salesforce => ("sf", "/composite"),
        _ => ("hs", "/batch/"),
    };
    let credentials = json!({"client_id": format!("{name}-client"), "client_secret": format!("{name}-secret"),
                             "refresh_token": format!("{name}-refresh")});
    let mut credentials = credentials;
    if vendor == Vendor::Salesforce {
        credentials["login_url"] = desk.crm.url().into();
    }
    desk.db
        .execute(&format!(
            "SELECT crm.set_credentials('{}', '{credentials}')",
            vendor.name()
        ))
        .await;
    // A turn of the worker that began before would still send with what it knew.
    desk.db.drain().await;
    let sim_tokens = |order: crm_suites::Json| {
        let mut order = order;
        order["vendor"] = vendor.name().into();
        desk.crm.sim().post("tokens", &order)
    };
    sim_tokens(json!({"rotate_refresh": true}));
    for round in 0..2 {
        sim_tokens(json!({"expire": "all"}));
        // The first request with the new access token is held, and the worker killed meanwhile.
        desk.crm.fault(
            json!({"path": path, "skip": u8::from(round > 0), "times": 1, "delay_ms": 3000}),
        );
        desk.db
            .execute(&format!("UPDATE people SET phone = 'round {round}'"))
            .await;
        let session = desk.db.session().await;
        let flush = tokio::spawn(async move {
            let _ = session.client().batch_execute("SELECT crm.flush()").await;
        });
        eventually("the new token is being used", async || {
            (desk.crm.sim().faults_left() == 0).then_some(())
        })
        .await;
        desk.db.kill_worker().await;
        desk.db.reconnect().await;
        let _ = flush.await;
        desk.db.worker().await;
        desk.settle().await;
        assert_eq!(desk.state().await, "idle");
    }
    let asked = desk.crm.sim().requests("/oauth");
    // Each time once before the kill and once after it, always with the token of the time before.
    assert_eq!(asked.len(), 4, "token requests");
    assert!(asked.iter().all(|request| request["status"] == 200));
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}
