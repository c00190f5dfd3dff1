//! Writes of single records: reads what was sent, checks it, applies it.
//!
//! Guarantees: rows, Collections and Bulk all write through here, so one rule has one behaviour; a
//! record that fails has changed nothing.

use super::error::{SfError, misfit};
use super::reference::{reference, related};
use super::{duplicates, form, id, org};
use crate::faults::RecordFaults;
use crate::schema::{Field, Source};
use crate::store::{Change, Life, Object, Stamp, Store, Taken};
use crate::value::{Kind, Raw, Value};
use serde_json::{Map, Value as Json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    New,
    Slot(u32),
}

#[derive(Debug, Clone, Copy)]
pub struct Saved {
    pub slot: u32,
    pub created: bool,
}

/// Who writes, when, and which records are to fail.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    pub stamp: Stamp,
    pub records: &'a RecordFaults,
    /// Whether the caller wants records saved that a duplicate rule warns of.
    pub duplicates: bool,
}

/// Reads the fields of a JSON record; `skip` names keys that are not fields.
pub fn change_of(
    store: &Store,
    object: &Object,
    fields: &Map<String, Json>,
    skip: &[&str],
    creating: bool,
) -> Result<Change, SfError> {
    let mut change = Change::with_capacity(fields.len());
    for (name, value) in fields {
        if skip.iter().any(|skip| skip.eq_ignore_ascii_case(name)) {
            continue;
        }
        match value {
            Json::Object(parent) => change.push(related(store, object, name, parent)?),
            _ => change.push(cell(store, object, name, Raw::from(value), creating)?),
        }
    }
    Ok(change)
}

/// Reads one field.
pub fn cell(
    store: &Store,
    object: &Object,
    name: &str,
    raw: Raw<'_>,
    creating: bool,
) -> Result<(u16, Option<Value>), SfError> {
    let (at, field) =
        (object.def.field(name)).ok_or_else(|| SfError::unknown_field(name, &object.def.name))?;
    if !field.writable() {
        let verb = if creating { "create" } else { "update" };
        let message = format!(
            "Unable to {verb} fields: {}. Please check the security settings of this field and \
             verify that it is read/write for your profile or permission set.",
            field.name()
        );
        let code = "INVALID_FIELD_FOR_INSERT_UPDATE";
        return Err(SfError::of_field(code, message, field.name()));
    }
    Ok((at, value_of(store, field, raw)?))
}

fn value_of(store: &Store, field: &Field, raw: Raw<'_>) -> Result<Option<Value>, SfError> {
    let raw = form::bare(raw);
    if let (Kind::Reference, Raw::Text(text)) = (field.kind, raw)
        && !text.is_empty()
    {
        return reference(store, field, text).map(Some);
    }
    let value = form::kept(field, raw).map_err(|error| misfit(field, &shown(raw), error))?;
    match (value, field.kind) {
        (None, Kind::Bool) => Ok(Some(Value::Bool(false))),
        (value, _) => Ok(value),
    }
}

fn shown(raw: Raw<'_>) -> String {
    match raw {
        Raw::Text(text) | Raw::Number(text) => text.to_owned(),
        Raw::Bool(value) => value.to_string(),
        Raw::Null => "null".to_owned(),
        Raw::Nested => "START_OBJECT".to_owned(),
    }
}

/// Which record an upsert means.
pub fn resolve(object: &Object, key: &str, value: &str) -> Result<Target, SfError> {
    let lookup = |(_, field): &(u16, &Field)| field.spec.external_id || field.source == Source::Id;
    let (at, field) = object.def.field(key).filter(lookup).ok_or_else(|| {
        let message = format!(
            "Field name provided, {key} is not an External ID or indexed field for {}",
            object.def.name
        );
        match object.def.field(key) {
            Some(_) => SfError::new(400, "INVALID_FIELD", message),
            None => SfError::new(404, "NOT_FOUND", message),
        }
    })?;
    if field.source == Source::Id {
        return match org::live_slot(object, value) {
            Some(slot) => Ok(Target::Slot(slot)),
            None => Err(missing_id(object, value)),
        };
    }
    let kept = form::kept(field, form::bare(Raw::Text(value)));
    let kept = kept.ok().flatten();
    let key = kept.as_ref().and_then(Value::key);
    match object.find(at, key.as_deref().unwrap_or(value)) {
        [] => Ok(Target::New),
        [slot] => Ok(Target::Slot(*slot)),
        several => Err(SfError {
            fields: several
                .iter()
                .map(|slot| org::record_id(object, *slot))
                .collect(),
            ..SfError::new(
                300,
                "DUPLICATE_EXTERNAL_ID",
                "more than one record found for external id",
            )
        }),
    }
}

pub fn missing_id(object: &Object, text: &str) -> SfError {
    match org::slot(object, text) {
        Some(_) => SfError::new(404, "ENTITY_IS_DELETED", "entity is deleted"),
        None if !id::well_formed(text) => {
            SfError::of_field("MALFORMED_ID", format!("malformed id {text}"), "Id")
        }
        None => {
            let code = "INVALID_CROSS_REFERENCE_KEY";
            SfError::new(404, code, "invalid cross reference id")
        }
    }
}

/// Checks required and unique fields and applies the change.
pub fn save(
    object: &mut Object,
    target: Target,
    change: Change,
    writer: &Writer<'_>,
) -> Result<Saved, SfError> {
    strike(object, target, &change, writer)?;
    require(object, target, &change)?;
    duplicates::check(object, target, &change, writer.duplicates)?;
    let created = target == Target::New;
    let result = match target {
        Target::New => object.insert(change, writer.stamp),
        Target::Slot(slot) => object.update(slot, change, writer.stamp).map(|()| slot),
    };
    result
        .map(|slot| Saved { slot, created })
        .map_err(|taken| duplicate(object, &taken))
}

pub fn delete(object: &mut Object, id: &str, writer: &Writer<'_>) -> Result<u32, SfError> {
    let slot = org::live_slot(object, id).ok_or_else(|| missing_id(object, id))?;
    strike(object, Target::Slot(slot), &Change::new(), writer)?;
    object
        .set_life(slot, Life::Deleted, writer.stamp)
        .map_err(|taken| duplicate(object, &taken))?;
    Ok(slot)
}

fn strike(
    object: &Object,
    target: Target,
    change: &Change,
    writer: &Writer<'_>,
) -> Result<(), SfError> {
    if writer.records.is_empty() {
        return Ok(());
    }
    let slot = match target {
        Target::Slot(slot) => Some(slot),
        _ => None,
    };
    let id = slot.map(|slot| org::record_id(object, slot));
    let ids = id.iter().flat_map(|id| [id.as_str(), &id[..15]]);
    let ids: Vec<&str> = ids.collect();
    match writer.records.strike(&ids, &object.keys(slot, change)) {
        None => Ok(()),
        Some(failure) => Err(SfError {
            fields: failure.fields,
            ..SfError::new(400, &failure.code, failure.message)
        }),
    }
}

fn require(object: &Object, target: Target, change: &Change) -> Result<(), SfError> {
    let mut missing = Vec::new();
    for (at, field) in object.def.visible() {
        if !field.spec.required || field.kind == Kind::Bool {
            continue;
        }
        let sent = change.iter().rev().find(|(sent, _)| *sent == at);
        let empty = match (sent, target) {
            (Some((_, value)), _) => value.is_none(),
            (None, Target::New) => field.default.is_none(),
            (None, Target::Slot(_)) => false,
        };
        if empty {
            missing.push(field.name().to_owned());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("Required fields are missing: [{}]", missing.join(", "));
    Err(SfError {
        fields: missing,
        ..SfError::new(400, "REQUIRED_FIELD_MISSING", message)
    })
}

fn duplicate(object: &Object, taken: &Taken) -> SfError {
    let field = object.def.fields[taken.field as usize].name();
    let holder = org::record_id(object, taken.by);
    let message =
        format!("duplicate value found: {field} duplicates value on record with id: {holder}");
    // Salesforce names the field only in the text.
    SfError::new(400, "DUPLICATE_VALUE", message)
}
