//! `/dealFields` and its like: what fields an object has.
//!
//! Guarantees: version 2 tells codes and types and nothing of rights; version 1, which leads and notes alone
//! still have, tells those too. Fields that only a record shows (`is_deleted`) are in neither.

use super::account::{self, is_custom, is_first};
use super::error::PdError;
use super::lists::{Answer, Params, paged};
use crate::http::{Request, Response};
use crate::schema::{Field, Source};
use crate::store::{Object, Store};
use serde_json::{Value as Json, json};

/// The object whose fields a path lists, in this version.
pub fn listed<'a>(store: &'a Store, path: &str, first: bool) -> Option<&'a Object> {
    let word = path.strip_suffix("Fields")?;
    let mut objects = store.objects.iter();
    objects.find(|object| account::word(object) == word && is_first(&object.def.name) == first)
}

pub fn list(object: &Object, request: &Request) -> Answer {
    let shown = object.def.visible().map(|(_, field)| field);
    let shown = shown.filter(|field| field.source != Source::Deleted);
    if is_first(&object.def.name) {
        let params = Params::of(request, &["limit", "start"])?;
        return paged(&params, shown.collect(), first);
    }
    let params = Params::of(request, &["limit", "cursor", "include_fields"])?;
    let limit = params.limit()?;
    let start = match params.text("cursor") {
        None => 0,
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| PdError::schema(&["cursor: Invalid cursor".to_owned()]))?,
    };
    let all: Vec<Json> = shown.map(second).collect();
    let next = (all.len() > start + limit).then(|| (start + limit).to_string());
    let page: Vec<&Json> = all.iter().skip(start).take(limit).collect();
    Ok(Response::json(
        200,
        &json!({"success": true, "data": page, "additional_data": {"next_cursor": next}}),
    ))
}

/// Options are numbered from 1, but for those of Pipedrive's own fields, which are words.
fn options(field: &Field) -> Json {
    if field.spec.values.is_empty() {
        return Json::Null;
    }
    let option = |(n, value): (usize, &String)| match is_custom(field.name()) {
        true => json!({"id": n + 1, "label": value, "color": null}),
        false => json!({"id": value, "label": value, "color": null}),
    };
    field.spec.values.iter().enumerate().map(option).collect()
}

/// The types that are told; what the simulator keeps apart for its own sake is not.
fn native(field: &Field) -> &str {
    match field.spec.native.as_str() {
        "timestamp" => "date",
        "addresses" => "varchar",
        "labels" => "set",
        "amount" => "monetary",
        native => native,
    }
}

fn second(field: &Field) -> Json {
    let parts = match field.spec.native.as_str() {
        "monetary" => {
            json!([{"field_code": "currency", "field_name": "Currency", "field_type": "varchar"}])
        }
        _ => Json::Null,
    };
    json!({
        "field_name": field.label(), "field_code": field.name(), "field_type": native(field), "options": options(field),
        "subfields": parts, "is_custom_field": is_custom(field.name()), "is_optional_response_field": false,
    })
}

fn first(field: &Field) -> Json {
    json!({
        "key": field.name(), "name": field.label(), "field_type": native(field), "options": options(field),
        "edit_flag": is_custom(field.name()), "mandatory_flag": field.spec.required,
    })
}
