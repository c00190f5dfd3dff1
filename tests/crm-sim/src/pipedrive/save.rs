//! Writes: reads a body, checks it, applies it.
//!
//! Guarantees: nothing is coerced; all that is wrong with a body is told together; what fails has
//! changed nothing.

use super::account::{is_composite, is_custom, is_first, number_json, record_id, word};
use super::error::PdError;
use crate::faults::RecordFaults;
use crate::schema::Field;
use crate::store::{Change, Object, Stamp};
use crate::value::{Kind, Misfit, Raw, Value, fit};
use serde_json::{Map, Value as Json, json};

#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub stamp: Stamp,
    pub records: &'a RecordFaults,
}

pub fn body(bytes: &[u8]) -> Result<Map<String, Json>, PdError> {
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(body)) => Ok(body),
        _ => Err(PdError::new(400, "Bad request")),
    }
}

/// What a body of either version sets. Version 2 has custom fields apart.
pub fn change_of(object: &Object, body: &Map<String, Json>) -> Result<Change, PdError> {
    let is_first = is_first(&object.def.name);
    let mut flat = Map::new();
    let mut breaches = Vec::new();
    for (name, value) in body {
        match (name.as_str(), value) {
            ("custom_fields", Json::Object(fields)) if !is_first => {
                let (keyed, own): (Vec<_>, Vec<_>) =
                    fields.iter().partition(|(name, _)| is_custom(name));
                flat.extend(keyed.into_iter().map(|(n, v)| (n.clone(), v.clone())));
                breaches.extend(own.into_iter().map(|(name, _)| PdError::not_allowed(name)));
            }
            (name, _) if is_custom(name) && !is_first => breaches.push(PdError::not_allowed(name)),
            (name, value) => {
                flat.insert(name.to_owned(), value.clone());
            }
        }
    }
    let change = change_of_flat(object, &flat);
    match (change, breaches.is_empty()) {
        (Ok(change), true) => Ok(change),
        (Ok(_), false) => Err(PdError::schema(&breaches)),
        (Err(more), _) => {
            breaches.extend(more);
            Err(PdError::schema(&breaches))
        }
    }
}

/// What fields set, all of them side by side.
pub fn change_of_flat(object: &Object, fields: &Map<String, Json>) -> Result<Change, Vec<String>> {
    let mut change = Change::with_capacity(fields.len());
    let mut breaches = Vec::new();
    for (name, value) in fields {
        let known = object
            .def
            .field(name)
            .filter(|(_, field)| field.name() == name);
        match known.filter(|(_, field)| field.writable()) {
            None => breaches.push(PdError::not_allowed(name)),
            Some((at, field)) => match value_of(field, value) {
                Ok(None) if field.spec.required => {
                    breaches.push(format!("{name}: {name} is required"))
                }
                Ok(value) => change.push((at, value)),
                Err(breach) => breaches.push(format!("{name}: {breach}")),
            },
        }
    }
    match breaches.is_empty() {
        true => Ok(change),
        false => Err(breaches),
    }
}

fn value_of(field: &Field, value: &Json) -> Result<Option<Value>, String> {
    if value.is_null() {
        return Ok(None);
    }
    if is_composite(field) {
        return composite(field, value);
    }
    let expected = |what: &str| Err(format!("Expected {what}, received {}", kind(value)));
    match (field.kind, value) {
        (Kind::Bool, Json::Bool(_)) | (Kind::Number, Json::Number(_)) => {}
        (Kind::Bool, _) => return expected("boolean"),
        (Kind::Number, _) => return expected("number"),
        (_, Json::String(_)) => {}
        _ => return expected("string"),
    }
    if field.spec.native == "enum" && !is_option(field, value) {
        return Err("Invalid option".to_owned());
    }
    if field.spec.native == "status" && !field.spec.values.iter().any(|held| *value == **held) {
        return Err("Invalid enum value".to_owned());
    }
    if !matches!(field.spec.native.as_str(), "double" | "enum") && field.kind == Kind::Number {
        let whole = value.as_i64().is_some_and(|n| n >= 0);
        if !whole {
            return Err("Expected integer".to_owned());
        }
    }
    fit(field, Raw::from(value)).map_err(|misfit| match misfit {
        Misfit::TooLong { limit } => format!("String must contain at most {limit} character(s)"),
        _ => format!("Invalid {}", field.spec.native),
    })
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// Options are numbered from 1, as the field lists them.
fn is_option(field: &Field, value: &Json) -> bool {
    let count = field.spec.values.len() as u64;
    value.as_u64().is_some_and(|id| (1..=count).contains(&id))
}

fn composite(field: &Field, value: &Json) -> Result<Option<Value>, String> {
    let expected = |what: &str| Err(format!("Expected {what}, received {}", kind(value)));
    let kept = match (field.spec.native.as_str(), value) {
        ("set", Json::Array(items)) if items.is_empty() => {
            return Err("Array must contain at least 1 element(s)".to_owned());
        }
        ("set", Json::Array(items)) if !items.iter().all(|item| is_option(field, item)) => {
            return Err("Invalid option".to_owned());
        }
        ("labels", Json::Array(items)) if !items.iter().all(Json::is_u64) => {
            return expected("number");
        }
        ("labels", Json::Array(items)) if items.is_empty() => return Ok(None),
        ("labels", Json::Array(items))
            if !field.spec.values.is_empty()
                && !items.iter().all(|item| is_option(field, item)) =>
        {
            return Err("Invalid option".to_owned());
        }
        ("set" | "labels", Json::Array(items)) => {
            let mut ids: Vec<u64> = items.iter().filter_map(Json::as_u64).collect();
            ids.sort_unstable();
            ids.dedup();
            json!(ids)
        }
        ("set" | "labels" | "addresses", other) if !other.is_array() => return expected("array"),
        ("addresses", list) => return addresses(list),
        ("monetary", Json::Object(parts)) => {
            let sound = parts.len() == 2 && parts.get("value").is_some_and(Json::is_number);
            if !sound || !parts.get("currency").is_some_and(Json::is_string) {
                return Err("value and currency are required".to_owned());
            }
            money("value", parts)?
        }
        ("amount", Json::Object(parts)) => {
            let sound = parts.get("amount").is_some_and(Json::is_number);
            if !sound || !parts.get("currency").is_some_and(Json::is_string) {
                return Err("amount and currency are required".to_owned());
            }
            money("amount", parts)?
        }
        ("address", Json::Object(parts)) => match parts.get("value").and_then(Json::as_str) {
            None => return Err("value: Expected string".to_owned()),
            Some(text) => {
                json!({"value": text, "locality": text.split(',').next_back().map(str::trim)})
            }
        },
        _ => return expected("object"),
    };
    Ok(Some(Value::text(kept.to_string())))
}

/// A number, which is a double as all are, and the code of a currency.
fn money(name: &str, parts: &Map<String, Json>) -> Result<Json, String> {
    let currency = parts["currency"].as_str().unwrap_or_default();
    if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err("currency: Invalid currency".to_owned());
    }
    let number = parts[name].to_string().parse::<f64>();
    let number = number.ok().filter(|number| number.is_finite());
    let number = number.ok_or_else(|| format!("{name}: Expected number"))?;
    Ok(json!({name: number_json(number), "currency": currency}))
}

/// One address is the primary one: the first, if none says so.
fn addresses(list: &Json) -> Result<Option<Value>, String> {
    let mut items: Vec<Json> = list.as_array().cloned().unwrap_or_default();
    for item in &items {
        let parts = item.as_object().ok_or("Expected object")?;
        let strange = parts
            .keys()
            .find(|key| !matches!(key.as_str(), "value" | "primary" | "label"));
        if let Some(name) = strange {
            return Err(format!("Unrecognized key '{name}'"));
        }
        if !item["value"].is_string() {
            return Err("value: Expected string".to_owned());
        }
    }
    let primary = items
        .iter()
        .position(|item| item["primary"] == true)
        .unwrap_or(0);
    for (at, item) in items.iter_mut().enumerate() {
        item["primary"] = (at == primary).into();
        if item["label"].is_null() {
            item["label"] = "work".into();
        }
    }
    match items.is_empty() {
        true => Ok(None),
        false => Ok(Some(Value::text(Json::from(items).to_string()))),
    }
}

/// What a new record needs beyond what each field does.
pub fn require(object: &Object, change: &Change) -> Result<(), PdError> {
    let has = |name: &str| {
        let at = object.def.field(name).map(|(at, _)| at);
        at.is_some_and(|at| {
            change
                .iter()
                .any(|(sent, value)| *sent == at && value.is_some())
        })
    };
    let required = object
        .def
        .visible()
        .filter(|(_, field)| field.spec.required);
    let missing: Vec<String> = required
        .filter(|(_, field)| !has(field.name()))
        .map(|(_, field)| format!("{0}: {0} is required", field.name()))
        .collect();
    if !missing.is_empty() {
        return Err(PdError::schema(&missing));
    }
    let linked: &[&str] = match object.def.name.as_str() {
        "leads" => &["person_id", "organization_id"],
        "notes" => &["deal_id", "person_id", "org_id", "lead_id"],
        _ => return Ok(()),
    };
    match linked.iter().any(|name| has(name)) {
        true => Ok(()),
        false => Err(PdError::new(
            400,
            format!(
                "A {} must be linked to one of {}",
                word(object),
                linked.join(", ")
            ),
        )),
    }
}

/// Whether a fault wants this record to fail.
pub fn strike(
    object: &Object,
    slot: Option<u32>,
    change: &Change,
    writer: &Writer<'_>,
) -> Result<(), PdError> {
    if writer.records.is_empty() {
        return Ok(());
    }
    let id = slot.map(|slot| record_id(object, slot));
    let ids: Vec<&str> = id.as_deref().into_iter().collect();
    match writer.records.strike(&ids, &object.keys(slot, change)) {
        None => Ok(()),
        Some(failure) => {
            let status = failure
                .code
                .parse()
                .ok()
                .filter(|status| (400..600).contains(status));
            Err(PdError::new(status.unwrap_or(400), failure.message))
        }
    }
}
