//! The records of a module: listed, read, written, deleted, and what became of them.
//!
//! Guarantees: a record that fails stops no other, and outcomes come in the order of the records.

use super::error::ZohoError;
use super::org::{self, floor, moment, record_id};
use super::paging::{self, PAGE, number, paged};
use super::save::{self, Verb, Writer};
use super::{Answer, coql, links};
use crate::clock;
use crate::http::{Request, Response};
use crate::store::{Actor, Object, Store};
use serde_json::{Value as Json, json};

const BATCH: usize = 100;
const FIELDS: usize = 50;

/// The record of that id that is not deleted.
pub fn live(object: &Object, id: &str) -> Option<u32> {
    org::slot(object, id).filter(|slot| object.live(*slot).is_some())
}

pub fn all_fields(object: &Object) -> Vec<String> {
    let all = object.def.visible();
    all.map(|(_, field)| field.name().to_owned()).collect()
}

pub fn list(object: &Object, request: &Request, now: i64) -> Answer {
    let names = request.list("fields");
    if names.is_empty() {
        let missing = ZohoError::new(
            400,
            "REQUIRED_PARAM_MISSING",
            "One of the expected parameter is missing",
        );
        return Err(missing.with(json!({"param_name": "fields"})));
    }
    let ids = request.list("ids");
    if names.len() > FIELDS || ids.len() > BATCH {
        return Err(ZohoError::new(
            400,
            "LIMIT_EXCEEDED",
            "too many fields or ids",
        ));
    }
    let live = |slot: &u32| {
        object.live(*slot).is_some() && (ids.is_empty() || ids.contains(&record_id(object, *slot)))
    };
    let mut slots: Vec<u32> = (0..object.records.len() as u32).filter(live).collect();
    if let Some(since) = since(request)? {
        slots.retain(|slot| floor(object.records[*slot as usize].modified) > since);
        if slots.is_empty() {
            return Ok(Response::empty(304));
        }
    }
    paging::list(object, slots, request, now, |slot| {
        org::show(object, slot, &names)
    })
}

pub fn query(store: &Store, request: &Request) -> Answer {
    let body: Json = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = body["select_query"].as_str().unwrap_or_default();
    let query = coql::parse(text)?;
    let found = query.run(store)?;
    let object = store
        .object(&query.module)
        .ok_or_else(ZohoError::no_module)?;
    let records = found
        .iter()
        .map(|slot| org::show(object, *slot, &query.columns))
        .collect();
    Ok(paged(records, 1, query.limit))
}

/// The records of a body, each written by itself.
pub fn write(
    store: &mut Store,
    at: usize,
    request: &Request,
    verb: Verb,
    writer: &Writer<'_>,
) -> Answer {
    let body = body(request)?;
    let items = items(&body)?;
    let object = &store.objects[at];
    let external = links::of_module(object, request)?;
    if let (Some(text), [item]) = (request.header("if-unmodified-since"), items) {
        let since = clock::parse_time(text);
        let slot = save::id_of(&item["id"]).and_then(|id| live(object, &id));
        let changed = slot.map(|slot| floor(object.records[slot as usize].modified));
        if changed
            .zip(since)
            .is_some_and(|(changed, since)| changed > since)
        {
            return Err(ZohoError::new(
                412,
                "ALREADY_MODIFIED",
                "the record was modified already",
            ));
        }
    }
    let mut keys: Vec<String> =
        serde_json::from_value(body["duplicate_check_fields"].clone()).unwrap_or_default();
    for key in &keys {
        if object
            .def
            .field(key)
            .is_none_or(|(_, field)| field.name() != key)
        {
            let error = ZohoError::new(400, "INVALID_DATA", "invalid data");
            return Err(error.with(json!({"api_name": "duplicate_check_fields"})));
        }
    }
    if let (Verb::Upsert, Some(external)) = (verb, &external) {
        keys.insert(0, external.clone());
    }
    let mut told = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let linked = links::resolve(store, at, request, index, item);
        let object = &mut store.objects[at];
        told.push(linked.and_then(|mut item| {
            if let (Verb::Update, Some(external)) = (verb, &external) {
                item["id"] = links::id_by(object, external, &item[external], index)?.into();
            }
            save::save(object, verb, index, &item, &keys, writer)
        }));
    }
    Ok(outcomes(told))
}

fn body(request: &Request) -> Result<Json, ZohoError> {
    serde_json::from_slice(&request.body)
        .map_err(|_| ZohoError::new(400, "INVALID_DATA", "invalid data"))
}

fn items(body: &Json) -> Result<&[Json], ZohoError> {
    let Some(items) = body["data"].as_array().filter(|items| !items.is_empty()) else {
        let missing = ZohoError::new(400, "MANDATORY_NOT_FOUND", "required field not found");
        return Err(missing.with(json!({"api_name": "data"})));
    };
    if items.len() > BATCH {
        let error = ZohoError::new(400, "INVALID_DATA", "invalid data");
        return Err(error.with(json!({"api_name": "data", "maximum_length": BATCH})));
    }
    Ok(items)
}

/// `PUT /{Module}/{id}`: one record, which the path names.
pub fn write_one(
    store: &mut Store,
    at: usize,
    request: &Request,
    id: &str,
    writer: &Writer<'_>,
) -> Answer {
    let id = links::named(&store.objects[at], request, id)?;
    let mut body = body(request)?;
    if items(&body)?.len() > 1 {
        let error = ZohoError::new(400, "INVALID_DATA", "invalid data");
        return Err(error.with(json!({"api_name": "data", "maximum_length": 1})));
    }
    body["data"][0]["id"] = id.into();
    let mut headers = request.headers.clone();
    // The record is found; what is left of the header is of its lookups.
    if let Some(left) = links::of_lookups(request) {
        headers.insert("x-external", left);
    } else {
        headers.remove("x-external");
    }
    let request = Request {
        body: body.to_string().into(),
        headers,
        ..request.clone()
    };
    write(store, at, &request, Verb::Update, writer)
}

/// `GET /{Module}/{id}`: all fields, if none are named.
pub fn read(object: &Object, request: &Request, id: &str) -> Answer {
    let id = links::named(object, request, id)?;
    if id.parse::<u64>().is_err() {
        let error = ZohoError::new(400, "INVALID_DATA", "the id given seems to be invalid");
        return Err(error.with(json!({"api_name": "id"})));
    }
    let mut names = request.list("fields");
    if names.is_empty() {
        names = all_fields(object);
    }
    let Some(slot) = live(object, &id) else {
        return Ok(Response::empty(204));
    };
    let changed = floor(object.records[slot as usize].modified);
    if since(request)?.is_some_and(|since| changed <= since) {
        return Ok(Response::empty(304));
    }
    let record = org::show(object, slot, &names);
    Ok(Response::json(200, &json!({"data": [record]})))
}

pub fn delete(object: &mut Object, request: &Request, writer: &Writer<'_>) -> Answer {
    let ids = request.list("ids");
    if ids.is_empty() || ids.len() > BATCH {
        return Err(ZohoError::new(400, "REQUIRED_PARAM_MISSING", "ids"));
    }
    let external = links::of_module(object, request)?;
    let told = ids.iter().enumerate().map(|(index, id)| {
        let id = match &external {
            Some(external) => links::id_by(object, external, &json!(id), index)?,
            None => id.clone(),
        };
        save::delete(object, index, &id, writer)
    });
    let told = told.collect();
    Ok(outcomes(told))
}

/// `DELETE /{Module}/{id}`
pub fn delete_one(object: &mut Object, request: &Request, id: &str, writer: &Writer<'_>) -> Answer {
    let id = links::named(object, request, id)?;
    let told = save::delete(object, 0, &id, writer);
    Ok(outcomes(vec![told]))
}

fn since(request: &Request) -> Result<Option<i64>, ZohoError> {
    let Some(text) = request.header("if-modified-since") else {
        return Ok(None);
    };
    let wrong = || ZohoError::new(400, "INVALID_DATA", "the header given seems to be invalid");
    let since = clock::parse_time(text).ok_or_else(wrong)?;
    Ok(Some(since))
}

/// The status is as little to be relied upon as Zoho's.
fn outcomes(told: Vec<Result<Json, ZohoError>>) -> Response {
    let good = told.iter().filter(|outcome| outcome.is_ok()).count();
    let status = match (good, told.len()) {
        (0, _) => 202,
        (good, all) if good == all => 200,
        _ => 207,
    };
    let shown: Vec<Json> = told
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|error| error.shown()))
        .collect();
    Response::json(status, &json!({"data": shown}))
}

pub fn deleted(object: &Object, request: &Request) -> Answer {
    let since = request
        .header("if-modified-since")
        .and_then(clock::parse_time);
    let slots = object
        .deleted_since(since.unwrap_or(0))
        .map(|(_, slot)| slot);
    let records = slots.map(|slot| {
        let record = &object.records[slot as usize];
        json!({
            "id": record_id(object, slot), "type": "recycle", "display_name": "x",
            "deleted_by": org::user(record.modified_by), "deleted_time": moment(record.modified),
        })
    });
    let (page, per_page) = (
        number(request, "page", 1000)?,
        number(request, "per_page", PAGE)?,
    );
    Ok(paged(records.collect(), page, per_page))
}

/// Each change of a record, newest first.
pub fn timeline(object: &Object, id: &str) -> Answer {
    let invalid = || {
        ZohoError::new(
            400,
            "INVALID_DATA",
            "the related id given seems to be invalid",
        )
    };
    let slot = live(object, id).ok_or_else(invalid)?;
    let history = &object.records[slot as usize].history;
    let mut entries: Vec<Json> = Vec::new();
    for (n, past) in history.iter().enumerate() {
        let field = &object.def.fields[past.field as usize];
        let before = history[..n]
            .iter()
            .rev()
            .find(|held| held.field == past.field);
        let text = |value: Option<&crate::value::Value>| match value
            .map(|value| org::spelled(field, value))
        {
            None => Json::Null,
            Some(Json::String(text)) => text.into(),
            Some(other) => other.to_string().into(),
        };
        let source = match past.by {
            Actor::Integration => "crm_api",
            Actor::Human => "crm_ui",
        };
        entries.push(json!({
            "audited_time": moment(past.at), "action": "updated", "source": source,
            "done_by": org::user(past.by),
            "field_history": [{"api_name": field.name(), "data_type": field.spec.native, "_value": {
                "old": text(before.and_then(|held| held.value.as_ref())), "new": text(past.value.as_ref()),
            }}],
        }));
    }
    entries.reverse();
    entries.truncate(PAGE);
    match entries.is_empty() {
        true => Ok(Response::empty(204)),
        false => Ok(Response::json(
            200,
            &json!({"__timeline": entries, "info": {"more_records": false}}),
        )),
    }
}
