//! A call of `crm.write()`: from the request to an edit, and from its result
//! to the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crm_domain::conflict::{self, Decision, ShortHash};
use crm_domain::crm_form::{Ours, Sighting};
use crm_domain::mapping::{ConflictPolicy, ConflictScope};
use crm_domain::{DataType, Value, hex};
use crm_provider::record::Field;
use serde_json::{Map as JsonMap, Value as Json, json};
use tokio::sync::oneshot;

use crate::store::calls::intents;
use crate::worker::sender::checked_write::{Checked, Edit, EditField, Outcome};
use crate::worker::socket::protocol::{Answer, AnswerOutcome, Intent, IntentField};

pub type Reply = oneshot::Sender<Json>;

/// A call that is being sent.
pub struct Call {
    pub intent: Intent,
    pub reply: Reply,
    /// Of the credentials that it goes with.
    pub version: i32,
    /// When it was let go.
    pub sent_at: Instant,
}

pub fn differs(f: &IntentField, read: &Value) -> bool {
    let is_other = |base| base != conflict::hash(read) && Some(base) != ours_of(f).held_as(read);
    f.compared && base_of(f).is_some_and(is_other)
}

fn ours_of(f: &IntentField) -> Ours {
    let unseen = f.unseen.as_ref();
    Ours {
        unseen: unseen.and_then(|v| Value::from_json(field_of(f).1, v).ok()),
        form: f
            .form
            .as_ref()
            .and_then(|(written, held)| hex::decode(written).zip(hex::decode(held))),
    }
}

/// What a read shows of what was written before.
pub fn sightings(fields: &[IntentField], read: &BTreeMap<u16, Value>) -> BTreeMap<u16, Sighting> {
    let sighting = |f: &IntentField| Some((f.id, ours_of(f).sighting(read.get(&f.id)?)?));
    fields.iter().filter_map(sighting).collect()
}

/// The same, as it is left to the caller.
pub fn left(seen: &BTreeMap<u16, Sighting>) -> Vec<(u16, Option<Json>)> {
    let form = |seen: &Sighting| seen.form.as_ref().map(Value::to_json);
    seen.iter().map(|(id, seen)| (*id, form(seen))).collect()
}

fn base_of(f: &IntentField) -> Option<ShortHash> {
    f.base.as_deref().and_then(hex::decode)
}

pub fn field_of(f: &IntentField) -> (Arc<Field>, DataType) {
    let data_type = f.data_type.parse().unwrap_or(DataType::Text);
    let field = Field {
        name: f.name.clone(),
        data_type,
    };
    (Arc::new(field), data_type)
}

/// The intent as it is committed before anything is sent.
pub fn opening(intent: &Intent) -> intents::Intent<'_> {
    let written = || {
        intent
            .fields
            .iter()
            .filter_map(|f| Some((f, f.value.clone()?)))
    };
    let intended: JsonMap<String, Json> = written()
        .map(|(f, value)| (f.id.to_string(), value))
        .collect();
    intents::Intent {
        write_id: &intent.write_id,
        map_id: intent.map_id,
        shard_key: &intent.shard_key,
        record_key: &intent.record_key,
        cells: written().map(|(f, _)| f.id).collect(),
        intended: intended.into(),
        actor: &intent.actor,
        correlation_id: intent.correlation_id.as_deref(),
        backend_pid: intent.backend_pid,
    }
}

pub fn edit(intent: &Intent) -> Edit {
    let fields = intent.fields.iter().map(|f| {
        let (field, data_type) = field_of(f);
        EditField {
            sent: Vec::new(),
            ours: ours_of(f),
            snapshot: None,
            is_alone: false,
            id: f.id,
            field,
            local: f
                .value
                .as_ref()
                .and_then(|v| Value::from_json(data_type, v).ok()),
            base: base_of(f),
            base_is_guessed: false,
            compared: f.compared,
            policy: ConflictPolicy::CrmWins,
            take: false,
        }
    });
    Edit {
        crm_id: intent.crm_id.clone(),
        attempts: 0,
        fields: fields.collect(),
        strict: true,
        scope: ConflictScope::Fields,
        changed_at: None,
    }
}

pub fn by_id<'a>(values: impl Iterator<Item = (&'a u16, &'a Value)>) -> JsonMap<String, Json> {
    values
        .map(|(id, value)| (id.to_string(), value.to_json()))
        .collect()
}

/// The caller's answer.
pub fn answer(intent: &Intent, checked: &Checked) -> Answer {
    let mut values = checked.read.as_ref().map(|read| by_id(read.iter()));
    let seen = checked.read.as_ref();
    let seen = seen.map(|read| left(&sightings(&intent.fields, read)));
    let seen = seen.unwrap_or_default();
    match &checked.outcome {
        Outcome::Conflict => Answer {
            outcome: AnswerOutcome::Conflict,
            values,
            error_class: Some("conflict".to_owned()),
            error: Some("the CRM has a value that the edit was not based on".to_owned()),
            seen,
            ..Answer::default()
        },
        Outcome::Failed(failure) => Answer {
            outcome: AnswerOutcome::Pending,
            values,
            error_class: Some(failure.class.name().to_owned()),
            error: Some(format!("{} ({})", failure.message, failure.code)),
            seen,
            ..Answer::default()
        },
        Outcome::Done(decisions) => {
            let written = intent.fields.iter().filter_map(|f| {
                let now = matches!(
                    decisions.iter().find(|(id, _)| *id == f.id)?.1,
                    Decision::Write | Decision::AlreadyApplied
                );
                now.then_some((f.id.to_string(), f.value.clone()?))
            });
            let held = by_id(checked.held.iter());
            if let Some(values) = &mut values {
                values.extend(written);
                values.extend(held.clone());
            }
            let written = decisions.iter().filter(|(_, d)| *d == Decision::Write);
            Answer {
                outcome: AnswerOutcome::Committed,
                values,
                written: written.map(|(id, _)| *id).collect(),
                held,
                seen,
                ..Answer::default()
            }
        }
    }
}

pub fn send_answer(reply: Reply, answer: &Answer) {
    let _ = reply
        .send(serde_json::to_value(answer).unwrap_or_else(|e| json!({"error": e.to_string()})));
}
