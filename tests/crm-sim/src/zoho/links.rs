//! Records named by external fields: the header `X-EXTERNAL`, and lookups of a body.
//!
//! Guarantees: a lookup names a record that is there; with the header the external value alone
//! counts, without it the id alone.

use super::error::ZohoError;
use super::org::{is_reference, record_id};
use super::records::live;
use super::save::{holder, id_of};
use crate::http::Request;
use crate::schema::Field;
use crate::store::{Object, Store};
use hyper::header::HeaderValue;
use serde_json::{Value as Json, json};

/// What the header names: `Module.Field`, `Module.Lookup.Field`.
fn paths(request: &Request) -> Vec<Vec<&str>> {
    let told = request.header("x-external").unwrap_or_default();
    let told = told.split(',').map(str::trim);
    let told = told.filter(|path| !path.is_empty());
    told.map(|path| path.split('.').collect()).collect()
}

fn wrong(path: &[&str]) -> ZohoError {
    let error = ZohoError::new(
        400,
        "INVALID_DATA",
        "the header value given seems to be invalid",
    );
    error.with(json!({"header_name": "X-EXTERNAL", "value": path.join(".")}))
}

fn external<'a>(object: &'a Object, name: &str) -> Option<(u16, &'a Field)> {
    let known = object.def.field(name);
    known.filter(|(_, field)| field.name() == name && field.spec.external_id)
}

/// The external field that stands for the ids of a module's records.
pub fn of_module(object: &Object, request: &Request) -> Result<Option<String>, ZohoError> {
    let paths = paths(request);
    let Some(path) = paths.iter().find(|path| path.len() == 2) else {
        return Ok(None);
    };
    match external(object, path[1]).filter(|_| path[0] == object.def.name) {
        Some((_, field)) => Ok(Some(field.name().to_owned())),
        None => Err(wrong(path)),
    }
}

/// What the header says of lookups.
pub fn of_lookups(request: &Request) -> Option<HeaderValue> {
    let paths = paths(request);
    let paths = paths.iter().filter(|path| path.len() > 2);
    let left: Vec<String> = paths.map(|path| path.join(".")).collect();
    match left.is_empty() {
        true => None,
        false => left.join(",").parse().ok(),
    }
}

/// The id of the record that a path names, by its id or by the external field of the header.
pub fn named(object: &Object, request: &Request, name: &str) -> Result<String, ZohoError> {
    match of_module(object, request)? {
        None => Ok(name.to_owned()),
        Some(field) => id_by(object, &field, &json!(name), 0),
    }
}

/// The id of the record whose external field holds a value.
pub fn id_by(
    object: &Object,
    field: &str,
    value: &Json,
    index: usize,
) -> Result<String, ZohoError> {
    let at = external(object, field).map(|(at, _)| at);
    let slot = at
        .zip(value.as_str())
        .and_then(|(at, text)| holder(object, at, text.trim()));
    let missing = || {
        let path = format!("$.data[{index}].{field}");
        ZohoError::new(
            400,
            "INVALID_DATA",
            "the external id given seems to be invalid",
        )
        .with(json!({"api_name": field, "json_path": path}))
    };
    slot.map(|slot| record_id(object, slot)).ok_or_else(missing)
}

/// A record of a body, its lookups by the ids of records that are there.
pub fn resolve(
    store: &Store,
    at: usize,
    request: &Request,
    index: usize,
    item: &Json,
) -> Result<Json, ZohoError> {
    let object = &store.objects[at];
    let mut item = item.clone();
    let Some(fields) = item.as_object_mut() else {
        return Ok(item);
    };
    let paths = paths(request);
    for (name, value) in fields {
        let known = object.def.field(name).map(|(_, field)| field);
        let Some(field) = known.filter(|field| is_reference(field) && !value.is_null()) else {
            continue;
        };
        let target = field.spec.references.first();
        let Some(target) = target.and_then(|module| store.object(module)) else {
            continue;
        };
        let by = paths.iter().find(|path| path.len() == 3 && path[1] == name);
        let id = match by {
            Some(path) if path[0] != object.def.name => return Err(wrong(path)),
            Some(path) => match external(target, path[2]) {
                None => return Err(wrong(path)),
                Some(_) => Some(id_by(target, path[2], &value[path[2]], index).map_err(
                    |error| {
                        let more = json!({"parent_api_name": name});
                        ZohoError::field(&error.code, path[2], more)
                    },
                )?),
            },
            None => id_of(&value["id"]),
        };
        // What is no id at all is told as any other value of a wrong type.
        let Some(id) = id else { continue };
        if live(target, &id).is_none() {
            let path = format!("$.data[{index}].{name}.id");
            let error = ZohoError::new(
                400,
                "INVALID_DATA",
                "the related id given seems to be invalid",
            );
            return Err(error.with(json!({"api_name": name, "json_path": path})));
        }
        *value = json!({"id": id});
    }
    Ok(item)
}
