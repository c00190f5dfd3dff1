//! Webhooks: what a CRM tells arrives once, however often it tells it, and its records are read and
//! applied at once.

use crm_suites::hooks::{SECRET, delivered, inbox, listening, relay, subscribe};
use crm_suites::post::{Post, event};
use crm_suites::{Contestant, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    what_they_post_arrives_once,
    what_changed_there_is_here_at_once,
    who_does_not_have_the_secret_is_not_believed,
);

async fn what_they_post_arrives_once(contestant: Contestant) {
    let facts = contestant.vendor.facts();
    let (desk, url) = listening(&CLUSTER, contestant, "{}").await;
    let ids = desk.link(3).await;
    if facts.told.is_some() {
        subscribe(&desk, &url, SECRET, json!({"duplicate": true}));
    }
    for phone in ["1", "2"] {
        let edit = json!({"phone": phone});
        desk.crm.edit(&desk.db, facts.people, &ids[0], &edit).await;
    }
    desk.crm.delete(&desk.db, facts.people, &ids[1]).await;
    match facts.told {
        Some(_) => assert_eq!(delivered(&desk, 6).await, (6, 0)),
        None => {
            let changes = [(0, "UPDATE"), (0, "UPDATE"), (1, "DELETE")];
            let changes = changes.map(|(n, change): (usize, _)| (ids[n].as_str(), change));
            relay(&desk, &url, &changes).await;
        }
    }
    let object = facts.told.unwrap_or(facts.people);
    let mut expected = vec![
        format!("{object} {} changed", ids[0]),
        format!("{object} {} changed", ids[0]),
        format!("{object} {} deleted", ids[1]),
    ];
    expected.sort();
    let mut found = inbox(&desk.db).await;
    found.sort();
    assert_eq!(found, expected);
    desk.db.assert_checked().await;
}

async fn what_changed_there_is_here_at_once(contestant: Contestant) {
    let facts = contestant.vendor.facts();
    let (desk, url) = listening(&CLUSTER, contestant, "{}").await;
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'inbound')",
            desk.map,
            contestant.vendor.field("title")
        ))
        .await;
    let ids = desk.link(30).await;
    desk.ingest().await;
    if facts.told.is_some() {
        subscribe(&desk, &url, SECRET, json!({"duplicate": true}));
    }
    desk.crm.forget(&desk.db).await;
    let edit = json!({"title": "by webhook"});
    for id in &ids {
        desk.crm.edit(&desk.db, facts.people, id, &edit).await;
    }
    if facts.told.is_none() {
        let changes: Vec<_> = ids.iter().map(|id| (id.as_str(), "UPDATE")).collect();
        relay(&desk, &url, &changes).await;
    }
    eventually("the rows have it", async || {
        (desk.db.count("people WHERE title = 'by webhook'").await == 30).then_some(())
    })
    .await;
    desk.crm.delete(&desk.db, facts.people, &ids[0]).await;
    if facts.told.is_none() {
        relay(&desk, &url, &[(&ids[0], "DELETE")]).await;
    }
    eventually("the deleted one lets go", async || {
        desk.crm_id("p1").await.is_none().then_some(())
    })
    .await;
    eventually("nothing waits in the inbox", async || {
        let waiting = "crm.webhook_inbox WHERE done_at IS NULL";
        (desk.db.count(waiting).await + desk.db.count("crm.refetch").await == 0).then_some(())
    })
    .await;
    assert_eq!(
        desk.crm.looks(&desk.db).await,
        0,
        "nobody asked for changes"
    );
    desk.db.assert_checked().await;
}

async fn who_does_not_have_the_secret_is_not_believed(contestant: Contestant) {
    let facts = contestant.vendor.facts();
    let (desk, url) = listening(&CLUSTER, contestant, "{}").await;
    let ids = desk.link(1).await;
    if facts.told.is_some() {
        subscribe(&desk, &url, "hooks:guess", json!({}));
        let edit = json!({"phone": "1"});
        desk.crm.edit(&desk.db, facts.people, &ids[0], &edit).await;
    } else {
        let event = event("e1", facts.people, &ids[0], "UPDATE");
        let post = Post::relayed("hooks:guess", &json!([event]));
        assert_eq!(post.send(&url).await.status, 401);
    }
    let refused = "crm.audit_log WHERE result = 'refused' AND error_class = 'auth'";
    eventually("it was refused", async || {
        (desk.db.count(refused).await > 0).then_some(())
    })
    .await;
    assert_eq!(inbox(&desk.db).await, Vec::<String>::new());
    desk.db.assert_checked().await;
}
