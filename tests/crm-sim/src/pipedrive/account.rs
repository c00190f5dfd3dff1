//! The Pipedrive account: its objects, and how its records read.
//!
//! Guarantees: ids and options come out as numbers, moments of version 2 as whole seconds in RFC
//! 3339; custom fields lie apart in version 2 and beside the others in version 1. What is more than
//! one value (a list, money, a place) is kept as the text of its JSON.

use crate::clock;
use crate::schema::{Dialect, Field, FieldSpec, ObjectDef, ObjectSpec, Source};
use crate::store::{Object, Record, Store};
use crate::value::{Kind, Value};
use serde_json::{Map, Value as Json, json};

pub const COMPANY: u32 = 4_101_003;
pub const USER: u32 = 7;

pub struct Types;

impl Dialect for Types {
    fn kind(&self, field: &FieldSpec) -> Option<Kind> {
        Some(match field.native.as_str() {
            "varchar" | "text" | "varchar_auto" | "phone" | "status" | "time" | "lead" => {
                Kind::Text
            }
            "double" | "int" | "enum" | "user" | "org" | "people" | "deal" | "stage"
            | "pipeline" | "visible_to" => Kind::Number,
            "boolean" => Kind::Bool,
            "date" => Kind::Date,
            "timestamp" => Kind::Second,
            "set" | "labels" | "monetary" | "address" | "addresses" | "amount" => Kind::Text,
            _ => return None,
        })
    }

    fn known_types(&self) -> &'static str {
        "varchar, text, varchar_auto, phone, double, int, boolean, date, enum, set, monetary, address, \
         user, org, people, deal, stage, pipeline, lead; of the system's own: status, time, timestamp, \
         visible_to, labels, addresses, amount"
    }
}

pub fn define(def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), crate::schema::SchemaError> {
    let mut spec = spec.clone();
    for field in &mut spec.fields {
        field.case_sensitive = true;
        if field.native == "varchar" {
            field.length = field.length.or(Some(255));
        }
    }
    def.define(&spec, &Types)
}

pub fn built_in() -> Store {
    Store::built_in(include_str!("schema.json"), true, blank, define)
}

pub fn blank(name: &str) -> ObjectDef {
    let mut def = ObjectDef::new(name);
    def.add_system("id", "int", Kind::Id, Source::Id);
    def.add_system("add_time", "timestamp", Kind::Second, Source::Created);
    def.add_system("update_time", "timestamp", Kind::Second, Source::Modified);
    if !is_first(name) {
        def.add_system("is_deleted", "boolean", Kind::Bool, Source::Deleted);
    }
    def
}

/// Whether an object is one of version 1 alone.
pub fn is_first(object: &str) -> bool {
    matches!(object, "leads" | "notes")
}

pub fn is_custom(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `deal`, as searches and webhooks have it.
pub fn word(object: &Object) -> &str {
    match object.def.name.as_str() {
        "activities" => "activity",
        name => name.trim_end_matches('s'),
    }
}

/// A number; of leads a UUID.
pub fn record_id(object: &Object, slot: u32) -> String {
    match object.def.name.as_str() {
        "leads" => format!("adf21080-0e10-11eb-879b-{:012x}", slot + 1),
        _ => (slot + 1).to_string(),
    }
}

pub fn slot(object: &Object, id: &str) -> Option<u32> {
    let number = match object.def.name.as_str() {
        "leads" => u32::from_str_radix(id.strip_prefix("adf21080-0e10-11eb-879b-")?, 16).ok()?,
        _ => id.parse().ok()?,
    };
    let slot = number.checked_sub(1)?;
    object.record(slot).map(|_| slot)
}

fn id_json(object: &Object, slot: u32) -> Json {
    match object.def.name.as_str() {
        "leads" => record_id(object, slot).into(),
        _ => (slot + 1).into(),
    }
}

/// `2026-01-02T03:04:05Z`
pub fn second(ms: i64) -> String {
    format!("{}Z", &clock::iso(ms)[..19])
}

/// `2026-01-02 03:04:05`, in UTC.
pub fn plain(ms: i64) -> String {
    clock::iso(ms)[..19].replace('T', " ")
}

pub fn floor(ms: i64) -> i64 {
    ms.div_euclid(1000) * 1000
}

fn moment(object: &Object, ms: i64) -> Json {
    match object.def.name.as_str() {
        "notes" => plain(ms).into(),
        "leads" => clock::iso(ms).into(),
        _ => second(ms).into(),
    }
}

/// What a record holds in a field.
pub fn held(object: &Object, slot: u32, at: u16) -> Json {
    let record = &object.records[slot as usize];
    let field = &object.def.fields[at as usize];
    match field.source {
        Source::Id => id_json(object, slot),
        Source::Created => moment(object, record.created),
        Source::Modified => moment(object, record.modified),
        Source::Deleted => (!record.live()).into(),
        _ => record
            .get(at)
            .map_or(Json::Null, |value| spelled(field, value)),
    }
}

pub fn spelled(field: &Field, value: &Value) -> Json {
    match value {
        Value::Text(text) if is_composite(field) => {
            serde_json::from_str(text).unwrap_or(Json::Null)
        }
        Value::Text(text) => text.as_ref().into(),
        Value::Number(number) => number_json(*number),
        Value::Bool(value) => (*value).into(),
        Value::Date(days) => clock::date(*days).into(),
        Value::Time(ms) => second(*ms).into(),
    }
}

/// A value of a history: text, whatever it is.
pub fn as_text(field: &Field, value: Option<&Value>) -> Json {
    match value.map(|value| spelled(field, value)) {
        None | Some(Json::Null) => Json::Null,
        Some(Json::String(text)) => text.into(),
        Some(other) => other.to_string().into(),
    }
}

pub fn number_json(number: f64) -> Json {
    match number.fract() == 0.0 && number.abs() < 9e15 {
        true => json!(number as i64),
        false => json!(number),
    }
}

pub fn is_composite(field: &Field) -> bool {
    matches!(
        field.spec.native.as_str(),
        "set" | "labels" | "monetary" | "address" | "addresses" | "amount"
    )
}

/// Whether a record is in a list of its own.
pub fn is_archived(object: &Object, record: &Record) -> bool {
    let at = object.def.field("is_archived").map(|(at, _)| at);
    at.and_then(|at| record.get(at)) == Some(&Value::Bool(true))
}

/// A record as the API shows it; `custom` are the keys asked for, all if none.
pub fn show(object: &Object, slot: u32, custom: &[String]) -> Json {
    let mut shown = Map::new();
    let mut keyed = Map::new();
    for (at, field) in object.def.visible() {
        let value = held(object, slot, at);
        match is_custom(field.name()) && !is_first(&object.def.name) {
            true if custom.is_empty() || custom.iter().any(|key| key == field.name()) => {
                keyed.insert(field.name().to_owned(), value);
            }
            true => {}
            false => {
                shown.insert(field.name().to_owned(), value);
            }
        }
    }
    if !is_first(&object.def.name) {
        shown.insert("custom_fields".to_owned(), keyed.into());
    }
    if object.def.name == "notes" {
        let live = object.records[slot as usize].live();
        shown.insert("active_flag".to_owned(), live.into());
    }
    shown.into()
}
