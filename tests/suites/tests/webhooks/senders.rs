//! The simulated CRMs post by themselves, over HTTP, and again until they are answered with 2xx.

use crm_suites::hooks::{delivered, subscribe};
use crm_suites::{Cluster, Vendor, eventually, json, with_remote_crms};

use crate::{SECRET, inbox, listening};

with_remote_crms!(a_worker_that_dies_before_it_answers_is_asked_again);

#[tokio::test]
async fn behind_a_proxy_the_option_says_what_was_signed() {
    let signed = "https://db.acme.test/hooks?from=hubspot";
    let options = format!(r#"{{"webhook_url": "{signed}"}}"#);
    let (desk, url) = listening(&crate::CLUSTER, Vendor::HubSpot, &options).await;
    let ids = desk.link(1).await;
    subscribe(&desk, &url, SECRET, json!({"signed_url": signed}));
    desk.crm
        .edit(&desk.db, "contacts", &ids[0], &json!({"phone": "1"}))
        .await;
    assert_eq!(delivered(&desk, 1).await, (1, 0));
    assert_eq!(inbox(&desk.db).await.len(), 1);
}

/// A sender whose clock is wrong is refused, and heard once it is right.
#[tokio::test]
async fn a_sender_from_the_past_is_not_believed() {
    let (desk, url) = listening(&crate::CLUSTER, Vendor::HubSpot, "{}").await;
    let ids = desk.link(1).await;
    desk.crm.sim().post("clock", &json!({"skew_s": -600}));
    subscribe(&desk, &url, SECRET, json!({}));
    desk.crm
        .edit(&desk.db, "contacts", &ids[0], &json!({"phone": "1"}))
        .await;
    let refused = "crm.audit_log WHERE result = 'refused' AND error_class = 'auth'";
    eventually("it was refused", async || {
        (desk.db.count(refused).await > 0).then_some(())
    })
    .await;
    assert!(inbox(&desk.db).await.is_empty());
    desk.crm.sim().post("clock", &json!({"skew_s": 0}));
    assert_eq!(delivered(&desk, 1).await, (1, 0));
    assert_eq!(inbox(&desk.db).await.len(), 1);
    desk.db.assert_checked().await;
}

async fn a_worker_that_dies_before_it_answers_is_asked_again(vendor: Vendor) {
    let cluster = Cluster::start();
    let (mut desk, url) = listening(&cluster, vendor, "{}").await;
    let ids = desk.link(2).await;
    subscribe(&desk, &url, SECRET, json!({}));
    for (n, point) in ["webhook::before_commit", "webhook::after_commit"]
        .into_iter()
        .enumerate()
    {
        desk.db
            .execute(&format!("ALTER SYSTEM SET pg_crm.failpoints = '{point}'"))
            .await;
        desk.db.execute("SELECT pg_reload_conf()").await;
        let armed = async || {
            let seen: String = desk.db.one("SHOW pg_crm.failpoints", &[]).await;
            (seen == point).then_some(())
        };
        eventually("the setting is in force", armed).await;
        let edit = json!({"phone": point});
        desk.crm
            .edit(&desk.db, vendor.people(), &ids[n], &edit)
            .await;
        desk.db.reconnect().await;
        assert_eq!(delivered(&desk, n as u64 + 1).await, (n as u64 + 1, 0));
        assert_eq!(inbox(&desk.db).await.len(), n + 1);
    }
    desk.db.assert_checked().await;
}
