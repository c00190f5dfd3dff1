//! A call of `crm.write()` or `crm.read_live()`: from the request to an edit, and from its result
//! to the answer.

use std::sync::Arc;

use crm_domain::conflict::{self, Decision, ShortHash};
use crm_domain::crm_form::Ours;
use crm_domain::mapping::{ConflictPolicy, ConflictScope};
use crm_domain::{DataType, Value, hex};
use crm_provider::ReadBatch;
use crm_provider::record::Field;
use serde_json::{Map as JsonMap, Value as Json, json};
use tokio::sync::oneshot;

use crate::store::calls::intents;
use crate::worker::link::{Priority, RequestContext, SharedLink};
use crate::worker::sender::checked_write::{self, Checked, Edit, EditField, Outcome};
use crate::worker::socket::protocol::{Answer, AnswerOutcome, Intent, IntentField, ReadRequest};

pub type Reply = oneshot::Sender<Json>;

/// A call that is being sent.
pub struct Call {
    pub intent: Intent,
    pub reply: Reply,
    /// Of the credentials that it goes with.
    pub version: i32,
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

fn base_of(f: &IntentField) -> Option<ShortHash> {
    f.base.as_deref().and_then(hex::decode)
}

fn field_of(f: &IntentField) -> (Arc<Field>, DataType) {
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

pub async fn read(link: &SharedLink, request: &ReadRequest) -> Answer {
    let fields: Vec<(u16, Arc<Field>)> = request
        .fields
        .iter()
        .map(|f| (f.id, field_of(f).0))
        .collect();
    let batch = ReadBatch {
        object: request.object.clone(),
        ids: vec![request.crm_id.clone()],
        fields: fields.iter().map(|(_, field)| field.clone()).collect(),
        for_write: false,
    };
    let read = link.provider.read(&link.settings, Arc::new(batch));
    let object = link
        .run(&RequestContext::new(Priority::RealTime), read)
        .await
        .map(|mut objects| objects.pop().flatten());
    link.take_outage();
    let values = match object {
        Ok(Some(object)) => checked_write::values(link, fields.into_iter(), &object),
        Ok(None) => {
            let why = "the CRM has no such record any more";
            return Answer::failed(AnswerOutcome::Read, "not_found", why);
        }
        Err(failure) => Err(failure),
    };
    match values {
        Ok(values) => Answer {
            outcome: AnswerOutcome::Read,
            values: Some(by_id(values.iter())),
            ..Answer::default()
        },
        Err(failure) => Answer::failed(
            AnswerOutcome::Read,
            failure.class.name(),
            failure.to_string(),
        ),
    }
}

fn by_id<'a>(values: impl Iterator<Item = (&'a u16, &'a Value)>) -> JsonMap<String, Json> {
    values
        .map(|(id, value)| (id.to_string(), value.to_json()))
        .collect()
}

/// The caller's answer.
pub fn answer(intent: &Intent, checked: &Checked) -> Answer {
    let mut values = checked.read.as_ref().map(|read| by_id(read.iter()));
    match &checked.outcome {
        Outcome::Conflict => Answer {
            outcome: AnswerOutcome::Conflict,
            values,
            error_class: Some("conflict".to_owned()),
            error: Some("the CRM has a value that the edit was not based on".to_owned()),
            ..Answer::default()
        },
        Outcome::Failed(failure) => Answer {
            outcome: AnswerOutcome::Pending,
            values,
            error_class: Some(failure.class.name().to_owned()),
            error: Some(format!("{} ({})", failure.message, failure.code)),
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
            if let Some(values) = &mut values {
                values.extend(written);
            }
            let written = decisions.iter().filter(|(_, d)| *d == Decision::Write);
            Answer {
                outcome: AnswerOutcome::Committed,
                values,
                written: written.map(|(id, _)| *id).collect(),
                ..Answer::default()
            }
        }
    }
}

pub fn send_answer(reply: Reply, answer: &Answer) {
    let _ = reply
        .send(serde_json::to_value(answer).unwrap_or_else(|e| json!({"error": e.to_string()})));
}
