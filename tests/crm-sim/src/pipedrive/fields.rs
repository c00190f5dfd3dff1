//! `/dealFields` and its like: what fields an object has.
//!
//! Guarantees: version 2 tells codes and types and nothing of rights; version 1 tells those too,
//! and the numbers that filters know fields by. Fields that only a record shows (`is_deleted`) are
//! in neither.

use super::account::{self, is_custom, is_first};
use super::error::PdError;
use super::lists::{Answer, Params, paged};
use crate::http::{Request, Response};
use crate::schema::{Field, Source};
use crate::store::{Object, Store};
use serde_json::{Value as Json, json};

/// The object whose fields a path lists, in this version. Leads and notes are of the first one
/// alone.
pub fn listed<'a>(store: &'a Store, path: &str, is_of_first: bool) -> Option<&'a Object> {
    let word = path.strip_suffix("Fields")?;
    let mut objects = store.objects.iter();
    objects.find(|object| {
        account::word(object) == word && (is_of_first || !is_first(&object.def.name))
    })
}

/// The number of a field. No two objects share one.
pub fn number(object: &Object, at: u16) -> u32 {
    let name = object.def.name.bytes();
    let base = name.fold(0, |sum: u32, byte| sum.rotate_left(1) ^ u32::from(byte));
    10_000 + base % 1000 * 1000 + u32::from(at)
}

/// The field of a number.
pub fn numbered(object: &Object, number_of: u32) -> Option<(u16, &Field)> {
    let mut fields = object.def.visible();
    fields.find(|(at, _)| number(object, *at) == number_of)
}

/// `/personFields/{code}` of version 2.
pub fn read(object: &Object, code: &str) -> Answer {
    let known = object.def.field(code).map(|(_, field)| field);
    let known = known.filter(|field| field.name() == code && field.source != Source::Deleted);
    let field = known.ok_or_else(|| PdError::not_found("field"))?;
    Ok(Response::json(
        200,
        &json!({"success": true, "data": second(field)}),
    ))
}

pub fn list(object: &Object, request: &Request, is_of_first: bool) -> Answer {
    let shown = object.def.visible();
    let shown = shown.filter(|(_, field)| field.source != Source::Deleted);
    if is_of_first {
        let params = Params::of(request, &["limit", "start"])?;
        return paged(&params, shown.collect(), |(at, field)| {
            first(number(object, at), field)
        });
    }
    let shown = shown.map(|(_, field)| field);
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
    let is_numbered = is_custom(field.name()) || field.spec.native == "labels";
    let option = |(n, value): (usize, &String)| match is_numbered {
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

fn first(number: u32, field: &Field) -> Json {
    json!({
        "id": number,
        "key": field.name(), "name": field.label(), "field_type": native(field), "options": options(field),
        "edit_flag": is_custom(field.name()), "mandatory_flag": field.spec.required,
    })
}
