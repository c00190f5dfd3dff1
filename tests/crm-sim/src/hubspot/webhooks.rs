//! Webhooks of version 3: a list of events, and a signature over method, address, body and time.

use super::portal;
use crate::store::{Actor, Event, Note, Object};
use crate::webhooks::hmac_sha256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

pub fn events(object: &Object, note: &Note, number: &dyn Fn() -> u64) -> Vec<Json> {
    let word = match object.def.name.as_str() {
        "contacts" => "contact",
        "companies" => "company",
        "deals" => "deal",
        _ => "object",
    };
    let source = match note.by {
        Actor::Integration => ("INTEGRATION", portal::APP.to_owned()),
        Actor::Human => ("CRM_UI", format!("userId:{}", portal::USER)),
    };
    // Ids are numbers here, and texts everywhere else.
    let id = |slot: u32| {
        let id = portal::record_id(object, slot).parse::<u64>();
        Json::from(id.unwrap_or_default())
    };
    let event = |kind: &str| {
        let mut event = json!({
            // Repeats after a thousand events: only a part of what makes an event unique.
            "eventId": number() % 1000,
            "subscriptionId": 101,
            "portalId": portal::PORTAL,
            "appId": portal::APP.parse::<u64>().unwrap_or_default(),
            "occurredAt": note.at,
            "subscriptionType": format!("{word}.{kind}"),
            "attemptNumber": 0,
            "objectId": id(note.slot),
            "changeSource": source.0,
            "sourceId": source.1,
        });
        if word == "object" {
            event["objectTypeId"] = object.def.spec.code.clone().into();
        }
        event
    };
    match &note.event {
        Event::Created => vec![event("creation")],
        // Purged for the sake of privacy.
        Event::Deleted if object.record(note.slot).is_none() => {
            vec![event("deletion"), event("privacyDeletion")]
        }
        Event::Deleted => vec![event("deletion")],
        Event::Restored => vec![event("restore")],
        Event::Updated(fields) => {
            let of_field = |at: &u16| {
                let mut event = event("propertyChange");
                event["propertyName"] = object.def.fields[*at as usize].name().into();
                let value = portal::read(object, note.slot, *at);
                event["propertyValue"] = value
                    .map(|v| portal::spelled(&v))
                    .unwrap_or_default()
                    .into();
                event
            };
            fields.iter().map(of_field).collect()
        }
        Event::Merged(from) => {
            let mut event = event("merge");
            event["primaryObjectId"] = id(note.slot);
            event["mergedObjectIds"] = from.iter().map(|slot| id(*slot)).collect();
            vec![event]
        }
    }
}

pub fn signature(secret: &str, url: &str, body: &str, now: i64) -> Vec<(&'static str, String)> {
    // What the guide says to decode, the sender has decoded.
    let plain = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];
    let url = plain.iter().fold(url.to_owned(), |url, (code, plain)| {
        url.replace(code, plain)
    });
    let signature = hmac_sha256(secret, &format!("POST{url}{body}{now}"));
    vec![
        ("X-HubSpot-Request-Timestamp", now.to_string()),
        ("X-HubSpot-Signature-v3", STANDARD.encode(signature)),
    ]
}
