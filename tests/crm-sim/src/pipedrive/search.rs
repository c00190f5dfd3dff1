//! Searches of items by a term, as an index has them that may be behind.
//!
//! Guarantees: case is not told; of custom fields those alone are searched whose types Pipedrive
//! searches.

use super::account::{self, is_custom, record_id, word};
use super::error::PdError;
use super::lists::{Answer, Params};
use crate::http::{Request, Response};
use crate::schema::Field;
use crate::store::{Object, Store};
use serde_json::{Map, Value as Json, json};

/// Items of one page.
const PAGE: usize = 100;
pub const SEARCHED: [&str; 5] = ["deal", "lead", "person", "organization", "product"];

pub fn is_searchable(field: &Field) -> bool {
    let types = [
        "address",
        "varchar",
        "text",
        "varchar_auto",
        "double",
        "monetary",
        "phone",
    ];
    types.contains(&field.spec.native.as_str())
}

pub fn long_enough(term: &str, exact: bool) -> Result<(), PdError> {
    match exact || term.chars().count() >= 2 {
        true => Ok(()),
        false => Err(PdError::schema(&[
            "term: String must contain at least 2 character(s)".to_owned(),
        ])),
    }
}

/// Cursors of searches count.
pub fn start(params: &Params<'_>) -> Result<usize, PdError> {
    let wrong = || PdError::schema(&["cursor: Invalid cursor".to_owned()]);
    match params.text("cursor") {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| wrong()),
    }
}

/// The groups of fields that are searched of an item.
fn groups(word: &str) -> &'static [&'static str] {
    match word {
        "person" => &["name", "email", "phone", "custom_fields", "notes"],
        "organization" => &["name", "address", "custom_fields", "notes"],
        "product" => &["name", "code", "custom_fields"],
        _ => &["title", "custom_fields", "notes"],
    }
}

/// The texts of a value.
fn texts(held: &Json) -> Vec<String> {
    match held {
        Json::Null => Vec::new(),
        Json::String(text) => vec![text.clone()],
        Json::Array(items) => items
            .iter()
            .flat_map(|item| texts(&item["value"]))
            .collect(),
        Json::Object(parts) => texts(&parts["value"]),
        other => vec![other.to_string()],
    }
}

/// What a record holds in one of these groups.
fn held_in(store: &Store, object: &Object, slot: u32, group: &str) -> Vec<String> {
    let of = |name: &str| match object.def.field(name) {
        Some((at, _)) => texts(&account::held(object, slot, at)),
        None => Vec::new(),
    };
    match group {
        "email" => of("emails"),
        "phone" => of("phones"),
        "custom_fields" => {
            let fields = object.def.visible();
            let fields =
                fields.filter(|(_, field)| is_custom(field.name()) && is_searchable(field));
            let held = fields.map(|(at, _)| account::held(object, slot, at));
            held.flat_map(|held| texts(&held)).collect()
        }
        "notes" => notes(store, object, slot),
        name => of(name),
    }
}

fn notes(store: &Store, object: &Object, slot: u32) -> Vec<String> {
    let Some(notes) = store.object("notes") else {
        return Vec::new();
    };
    let link = match word(object) {
        "organization" => "org_id".to_owned(),
        word => format!("{word}_id"),
    };
    let field = |name: &str| notes.def.field(name).map(|(at, _)| at);
    let (Some(link), Some(content)) = (field(&link), field("content")) else {
        return Vec::new();
    };
    let id = record_id(object, slot);
    let live = (0..notes.records.len() as u32).filter(|note| notes.live(*note).is_some());
    let linked = live.filter(|note| texts(&account::held(notes, *note, link)).contains(&id));
    linked
        .flat_map(|note| texts(&account::held(notes, note, content)))
        .collect()
}

/// `/itemSearch`, or the search of one kind of items.
pub fn items(
    store: &Store,
    request: &Request,
    only: Option<&Object>,
    indexed_until: i64,
) -> Answer {
    let mut known = vec![
        "term",
        "fields",
        "exact_match",
        "include_fields",
        "limit",
        "cursor",
    ];
    match only.map(word) {
        None => known.extend(["item_types", "search_for_related_items"]),
        Some("deal") => known.extend(["person_id", "organization_id", "status"]),
        Some("person") => known.push("organization_id"),
        Some(_) => {}
    }
    let params = Params::of(request, &known)?;
    let wrong = |name: &str, what: &str| PdError::schema(&[format!("{name}: {what}")]);
    let flag = |name: &str| match params.text(name).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(wrong(name, "Expected boolean")),
    };
    let term = params.text("term").filter(|term| !term.is_empty());
    let term = term.ok_or_else(|| wrong("term", "term is required"))?;
    let exact = flag("exact_match")?;
    if flag("search_for_related_items")? {
        return Err(PdError::not_simulated("related items"));
    }
    long_enough(&term, exact)?;
    let limit = params.number("limit", 1..=PAGE)?.unwrap_or(PAGE);
    let start = start(&params)?;
    let types = request.list("item_types");
    if let Some(strange) = types.iter().find(|name| !SEARCHED.contains(&name.as_str())) {
        return Err(wrong(
            "item_types",
            &format!("Invalid enum value '{strange}'"),
        ));
    }
    let asked = request.list("fields");
    let objects: Vec<&Object> = match only {
        Some(object) => vec![object],
        None => {
            let all = store
                .objects
                .iter()
                .filter(|object| SEARCHED.contains(&word(object)));
            all.filter(|object| types.is_empty() || types.iter().any(|t| t == word(object)))
                .collect()
        }
    };
    let known = |name: &String| {
        objects
            .iter()
            .any(|object| groups(word(object)).contains(&name.as_str()))
    };
    if let Some(strange) = asked.iter().find(|name| !known(name)) {
        return Err(wrong("fields", &format!("Invalid enum value '{strange}'")));
    }
    let lower = term.to_lowercase();
    let fits = |text: &String| match exact {
        true => text.to_lowercase() == lower,
        false => text.to_lowercase().contains(&lower),
    };
    let mut found: Vec<(bool, &Object, u32)> = Vec::new();
    for object in objects {
        let groups = groups(word(object)).iter();
        let groups: Vec<&&str> = groups
            .filter(|group| asked.is_empty() || asked.iter().any(|name| name == *group))
            .collect();
        for slot in 0..object.records.len() as u32 {
            let record = object.live(slot);
            if record.is_none_or(|record| record.modified > indexed_until)
                || !admits(&params, object, slot)?
            {
                continue;
            }
            let mut held = groups
                .iter()
                .flat_map(|group| held_in(store, object, slot, group))
                .filter(fits)
                .peekable();
            if held.peek().is_some() {
                let whole = held.any(|text| text.to_lowercase() == lower);
                found.push((whole, object, slot));
            }
        }
    }
    // What is the term as a whole comes first.
    found.sort_by_key(|(whole, ..)| !whole);
    let next = (found.len() > start + limit).then(|| (start + limit).to_string());
    let shown = found
        .iter()
        .skip(start)
        .take(limit)
        .map(|(whole, object, slot)| {
            let score = if *whole { 1.25 } else { 0.5 };
            json!({"result_score": score, "item": item(store, object, *slot, &fits)})
        });
    let items: Vec<Json> = shown.collect();
    let data = match only {
        Some(_) => json!({"items": items}),
        None => json!({"items": items, "related_items": []}),
    };
    Ok(Response::json(
        200,
        &json!({"success": true, "data": data, "additional_data": {"next_cursor": next}}),
    ))
}

/// Whether a record is linked, and stands, as the parameters say.
fn admits(params: &Params<'_>, object: &Object, slot: u32) -> Result<bool, PdError> {
    for (param, name) in [("person_id", "person_id"), ("organization_id", "org_id")] {
        if let Some(id) = params.number(param, 1..=usize::MAX)? {
            let held = object
                .def
                .field(name)
                .map(|(at, _)| account::held(object, slot, at));
            if held != Some(json!(id)) {
                return Ok(false);
            }
        }
    }
    let status = params.text("status");
    let held = object
        .def
        .field("status")
        .map(|(at, _)| account::held(object, slot, at));
    Ok(status.is_none_or(|status| held == Some(json!(status))))
}

/// What a search shows of a record: no more than a list of suggestions needs.
fn item(store: &Store, object: &Object, slot: u32, fits: &dyn Fn(&String) -> bool) -> Json {
    let of = |name: &str| match object.def.field(name) {
        Some((at, _)) => account::held(object, slot, at),
        None => Json::Null,
    };
    let named = |set: &str, link: &str| {
        let id = of(link);
        let target = store.object(set);
        let held = target.zip(id.as_u64()).and_then(|(target, number)| {
            let slot = account::slot(target, &number.to_string())?;
            let (at, _) = target.def.field("name")?;
            Some(account::held(target, slot, at))
        });
        match id {
            Json::Null => Json::Null,
            id => json!({"id": id, "name": held}),
        }
    };
    let within = |group: &str| -> Vec<String> {
        held_in(store, object, slot, group)
            .into_iter()
            .filter(fits)
            .collect()
    };
    let mut shown = Map::new();
    let mut put = |name: &str, value: Json| {
        shown.insert(name.to_owned(), value);
    };
    put("id", account::show(object, slot, &[])["id"].take());
    put("type", word(object).into());
    put("custom_fields", within("custom_fields").into());
    match word(object) {
        "person" => {
            put("name", of("name"));
            put("emails", texts(&of("emails")).into());
            put("phones", texts(&of("phones")).into());
            put("organization", named("organizations", "org_id"));
        }
        "organization" => {
            put("name", of("name"));
            put("address", texts(&of("address")).first().cloned().into());
        }
        "product" => {
            put("name", of("name"));
            put("code", of("code"));
        }
        "deal" => {
            for name in ["title", "value", "currency", "status", "is_archived"] {
                put(name, of(name));
            }
            put("stage", json!({"id": of("stage_id"), "name": "Stage"}));
            put("person", named("persons", "person_id"));
            put("organization", named("organizations", "org_id"));
        }
        _ => {
            put("title", of("title"));
            put("person", named("persons", "person_id"));
            put("organization", named("organizations", "organization_id"));
        }
    }
    if word(object) != "product" {
        put("notes", within("notes").into());
    }
    if object.def.field("owner_id").is_some() {
        put("owner", json!({"id": of("owner_id")}));
        put("visible_to", of("visible_to"));
    }
    shown.into()
}
