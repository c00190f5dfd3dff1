//! What webhooks speak of is read and applied at once, without a poll.

use crm_suites::{Cluster, Vendor, eventually, json};

use crate::senders::subscribe;
use crate::{SECRET, listening};

crm_suites::with_remote_crms!(what_changed_there_is_here_at_once);

async fn what_changed_there_is_here_at_once(vendor: Vendor) {
    let cluster = Cluster::start();
    let (desk, url) = listening(&cluster, vendor, "{}").await;
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'inbound')",
            desk.map,
            vendor.field("title")
        ))
        .await;
    let ids = desk.link(30).await;
    desk.ingest().await;
    subscribe(&desk, &url, SECRET, json!({"duplicate": true}));
    desk.crm.forget(&desk.db).await;
    let people = vendor.people();
    for id in &ids {
        desk.crm
            .edit(&desk.db, people, id, &json!({"title": "by webhook"}))
            .await;
    }
    eventually("the rows have it", async || {
        (desk.db.count("people WHERE title = 'by webhook'").await == 30).then_some(())
    })
    .await;
    desk.crm.delete(&desk.db, people, &ids[0]).await;
    eventually("the deleted one lets go", async || {
        desk.crm_id("p1").await.is_none().then_some(())
    })
    .await;
    eventually("nothing waits in the inbox", async || {
        let waiting = "crm.webhook_inbox WHERE done_at IS NULL";
        (desk.db.count(waiting).await + desk.db.count("crm.reread").await == 0).then_some(())
    })
    .await;
    // Nobody looked for changes.
    let asked = desk.crm.asked(&desk.db).await;
    let polls = asked
        .iter()
        .filter(|r| r.contains("queryAll") || r.contains("/search"));
    assert_eq!(polls.count(), 0, "{asked:?}");
    desk.db.assert_checked().await;
}
