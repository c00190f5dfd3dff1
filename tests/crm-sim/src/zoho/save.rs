//! Writes: reads the records of a body, checks and applies each by itself.
//!
//! Guarantees: a record that fails has changed nothing and stops no other; outcomes come in the
//! order of the records. Keys that are no fields are passed over, as Zoho does.

use super::error::ZohoError;
use super::org::{is_list, is_reference, moment, record_id, user};
use super::records::live;
use crate::decimal;
use crate::faults::RecordFaults;
use crate::schema::Field;
use crate::store::{Change, Life, Object, Stamp};
use crate::value::{Kind, Misfit, Raw, Value, fit};
use serde_json::{Map, Value as Json, json};

/// What a number may be: 16 digits.
const MOST: i64 = 9_999_999_999_999_999;

#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub stamp: Stamp,
    pub records: &'a RecordFaults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Insert,
    Update,
    Upsert,
}

/// What fields set. Of a field of the system nothing is said: it is passed over, too.
pub fn change_of(object: &Object, fields: &Map<String, Json>) -> Result<Change, ZohoError> {
    let mut change = Change::with_capacity(fields.len());
    for (name, value) in fields {
        let known = object
            .def
            .field(name)
            .filter(|(_, field)| field.name() == name);
        let Some((at, field)) = known.filter(|(_, field)| field.writable()) else {
            continue;
        };
        let value = value_of(field, value)?;
        if value.is_none() && field.spec.required {
            return Err(ZohoError::field("MANDATORY_NOT_FOUND", name, json!({})));
        }
        change.push((at, value));
    }
    Ok(change)
}

fn value_of(field: &Field, value: &Json) -> Result<Option<Value>, ZohoError> {
    let expected = |kind: &str| {
        ZohoError::field(
            "INVALID_DATA",
            field.name(),
            json!({"expected_data_type": kind}),
        )
    };
    if value.is_null() {
        return Ok(None);
    }
    if is_reference(field) {
        let id = id_of(&value["id"]).ok_or_else(|| expected("jsonobject"))?;
        return Ok(Some(Value::text(id)));
    }
    if is_list(field) {
        let items = value.as_array().ok_or_else(|| expected("jsonarray"))?;
        let words: Option<Vec<&str>> = items.iter().map(Json::as_str).collect();
        let words = words.ok_or_else(|| expected("text"))?;
        let restricted = field.spec.restricted;
        if restricted
            && words
                .iter()
                .any(|word| !field.spec.values.iter().any(|v| v == word))
        {
            return Err(expected("multiselectpicklist"));
        }
        return Ok((!words.is_empty()).then(|| Value::text(words.join(";"))));
    }
    let fits = match field.kind {
        Kind::Bool => value.is_boolean(),
        Kind::Int | Kind::Number => value.is_number(),
        // A fraction of a second is refused.
        Kind::Second => value.as_str().is_some_and(|text| !text.contains('.')),
        _ => value.is_string(),
    };
    if !fits {
        return Err(expected(&field.spec.native));
    }
    // What surrounds a text of one line is not kept.
    let one_line = matches!(
        field.spec.native.as_str(),
        "text" | "email" | "phone" | "website" | "picklist"
    );
    let raw = match value {
        Json::String(text) if one_line => Raw::Text(text.trim()),
        value => Raw::from(value),
    };
    let rounded;
    let raw = match (raw, field.spec.scale) {
        (Raw::Number(text), Some(digits)) => {
            let number = decimal::rounded(text, digits, MOST);
            rounded = number
                .ok_or_else(|| expected(&field.spec.native))?
                .to_plain_string();
            Raw::Number(&rounded)
        }
        (raw, _) => raw,
    };
    fit(field, raw).map_err(|misfit| match misfit {
        Misfit::TooLong { limit } => ZohoError::field(
            "INVALID_DATA",
            field.name(),
            json!({"maximum_length": limit}),
        ),
        _ => expected(&field.spec.native),
    })
}

/// An id: text, or the number that Zoho's own library sends.
pub fn id_of(id: &Json) -> Option<String> {
    match id {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// One record of a body.
pub fn save(
    object: &mut Object,
    verb: Verb,
    index: usize,
    item: &Json,
    keys: &[String],
    writer: &Writer<'_>,
) -> Result<Json, ZohoError> {
    let fields = item.as_object();
    let fields = fields.ok_or_else(|| ZohoError::new(400, "INVALID_DATA", "body"))?;
    let change = change_of(object, fields)?;
    let mut found_by = Json::Null;
    let slot = match verb {
        Verb::Insert => None,
        Verb::Update => {
            let missing = || ZohoError::field("MANDATORY_NOT_FOUND", "id", json!({}));
            let id = id_of(&item["id"]).ok_or_else(missing)?;
            let slot = live(object, &id);
            Some(slot.ok_or_else(|| ZohoError::no_record(index))?)
        }
        Verb::Upsert => match duplicate(object, &change, keys) {
            Some((field, slot)) => {
                found_by = field.into();
                Some(slot)
            }
            None => None,
        },
    };
    strike(object, slot, &change, writer)?;
    if slot.is_none() {
        require(object, &change)?;
    }
    let inserted = slot.is_none();
    let saved = match slot {
        None => object.insert(change, writer.stamp),
        Some(slot) => object.update(slot, change, writer.stamp).map(|()| slot),
    };
    let slot = saved.map_err(|taken| {
        let holder =
            json!({"id": record_id(object, taken.by), "module": {"api_name": object.def.name}});
        let name = object.def.fields[taken.field as usize].name();
        ZohoError::field(
            "DUPLICATE_DATA",
            name,
            json!({"duplicate_record": holder, "id": holder["id"]}),
        )
    })?;
    let record = &object.records[slot as usize];
    let verb = if inserted { "insert" } else { "update" };
    Ok(json!({
        "code": "SUCCESS",
        "status": "success",
        "message": if inserted { "record added" } else { "record updated" },
        "action": verb,
        "duplicate_field": found_by,
        "details": {
            "id": record_id(object, slot),
            "Modified_Time": moment(record.modified),
            "Modified_By": user(record.modified_by),
            "Created_Time": moment(record.created),
            "Created_By": user(record.created_by),
        },
    }))
}

/// The fields by which Zoho itself tells a record that is there already.
fn own_keys(object: &Object) -> Vec<&str> {
    let own = match object.def.name.as_str() {
        "Leads" | "Contacts" => Some("Email"),
        "Accounts" => Some("Account_Name"),
        "Deals" => Some("Deal_Name"),
        _ => None,
    };
    let unique = object.def.visible().filter(|(_, field)| field.spec.unique);
    let unique = unique.map(|(_, field)| field.name());
    own.into_iter().chain(unique).collect()
}

/// The record that holds one of the values that are checked, and the first field that finds one.
fn duplicate(object: &Object, change: &Change, keys: &[String]) -> Option<(String, u32)> {
    let checked: Vec<&str> = match keys.is_empty() {
        true => own_keys(object),
        false => keys.iter().map(String::as_str).collect(),
    };
    let find = |name: &&str| {
        let (at, field) = object.def.field(name)?;
        let (_, value) = change.iter().find(|(sent, _)| *sent == at)?;
        let slot = holder(object, at, value.as_ref()?.as_text()?)?;
        Some((field.name().to_owned(), slot))
    };
    checked.iter().find_map(find)
}

/// The live record whose field holds the text, by an index or one after the other.
pub fn holder(object: &Object, at: u16, text: &str) -> Option<u32> {
    if object.def.fields[at as usize].indexed() {
        return object.find(at, text).first().copied();
    }
    let sought = text.to_lowercase();
    let mut slots = 0..object.records.len() as u32;
    slots.find(|slot| {
        let held = object
            .live(*slot)
            .and_then(|record| record.get(at)?.as_text());
        held.is_some_and(|held| held.to_lowercase() == sought)
    })
}

fn require(object: &Object, change: &Change) -> Result<(), ZohoError> {
    let sent = |at: u16| {
        change
            .iter()
            .any(|(held, value)| *held == at && value.is_some())
    };
    let mut required = object
        .def
        .visible()
        .filter(|(_, field)| field.spec.required);
    match required.find(|(at, _)| !sent(*at)) {
        None => Ok(()),
        Some((_, field)) => Err(ZohoError::field(
            "MANDATORY_NOT_FOUND",
            field.name(),
            json!({}),
        )),
    }
}

pub fn delete(
    object: &mut Object,
    index: usize,
    id: &str,
    writer: &Writer<'_>,
) -> Result<Json, ZohoError> {
    let slot = live(object, id).ok_or_else(|| ZohoError::no_record(index))?;
    strike(object, Some(slot), &Vec::new(), writer)?;
    // Deleting frees values; it cannot collide.
    let _ = object.set_life(slot, Life::Deleted, writer.stamp);
    Ok(
        json!({"code": "SUCCESS", "status": "success", "message": "record deleted", "details": {"id": id}}),
    )
}

/// Whether a fault wants this record to fail.
fn strike(
    object: &Object,
    slot: Option<u32>,
    change: &Change,
    writer: &Writer<'_>,
) -> Result<(), ZohoError> {
    if writer.records.is_empty() {
        return Ok(());
    }
    let id = slot.map(|slot| record_id(object, slot));
    let ids: Vec<&str> = id.as_deref().into_iter().collect();
    match writer.records.strike(&ids, &object.keys(slot, change)) {
        None => Ok(()),
        Some(failure) => Err(ZohoError::new(400, &failure.code, failure.message)),
    }
}
