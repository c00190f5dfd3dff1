//! `/composite/sobjects`: up to 200 records per request.
//!
//! Guarantees: answers stand in the order of the request; with `allOrNone` either all records are
//! written or none; without it a bad record harms no other.

use super::error::SfError;
use super::rows::body_map;
use super::save::{self, Saved, Target, Writer};
use super::{org, retrieve};
use crate::http::{Request, Response};
use crate::store::{Record, Store};
use crate::value::Raw;
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;

pub const MAX_RECORDS: usize = 200;
const MAX_CHUNKS: usize = 10;

type Answer = Result<Response, SfError>;

#[derive(Clone, Copy)]
enum Verb<'a> {
    Create,
    Update,
    Upsert { at: usize, key: &'a str },
}

struct Undo {
    object: usize,
    slot: u32,
    before: Option<Record>,
}

pub fn answer(
    store: &mut Store,
    request: &Request,
    path: &[&str],
    version: &str,
    writer: &Writer,
) -> Answer {
    match (request.method.as_str(), path) {
        ("POST", []) => write(store, request, Verb::Create, writer),
        ("PATCH", []) => write(store, request, Verb::Update, writer),
        ("DELETE", []) => delete(store, request, writer),
        ("PATCH", [name, key]) => {
            let at = store.position(name).ok_or_else(SfError::not_found)?;
            write(store, request, Verb::Upsert { at, key }, writer)
        }
        ("GET" | "POST", [name]) => retrieve::answer(store, request, name, version),
        (method, _) => Err(SfError::method(method, "GET,POST,PATCH,DELETE")),
    }
}

fn write(store: &mut Store, request: &Request, verb: Verb, writer: &Writer) -> Answer {
    let mut body = body_map(request)?;
    let all_or_none = body.get("allOrNone") == Some(&Json::Bool(true));
    let Some(Json::Array(records)) = body.remove("records") else {
        return Err(SfError::unparsable(
            "The records property is missing or not a list",
        ));
    };
    check_size(&records)?;
    // Everything is read before anything is written: an unreadable record spoils the whole request.
    let mut orders = Vec::with_capacity(records.len());
    for record in &records {
        let order = read(store, record, verb);
        match order {
            Err(error) if error.spoils_request() => return Err(error),
            order => orders.push(order),
        }
    }
    let mut seen = HashSet::new();
    let mut undo = Vec::new();
    let results: Vec<_> = orders
        .into_iter()
        .map(|order| {
            let (at, target, change) = order?;
            // Two entries for one new external id: the first one made the record.
            let target = match (verb, target) {
                (Verb::Upsert { key, .. }, Target::New) => again(store, at, key, &change)?,
                (_, target) => target,
            };
            if let Target::Slot(slot) = target
                && !seen.insert((at, slot))
            {
                let id = org::record_id(&store.objects[at], slot);
                return Err(SfError::new(
                    400,
                    "DUPLICATE_VALUE",
                    format!("duplicate id specified: {id}"),
                ));
            }
            let object = &mut store.objects[at];
            let before = match target {
                Target::Slot(slot) if all_or_none => object.record(slot).cloned(),
                _ => None,
            };
            let saved = save::save(object, target, change, writer)?;
            seen.insert((at, saved.slot));
            let slot = saved.slot;
            undo.push(Undo {
                object: at,
                slot,
                before,
            });
            Ok((at, saved))
        })
        .collect();
    let rolled_back = all_or_none && results.iter().any(Result::is_err);
    let shown: Vec<Json> = results
        .into_iter()
        .map(|result| match result {
            Ok(_) if rolled_back => failed(&rolled_back_error()),
            Ok((at, saved)) => succeeded(store, at, saved, matches!(verb, Verb::Upsert { .. })),
            Err(error) => failed(&error),
        })
        .collect();
    if rolled_back {
        for Undo {
            object,
            slot,
            before,
        } in undo.into_iter().rev()
        {
            store.objects[object].restore(slot, before);
        }
    }
    Ok(Response::json(200, &shown))
}

type Order = (usize, Target, crate::store::Change);

fn read(store: &Store, record: &Json, verb: Verb) -> Result<Order, SfError> {
    let Json::Object(fields) = record else {
        return Err(SfError::unparsable("A record must be an object"));
    };
    let named = || type_of(fields).and_then(|name| store.position(name));
    let at = match verb {
        Verb::Upsert { at, .. } => at,
        _ => named().ok_or_else(|| {
            let name = type_of(fields).unwrap_or("null");
            let message = format!("sObject type '{name}' is not supported.");
            SfError::new(400, "INVALID_TYPE", message)
        })?,
    };
    let object = &store.objects[at];
    let id = fields
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("id"));
    let id = id.and_then(|(_, id)| id.as_str());
    let skip = ["attributes", "id"];
    match verb {
        Verb::Create => {
            if id.is_some() {
                let message = "cannot specify Id in an insert call";
                return Err(SfError::of_field(
                    "INVALID_FIELD_FOR_INSERT_UPDATE",
                    message,
                    "Id",
                ));
            }
            let change = save::change_of(store, object, fields, &skip, true)?;
            Ok((at, Target::New, change))
        }
        Verb::Update => {
            let message = "Id not specified in an update call";
            let id = id.ok_or_else(|| SfError::of_field("MISSING_ARGUMENT", message, "Id"))?;
            let change = save::change_of(store, object, fields, &skip, false)?;
            let slot = org::live_slot(object, id).ok_or_else(|| save::missing_id(object, id))?;
            Ok((at, Target::Slot(slot), change))
        }
        Verb::Upsert { key, .. } => {
            if id.is_some() && !key.eq_ignore_ascii_case("id") {
                let message = "The Id field should not be specified in the sobject data.";
                return Err(SfError::of_field("INVALID_FIELD", message, "Id"));
            }
            let value = fields
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key));
            let value = match value {
                Some((_, Json::String(text))) => text.clone(),
                Some((_, Json::Number(number))) => number.to_string(),
                _ => {
                    let message = format!("Missing value for the external ID field {key}");
                    return Err(SfError::of_field("MISSING_ARGUMENT", message, key));
                }
            };
            let target = save::resolve(object, key, &value)?;
            let creating = target == Target::New;
            let change =
                save::change_of(store, object, fields, &["attributes", "id", key], creating)?;
            let mut change = change;
            if creating {
                change.push(save::cell(store, object, key, Raw::Text(&value), true)?);
            }
            Ok((at, target, change))
        }
    }
}

fn again(
    store: &Store,
    at: usize,
    key: &str,
    change: &crate::store::Change,
) -> Result<Target, SfError> {
    let object = &store.objects[at];
    let Some((field, _)) = object.def.field(key) else {
        return Ok(Target::New);
    };
    let value = change.iter().find(|(held, _)| *held == field);
    match value.and_then(|(_, value)| value.as_ref()?.as_text()) {
        Some(text) if !object.find(field, text).is_empty() => {
            let message = format!("Duplicate external id specified: {text}");
            Err(SfError::of_field("DUPLICATE_VALUE", message, key))
        }
        _ => Ok(Target::New),
    }
}

fn type_of(fields: &Map<String, Json>) -> Option<&str> {
    fields.get("attributes")?.get("type")?.as_str()
}

fn check_size(records: &[Json]) -> Result<(), SfError> {
    if records.len() > MAX_RECORDS {
        let message =
            format!("The number of records in the request exceeds the limit of {MAX_RECORDS}.");
        return Err(SfError::new(400, "EXCEEDED_MAX_RECORDS", message));
    }
    let types = records
        .iter()
        .map(|record| record.get("attributes")?.get("type")?.as_str());
    let types: Vec<_> = types.collect();
    let chunks = 1 + types.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if chunks > MAX_CHUNKS {
        let message = format!("Cannot process more than {MAX_CHUNKS} chunks of sObject types");
        return Err(SfError::new(400, "LIMIT_EXCEEDED", message));
    }
    Ok(())
}

fn delete(store: &mut Store, request: &Request, writer: &Writer) -> Answer {
    let ids = request.list("ids");
    if ids.len() > MAX_RECORDS {
        let message = format!("The number of ids exceeds the limit of {MAX_RECORDS}.");
        return Err(SfError::new(400, "EXCEEDED_ID_LIMIT", message));
    }
    let all_or_none = request.param("allOrNone").as_deref() == Some("true");
    let mut undo = Vec::new();
    let results: Vec<_> = ids
        .iter()
        .map(|id| {
            let at = (store.objects.iter())
                .position(|object| id.starts_with(&org::prefix(&object.def)))
                .ok_or_else(|| {
                    SfError::of_field("MALFORMED_ID", format!("malformed id {id}"), "Id")
                })?;
            let object = &mut store.objects[at];
            let before = org::live_slot(object, id).and_then(|slot| object.record(slot).cloned());
            let slot = save::delete(object, id, writer)?;
            undo.push(Undo {
                object: at,
                slot,
                before,
            });
            Ok((at, slot))
        })
        .collect();
    let rolled_back = all_or_none && results.iter().any(Result::is_err);
    if rolled_back {
        for Undo {
            object,
            slot,
            before,
        } in undo.into_iter().rev()
        {
            store.objects[object].restore(slot, before);
        }
    }
    let shown: Vec<Json> = results
        .into_iter()
        .map(|result: Result<_, SfError>| match result {
            Ok(_) if rolled_back => failed(&rolled_back_error()),
            Ok((at, slot)) => {
                let id = org::record_id(&store.objects[at], slot);
                json!({"id": id, "success": true, "errors": []})
            }
            Err(error) => failed(&error),
        })
        .collect();
    Ok(Response::json(200, &shown))
}

fn succeeded(store: &Store, at: usize, saved: Saved, upsert: bool) -> Json {
    let id = org::record_id(&store.objects[at], saved.slot);
    let mut shown = json!({"id": id, "success": true, "errors": []});
    if upsert {
        shown["created"] = saved.created.into();
    }
    shown
}

fn failed(error: &SfError) -> Json {
    json!({"success": false, "errors": [error.entry()]})
}

fn rolled_back_error() -> SfError {
    let message = "Record rolled back because not all records were valid and the request was using \
                   AllOrNone header";
    SfError::new(400, "ALL_OR_NONE_OPERATION_ROLLED_BACK", message)
}
