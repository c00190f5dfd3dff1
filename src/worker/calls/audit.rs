//! Records calls that came back: audit, intents, notifications.

use std::collections::BTreeMap;

use crm_domain::{Value, excerpt};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json};

use super::call::{Call, differs};
use crate::store::audit;
use crate::store::calls::intents;
use crate::store::notify;
use crate::worker::sender::checked_write::{Checked, Outcome};
use crate::worker::socket::protocol::Intent;
use crm_domain::{AuditResult, ErrorClass, Operation, Path};

/// Audit, intents and events of calls that came back.
pub fn write_down(
    client: &mut SpiClient,
    back: &[(Call, Checked)],
) -> Result<(), crate::store::StoreError> {
    let fields: Vec<String> = back
        .iter()
        .map(|(call, checked)| Json::Object(audited(&call.intent, checked)).to_string())
        .collect();
    let mut by_map: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (n, (call, _)) in back.iter().enumerate() {
        by_map.entry(call.intent.map_id).or_default().push(n);
    }
    for places in by_map.values() {
        let entries: Vec<audit::Entry> = places
            .iter()
            .map(|&n| {
                let (Call { intent, .. }, checked) = &back[n];
                let failure = match &checked.outcome {
                    Outcome::Failed(failure) => Some(failure),
                    _ => None,
                };
                let operation = match intent.force {
                    true => Operation::Force,
                    false => Operation::Update,
                };
                audit::Entry {
                    crm_id: Some(&intent.crm_id),
                    fields: &fields[n],
                    request_id: Some(checked.request_id.as_str()).filter(|id| !id.is_empty()),
                    actor: Some(&intent.actor),
                    correlation_id: intent.correlation_id.as_deref(),
                    write_id: Some(&intent.write_id),
                    ..audit::Entry::new(
                        (&intent.shard_key, &intent.record_key),
                        operation,
                        result(checked),
                    )
                    .with_failure(failure)
                }
            })
            .collect();
        let intent = &back[places[0]].0.intent;
        let about = audit::About {
            map_id: intent.map_id,
            connection: &intent.connection,
            provider: &intent.provider,
            relation: &intent.relation,
        };
        audit::write_about(client, &about, Path::RealTime, &entries)?;
    }
    let ended: Vec<intents::Ended> = back
        .iter()
        .map(|(call, checked)| {
            let (state, failure) = match &checked.outcome {
                Outcome::Done(_) => (Some("landed"), None),
                Outcome::Conflict => (None, None),
                Outcome::Failed(failure) => (Some("failed"), Some(failure)),
            };
            intents::Ended {
                shard_key: &call.intent.shard_key,
                write_id: &call.intent.write_id,
                state,
                error_class: failure.map(|f| f.class.name()),
                error: failure.map(|f| f.message.as_str()),
            }
        })
        .collect();
    intents::end(client, &ended)?;
    let events = back
        .iter()
        .map(|(call, checked)| {
            let (name, error) = match &checked.outcome {
                Outcome::Done(_) => ("sync_completed", None),
                Outcome::Conflict => ("conflict", None),
                Outcome::Failed(failure) => ("sync_failed", Some(failure.class)),
            };
            event(name, &call.intent, error)
        })
        .collect();
    notify::notify(client, events)
}

pub fn event(name: &str, intent: &Intent, error: Option<ErrorClass>) -> String {
    crate::worker::notification::payload(
        name,
        &crate::worker::notification::Subject {
            connection: &intent.connection,
            map_id: intent.map_id,
            relation: &intent.relation,
            write_id: Some(&intent.write_id),
            conflicts: &[],
            correlation_id: intent.correlation_id.as_deref(),
        },
        error,
    )
}

fn result(checked: &Checked) -> AuditResult {
    match &checked.outcome {
        Outcome::Done(_) if !checked.raced.is_empty() => AuditResult::Raced,
        Outcome::Done(_) => AuditResult::Applied,
        Outcome::Conflict => AuditResult::Conflict,
        Outcome::Failed(_) => AuditResult::Retry,
    }
}

/// The fields in the audit: those written, and after a conflict those that differ.
fn audited(intent: &Intent, checked: &Checked) -> JsonMap<String, Json> {
    let mut fields = JsonMap::new();
    for f in &intent.fields {
        let read = checked.read.as_ref().and_then(|read| read.get(&f.id));
        let mut entry = JsonMap::new();
        if let Some(value) = &f.value {
            entry.insert("new".into(), excerpt::of_json(value));
        }
        if let Some(read) = read.filter(|read| f.value.is_some() || differs(f, read)) {
            entry.insert("old".into(), excerpt::of(read));
        }
        if let Some(held) = checked.held.get(&f.id).map(Value::to_json)
            && f.value.as_ref() != Some(&held)
        {
            entry.insert("held".into(), excerpt::of_json(&held));
        }
        if let Some((_, value)) = checked.raced.iter().find(|(id, _)| *id == f.id) {
            entry.insert("raced".into(), excerpt::of(value));
        }
        if !entry.is_empty() {
            fields.insert(f.name.clone(), Json::Object(entry));
        }
    }
    fields
}
