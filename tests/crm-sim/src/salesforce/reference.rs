//! References to other records, by id and by the parent's external id.
//!
//! Guarantees: a reference that is stored names a live record, if the simulator holds such objects.

use super::error::SfError;
use super::{id, org};
use crate::schema::Field;
use crate::store::{Object, Store};
use crate::value::Value;
use serde_json::{Map, Value as Json};

pub fn reference(store: &Store, field: &Field, text: &str) -> Result<Value, SfError> {
    let (name, label) = (field.name(), field.label());
    let Some(canonical) = id::canonical(text) else {
        let message = format!("{label}: id value of incorrect type: {text}");
        return Err(SfError::of_field("MALFORMED_ID", message, name));
    };
    let targets = field
        .spec
        .references
        .iter()
        .filter_map(|to| store.object(to));
    let mut known = false;
    for target in targets {
        known = true;
        if org::live_slot(target, &canonical).is_some() {
            return Ok(Value::text(canonical));
        }
        if canonical.starts_with(&org::prefix(&target.def)) {
            let message = "invalid cross reference id";
            return Err(SfError::of_field(
                "INVALID_CROSS_REFERENCE_KEY",
                message,
                name,
            ));
        }
    }
    match known {
        true => {
            let message = format!("{label}: id value of incorrect type: {text}");
            Err(SfError::of_field(
                "FIELD_INTEGRITY_EXCEPTION",
                message,
                name,
            ))
        }
        // Users and whatever else the simulator does not hold.
        false => Ok(Value::text(canonical)),
    }
}

/// `"Account": {"External_Key__c": "A-1"}`: a reference by the parent's external id.
pub fn related(
    store: &Store,
    object: &Object,
    name: &str,
    parent: &Map<String, Json>,
) -> Result<(u16, Option<Value>), SfError> {
    let mut keys = parent.iter().filter(|(key, _)| *key != "attributes");
    match (keys.next(), keys.next()) {
        (Some((key, Json::String(value))), None) => {
            related_by(store, object, &format!("{name}.{key}"), value)
        }
        _ => Err(SfError::unknown_field(name, &object.def.name)),
    }
}

/// The same as a path, as CSV headers have it: `Account.External_Key__c`.
pub fn related_by(
    store: &Store,
    object: &Object,
    path: &str,
    value: &str,
) -> Result<(u16, Option<Value>), SfError> {
    let unknown = || SfError::unknown_field(path, &object.def.name);
    let (relation, key) = path.split_once('.').ok_or_else(unknown)?;
    let (at, field) = object.def.field(&column(relation)).ok_or_else(unknown)?;
    if value.is_empty() {
        return Ok((at, None));
    }
    for target in &field.spec.references {
        let Some(target) = store.object(target) else {
            continue;
        };
        let Some((key_at, _)) = target.def.field(key).filter(|(_, key)| key.indexed()) else {
            continue;
        };
        if let [slot] = target.find(key_at, value) {
            return Ok((at, Some(Value::text(org::record_id(target, *slot)))));
        }
    }
    let target = field.spec.references.first().map_or("", String::as_str);
    let message =
        format!("Foreign key external ID: {value} not found for field {key} in entity {target}");
    Err(SfError::new(400, "INVALID_FIELD", message))
}

/// The field behind a relationship: `AccountId` behind `Account`, `Site__c` behind `Site__r`.
pub fn column(relation: &str) -> String {
    match relation.strip_suffix("__r") {
        Some(base) => format!("{base}__c"),
        None => format!("{relation}Id"),
    }
}

/// What the relationship of a reference field is called.
pub fn relation(column: &str) -> Option<String> {
    let custom = column.strip_suffix("__c").map(|base| format!("{base}__r"));
    custom.or_else(|| column.strip_suffix("Id").map(str::to_owned))
}

/// Objects that refer to a parent: their position, the field, and what the parent calls them.
pub fn children(store: &Store, parent: usize) -> impl Iterator<Item = (usize, u16, String)> {
    let to = &store.objects[parent].def.name;
    store
        .objects
        .iter()
        .enumerate()
        .flat_map(move |(at, object)| {
            let fields = object.def.visible();
            let fields = fields.filter(move |(_, field)| field.spec.references.contains(to));
            fields.filter_map(move |(field, spec)| {
                let plural = object.def.plural().replace(' ', "");
                let name = match spec.name() {
                    name if name.ends_with("__c") => format!("{plural}__r"),
                    "ParentId" => format!("Child{plural}"),
                    name if name.strip_suffix("Id") == Some(to) => plural,
                    _ => return None,
                };
                Some((at, field, name))
            })
        })
}
