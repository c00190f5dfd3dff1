//! NOTIFY reports what becomes of a map's rounds and passes: when they begin, and their counts.

use std::sync::{Arc, Mutex};

use crm_suites::{Desk, Json, Session, Vendor, eventually, json};

use crate::CLUSTER;

#[tokio::test]
async fn stub_rounds_and_passes_are_reported() {
    rounds_and_passes_are_reported(Vendor::Stub).await;
}

#[tokio::test]
async fn hubspot_rounds_and_passes_are_reported() {
    rounds_and_passes_are_reported(Vendor::HubSpot).await;
}

/// What was heard on channel crm since the last look.
struct Heard {
    events: Arc<Mutex<Vec<Json>>>,
    _listener: Session,
}

impl Heard {
    async fn listen(desk: &Desk) -> Heard {
        let events: Arc<Mutex<Vec<Json>>> = Arc::default();
        let _listener = desk.db.listen("crm", events.clone()).await;
        Heard { events, _listener }
    }

    /// Once a round or pass has ended this way: the events of that path, all of this map.
    async fn until(&self, last: &str, path: &str, map: i32) -> Vec<Json> {
        let event = format!("integration.crm.{last}");
        let is_last = |e: &Json| e["event"] == event.as_str() && e["path"] == path;
        eventually(last, async || {
            let heard = self.events.lock().unwrap();
            heard.iter().any(is_last).then_some(())
        })
        .await;
        let heard = std::mem::take(&mut *self.events.lock().unwrap());
        let heard: Vec<Json> = heard.into_iter().filter(|e| e["path"] == path).collect();
        assert!(heard.iter().all(|e| e["map_id"] == map), "{heard:?}");
        assert!(heard.iter().all(|e| e["relation"] == "public.people"));
        heard
    }
}

async fn rounds_and_passes_are_reported(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3).await;
    let sql = "SELECT crm.map_field($1, 'title', $2, direction => 'inbound')";
    desk.db
        .rows(sql, &[&desk.map, &vendor.field("title")])
        .await;
    desk.settle().await;
    desk.ingest().await;
    let heard = Heard::listen(&desk).await;

    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let round = heard.until("sync_completed", "batch", desk.map).await;
    assert_eq!(round.len(), 2, "{round:?}");
    assert_eq!(round[0]["event"], "integration.crm.sync_started");
    let counts = json!({ "records": 3, "written": 3, "failed": 0 });
    assert_eq!(round[1]["counts"], counts);

    // Our own writes come back, and a round has nothing to send: nobody hears of either.
    desk.ingest().await;
    assert!(desk.db.flush().await);
    let id = desk.crm_id("p1").await.expect("linked");
    let people = vendor.people();
    desk.crm
        .edit(&desk.db, people, &id, &json!({ "title": "Head" }))
        .await;
    desk.ingest().await;
    let pass = heard.until("sync_completed", "ingest", desk.map).await;
    assert_eq!(pass.len(), 2, "{pass:?}");
    assert_eq!(pass[0]["event"], "integration.crm.sync_started");
    assert_eq!(pass[1]["counts"]["applied"], 1);

    desk.crm
        .refuse(&desk.db, &id, "validation", "not this one")
        .await;
    desk.db
        .execute("UPDATE people SET phone = 'refused' WHERE id = 'p1'")
        .await;
    desk.db.flush().await;
    let round = heard.until("sync_failed", "batch", desk.map).await;
    let counts = json!({ "records": 1, "written": 0, "failed": 1 });
    assert_eq!(round[1]["counts"], counts);
    desk.crm.relent(&desk.db).await;
    desk.db.assert_checked().await;
}
