//! Webhooks of version 2: one event in each post, which shows the subscription's user and password.

use super::account::{self, COMPANY, USER, record_id, word};
use crate::clock;
use crate::store::{Actor, Event, Note, Object};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

pub fn events(object: &Object, note: &Note, number: &dyn Fn() -> u64) -> Vec<Json> {
    let event = |slot: u32, action: &str, merged: Option<u32>| {
        let (user, source) = match note.by {
            Actor::Integration => (USER, "api"),
            Actor::Human => (98, "app"),
        };
        let mut meta = json!({
            "action": action,
            "entity": word(object),
            "entity_id": record_id(object, slot),
            "company_id": COMPANY.to_string(),
            "user_id": user.to_string(),
            "change_source": source,
            "id": format!("00000000-0000-4000-8000-{:012x}", number()),
            "correlation_id": format!("00000000-0000-4000-9000-{:012x}", number()),
            "timestamp": clock::iso(note.at),
            "type": "general",
            "version": "2.0",
            "webhook_id": "101",
            "attempt": 1,
            "is_bulk_edit": false,
        });
        if let Some(into) = merged {
            meta["merged_to_id"] = record_id(object, into).into();
        }
        let data = match action {
            "delete" => Json::Null,
            _ => account::show(object, slot, &[]),
        };
        json!({"data": data, "previous": null, "meta": meta})
    };
    match &note.event {
        Event::Created => vec![event(note.slot, "create", None)],
        Event::Deleted => vec![event(note.slot, "delete", None)],
        Event::Restored | Event::Updated(_) => vec![event(note.slot, "change", None)],
        Event::Merged(from) => {
            let losers = from
                .iter()
                .map(|slot| event(*slot, "delete", Some(note.slot)));
            losers.chain([event(note.slot, "change", None)]).collect()
        }
    }
}

pub fn signature(secret: &str) -> Vec<(&'static str, String)> {
    vec![(
        "Authorization",
        format!("Basic {}", STANDARD.encode(secret)),
    )]
}
