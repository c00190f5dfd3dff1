//! Requests of `crm.write()` and `crm.read_live()` to the worker, and its answers.

use std::collections::BTreeMap;
use std::time::Duration;

use crm_domain::crm_form::{Ours, Sighting};
use crm_domain::mapping::ConflictScope;
use crm_domain::{Value, conflict, hex};
use pgrx::PgSqlErrorCode;
use serde_json::{Value as Json, json};

use crate::api::write::edit::Edit;
use crate::api::write::target::Target;
use crate::api::{ask, raise, wake};
use crate::store::config::{Map, MappedField};
use crate::store::record::unseen_writes::OurFields;
use crate::worker::socket::protocol::{Answer, AnswerOutcome, Intent, IntentField};

/// The worker bounds its requests itself; this is for one that hangs.
pub const PATIENCE: Duration = Duration::from_secs(3600);

pub fn ask_to_write(
    target: &Target,
    edit: &Edit,
    (crm_id, ours): (&str, Option<&OurFields>),
    intended: &[(u16, Value)],
) -> Answer {
    let field = |f: &MappedField| {
        let value = intended.iter().find(|(id, _)| *id == f.id);
        let compared = f.direction.reads_crm()
            && edit.bases.contains_key(&f.id)
            && !edit.force
            && (edit.compares_base
                // An edit that has nothing to send is refused for nothing.
                || target.map.conflict_scope == ConflictScope::Record
                    && !edit.cells.is_empty()
                    && !f.described.is_computed()
                || edit.cells.contains(f.id));
        let base = edit.bases.get(&f.id).filter(|_| !edit.force);
        let ours = ours.and_then(|ours| ours.get(&f.id));
        IntentField {
            compared,
            ..intent_field(f, value.map(|(_, value)| value), base, ours)
        }
    };
    let intent = Intent {
        write_id: edit.write_id.to_owned(),
        connection_id: target.connection.id,
        map_id: target.map.id,
        shard_key: target.shard_key.clone(),
        record_key: target.record_key.clone(),
        crm_id: crm_id.to_owned(),
        relation: target.map.relation.clone(),
        connection: target.connection.name.clone(),
        provider: target.connection.provider.clone(),
        object: target.map.crm_object.clone(),
        force: edit.force,
        fields: target.map.fields.iter().map(field).collect(),
        actor: edit.actor.to_owned(),
        correlation_id: edit.correlation_id.map(str::to_owned),
        backend_pid: std::process::id() as i32,
    };
    crate::failpoint::reach("caller::asks");
    // If this call ends from here on, for example by a cancel, the row is later set to what the CRM
    // holds.
    wake::if_undone();
    let answer = ask_worker("write", &intent);
    if answer.outcome == AnswerOutcome::Conflict {
        wake::intent_is_closed();
    }
    answer
}

pub fn intent_field(
    f: &MappedField,
    value: Option<&Value>,
    base: Option<&conflict::ShortHash>,
    ours: Option<&Ours>,
) -> IntentField {
    IntentField {
        id: f.id,
        name: f.field.name.clone(),
        data_type: f.field.data_type.name().to_owned(),
        value: value.map(Value::to_json),
        base: base.map(|hash| hex::encode(hash)),
        unseen: ours.and_then(|ours| ours.unseen.as_ref().map(Value::to_json)),
        form: ours
            .and_then(|ours| ours.form)
            .map(|(written, held)| (hex::encode(&written), hex::encode(&held))),
        compared: false,
    }
}

/// What an answer shows of what was written before, by field_id.
pub fn sightings(map: &Map, ours: &OurFields, answer: &Answer) -> BTreeMap<u16, Sighting> {
    let sighting = |(id, form): &(u16, Option<Json>)| {
        let written = ours.get(id)?.unseen.clone()?;
        let data_type = map.field(*id)?.field.data_type;
        let form = form.as_ref();
        let form = form.and_then(|form| Value::from_json(data_type, form).ok());
        Some((*id, Sighting { written, form }))
    };
    answer.seen.iter().filter_map(sighting).collect()
}

pub fn ask_worker(op: &str, request: &impl serde::Serialize) -> Answer {
    let mut request = match serde_json::to_value(request) {
        Ok(Json::Object(request)) => request,
        _ => unreachable!("a struct is a JSON object"),
    };
    request.insert("op".into(), json!(op));
    let answer = ask::ask(request, PATIENCE).and_then(|a| serde_json::from_value(a).ok());
    answer.unwrap_or_else(|| {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "unexpected response from the pg_crm worker".to_owned(),
            None,
            "If the CRM accepted the write, the row will be updated to match. See the server log.",
        )
    })
}
