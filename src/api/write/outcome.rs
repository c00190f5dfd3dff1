//! What a call leaves in its transaction, and what it hands to its caller.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crm_domain::cells::HASH_BYTES;
use crm_domain::storable::storable;
use crm_domain::{AuditResult, Operation, Value, conflict, excerpt, hex, snapshot};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::api::or_raise;
use crate::api::write::edit::Edit;
use crate::api::write::target::Target;
use crate::store::calls::caller;
use crate::store::config::{Map, MappedField};
use crate::store::record::unseen_writes;
use crate::store::table::{cell_value, transform};
use crate::store::{audit, rights};
use crate::worker::socket::protocol::Answer;

/// The CRM has it: the ledger knows.
pub fn record_commit(
    target: &Target,
    edit: &Edit,
    crm_id: Option<&str>,
    answer: &Answer,
    intended: &[(u16, Value)],
) {
    let told: BTreeMap<u16, conflict::ShortHash> = intended
        .iter()
        .filter_map(|(id, _)| {
            let data_type = target.map.field(*id)?.field.data_type;
            let held = Value::from_json(data_type, answer.held.get(&id.to_string())?);
            Some((*id, conflict::hash(&held.ok()?)))
        })
        .collect();
    let mut hashes = Vec::with_capacity(intended.len() * HASH_BYTES);
    let mut forms = BTreeMap::new();
    for (id, value) in intended {
        let row = conflict::hash(value);
        let held = told.get(id).copied().unwrap_or(row);
        hashes.extend(held);
        if held != row {
            forms.insert(*id, (row, held));
        }
    }
    let unseen = intended
        .iter()
        .filter(|(id, _)| answer.written.contains(id) && !told.contains_key(id));
    let unseen = unseen_writes::cells(&target.map, unseen.map(|(id, value)| (*id, value)));
    or_raise(caller::committed(
        &target.map,
        (&target.shard_key, &target.record_key),
        edit.write_id,
        (&edit.cells, &hashes),
        &forms,
        crm_id.zip(unseen.as_deref()),
    ));
}

/// The CRM does not have it: it waits for the reconciler, with what it was based on. A forced edit
/// is based on what was read. What was sent may have arrived all the same, and is then no change of
/// the CRM's.
pub fn queue_edit(target: &Target, edit: &Edit, answer: &Answer, intended: &[(u16, Value)]) {
    let base: JsonMap<String, Json> = edit
        .cells
        .iter()
        .filter_map(|id| {
            let read = answer.values.as_ref().and_then(|v| {
                let field = target.map.field(id)?;
                let value =
                    Value::from_json(field.field.data_type, v.get(&id.to_string())?).ok()?;
                Some(conflict::hash(&value))
            });
            let mut base = JsonMap::new();
            if edit.force {
                base.insert("alone".into(), true.into());
            }
            match read.or(edit.bases.get(&id).copied()) {
                // What would have been the base could not be read: whatever is there then.
                _ if edit.force && read.is_none() => {
                    base.insert("force".into(), true.into());
                }
                Some(_) if read.is_none() && edit.follows.contains(id) => {
                    base.insert("l".into(), true.into());
                }
                Some(hash) => {
                    base.insert("h".into(), hex::encode(&hash).into());
                }
                None => {}
            }
            if let Some((_, sent)) = intended.iter().find(|(sent, _)| *sent == id) {
                base.insert("n".into(), sent.to_json());
                base.insert("s".into(), json!([hex::encode(&conflict::hash(sent))]));
            }
            (!base.is_empty()).then(|| (id.to_string(), base.into()))
        })
        .collect();
    or_raise(caller::queue(
        &target.map,
        &caller::QueuedEdit {
            shard_key: &target.shard_key,
            record_key: &target.record_key,
            write_id: edit.write_id,
            cells: &edit.cells,
            base: Json::Object(base),
            snapshot: answer.values.as_ref().map(|v| snapshot(&target.map, v)),
            actor: edit.actor,
            correlation_id: edit.correlation_id,
        },
    ));
}

/// What was read of the fields that flow in, by field_id. Of what `jsonb` cannot hold, the ledger's
/// hash will do.
fn snapshot(map: &Map, values: &JsonMap<String, Json>) -> Json {
    let fields = map.fields.iter().filter(|f| f.direction.reads_crm());
    let values = fields.filter_map(|f| values.get_key_value(&f.id.to_string()));
    values
        .filter(|(_, value)| matches!(storable(&value.to_string()), Cow::Borrowed(_)))
        .map(|(id, value)| (id.clone(), value.clone()))
        .collect()
}

/// The worker was not asked: only here is it known that the call was refused.
pub fn audit_conflict(
    target: &Target,
    edit: &Edit,
    changed: &[&MappedField],
    changes: JsonMap<String, Json>,
    answer: &Answer,
) {
    let values = or_raise(rights::pinned(|| {
        cell_value::of_object(&target.map, changed, &Json::Object(changes))
    }));
    let fields: JsonMap<String, Json> = values
        .iter()
        .filter_map(|(id, value)| {
            let field = target.map.field(*id)?;
            Some((
                field.field.name.clone(),
                json!({ "new": excerpt::of(value) }),
            ))
        })
        .collect();
    let entry = audit::Entry {
        fields: &Json::Object(fields).to_string(),
        error_class: answer.error_class.as_deref(),
        error: answer.error.as_deref(),
        actor: Some(edit.actor),
        correlation_id: edit.correlation_id,
        write_id: Some(edit.write_id),
        ..audit::Entry::new(
            (&target.shard_key, &target.record_key),
            Operation::Update,
            AuditResult::Conflict,
        )
    };
    or_raise(caller::audited(&target.map, &target.connection, &entry));
}

/// Canonical values by field_id as the table's own types write them, by column.
pub fn in_columns(
    map: &Map,
    fields: &[&MappedField],
    values: &JsonMap<String, Json>,
) -> JsonMap<String, Json> {
    fields
        .iter()
        .filter_map(|f| {
            let canonical = values.get(&f.id.to_string())?;
            let value = match &f.transform_in {
                Some(transform) => or_raise(transform::transformed(map, transform, canonical)),
                None => f.column_json(canonical),
            };
            Some((f.column.clone(), value))
        })
        .collect()
}

/// As `crm.snapshot_hash()` makes it, in bytea's hex form.
pub fn snapshot_hash(map: &Map, values: &JsonMap<String, Json>) -> String {
    let snapshot: BTreeMap<String, Value> = map
        .fields
        .iter()
        .filter_map(|f| {
            let value = Value::from_json(f.field.data_type, values.get(&f.id.to_string())?).ok()?;
            Some((f.field.name.clone(), value))
        })
        .collect();
    format!("\\x{}", snapshot::hash(&snapshot).to_hex())
}
