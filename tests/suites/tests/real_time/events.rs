//! NOTIFY tells whoever listens what becomes of edits.

use std::sync::{Arc, Mutex};

use crm_suites::{Json, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(whoever_listens_is_told);

async fn whoever_listens_is_told(vendor: Vendor) {
    let live = Live::with(
        &CLUSTER,
        vendor,
        "on_insert => 'ignore'",
        "on_conflict => 'manual_review'",
    )
    .await;
    live.people(1).await;
    let heard: Arc<Mutex<Vec<Json>>> = Arc::default();
    let listener = live.db.listen("crm", heard.clone()).await;
    // What was heard since the last call, once it holds this event: event names, all with this
    // correlation id.
    let told = async |last: &str, correlation_id: &str| -> Vec<String> {
        let event = format!("integration.crm.{last}");
        eventually(last, async || {
            heard
                .lock()
                .unwrap()
                .iter()
                .any(|e| e["event"] == event.as_str())
                .then_some(())
        })
        .await;
        let events = std::mem::take(&mut *heard.lock().unwrap());
        for event in &events {
            assert_eq!(event["correlation_id"], correlation_id, "{event}");
            // Any role may listen: neither the key nor words of the CRM are for all.
            let names: Vec<&String> = event
                .as_object()
                .into_iter()
                .flat_map(|e| e.keys())
                .collect();
            let known = [
                "conflict_ids",
                "connection",
                "correlation_id",
                "error_class",
                "event",
                "map_id",
                "relation",
                "write_id",
            ];
            assert_eq!(names, known, "{event}");
            assert_eq!(event["connection"], vendor.name(), "{event}");
            assert_eq!(event["map_id"], live.map, "{event}");
            assert!(event["write_id"].is_string(), "{event}");
        }
        events
            .iter()
            .map(|e| {
                e["event"]
                    .as_str()
                    .unwrap()
                    .rsplit('.')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    live.write_with("p1", json!({"phone": "one"}), "correlation_id => 'a'")
        .await
        .expect("committed");
    assert_eq!(
        told("sync_completed", "a").await,
        ["sync_started", "sync_completed"]
    );
    live.db
        .execute("SET pg_crm.correlation_id = 'b'; UPDATE people SET phone = 'two'")
        .await;
    assert_eq!(
        told("sync_completed", "b").await,
        ["sync_started", "sync_completed"]
    );
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.write_with("p1", json!({"phone": "three"}), "correlation_id => 'c'")
        .await
        .expect("conflict");
    assert_eq!(told("conflict", "c").await, ["sync_started", "conflict"]);
    live.db
        .execute("SET pg_crm.correlation_id = 'd'; UPDATE people SET phone = 'four'")
        .await;
    assert_eq!(told("conflict", "d").await, ["sync_started", "conflict"]);
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts")
        .await;
    assert_eq!(
        told("sync_completed", "d").await,
        ["sync_started", "sync_completed"]
    );
    live.crm.fail(&live.db, "write", "validation", 1).await;
    // The setting counts where there is no argument.
    live.db.execute("SET pg_crm.correlation_id = 'e'").await;
    live.write("p1", json!({"phone": "five"}))
        .await
        .expect_pending("validation");
    assert_eq!(
        told("sync_completed", "e").await,
        [
            "sync_started",
            "sync_failed",
            "sync_started",
            "sync_completed"
        ]
    );
    live.agree().await;
    drop(listener);
}
