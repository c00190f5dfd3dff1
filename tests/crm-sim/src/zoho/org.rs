//! The Zoho organisation: its modules, and how its records read.
//!
//! Guarantees: ids are texts of 19 digits; moments are whole seconds in the organisation's own
//! zone; sets are lists, and references show a name beside the id.

use crate::clock;
use crate::schema::{Dialect, Field, FieldSpec, ObjectDef, ObjectSpec, Source};
use crate::store::{Actor, Object, Store};
use crate::value::{Kind, Value};
use serde_json::{Map, Value as Json, json};

/// Eight hours behind UTC, so that nobody mistakes one for the other.
const ZONE_MS: i64 = -8 * 60 * 60 * 1000;

pub struct Types;

impl Dialect for Types {
    fn kind(&self, field: &FieldSpec) -> Option<Kind> {
        Some(match field.native.as_str() {
            "text"
            | "textarea"
            | "phone"
            | "website"
            | "picklist"
            | "multiselectpicklist"
            | "lookup"
            | "ownerlookup" => Kind::Text,
            "email" => Kind::Email,
            "integer" => Kind::Int,
            "bigint" | "double" | "currency" | "percent" => Kind::Number,
            "boolean" => Kind::Bool,
            "date" => Kind::Date,
            "datetime" => Kind::Second,
            _ => return None,
        })
    }

    fn known_types(&self) -> &'static str {
        "text, textarea, phone, email, website, picklist, multiselectpicklist, lookup, ownerlookup, \
         integer, bigint, double, currency, percent, boolean, date, datetime"
    }
}

pub fn define(def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), crate::schema::SchemaError> {
    let mut spec = spec.clone();
    for field in &mut spec.fields {
        let limit = match field.native.as_str() {
            "text" | "picklist" => Some(255),
            "email" => Some(100),
            "phone" => Some(30),
            "textarea" => Some(32_000),
            _ => None,
        };
        field.length = field.length.or(limit);
        if field.native == "currency" {
            field.scale = field.scale.or(Some(2));
        }
    }
    def.define(&spec, &Types)
}

pub fn built_in() -> Store {
    Store::built_in(include_str!("schema.json"), true, blank, define)
}

pub fn blank(name: &str) -> ObjectDef {
    let mut def = ObjectDef::new(name);
    def.add_system("id", "bigint", Kind::Id, Source::Id);
    def.add_system("Created_Time", "datetime", Kind::Second, Source::Created);
    def.add_system("Modified_Time", "datetime", Kind::Second, Source::Modified);
    def.add_system("Modified_By", "ownerlookup", Kind::Text, Source::ModifiedBy);
    def
}

/// Ids of different modules never meet.
fn base(object: &Object) -> u64 {
    let code: u64 = object.def.name.bytes().map(u64::from).sum();
    5_545_974_000_000_000_000 + code * 1_000_000_000
}

pub fn record_id(object: &Object, slot: u32) -> String {
    (base(object) + u64::from(slot) + 1).to_string()
}

pub fn slot(object: &Object, id: &str) -> Option<u32> {
    let number: u64 = id.parse().ok()?;
    let slot = u32::try_from(number.checked_sub(base(object) + 1)?).ok()?;
    object.record(slot).map(|_| slot)
}

pub fn user(actor: Actor) -> Json {
    match actor {
        Actor::Integration => json!({"name": "Integration", "id": "5545974000000111001"}),
        Actor::Human => json!({"name": "Ada Byron", "id": "5545974000000111002"}),
    }
}

/// `2026-01-01T19:04:05-08:00`
pub fn moment(ms: i64) -> String {
    format!("{}-08:00", &clock::iso(ms + ZONE_MS)[..19])
}

pub fn floor(ms: i64) -> i64 {
    ms.div_euclid(1000) * 1000
}

pub fn is_list(field: &Field) -> bool {
    field.spec.native == "multiselectpicklist"
}

pub fn is_reference(field: &Field) -> bool {
    matches!(field.spec.native.as_str(), "lookup" | "ownerlookup")
}

/// What a record holds in a field.
pub fn held(object: &Object, slot: u32, at: u16) -> Json {
    let record = &object.records[slot as usize];
    let field = &object.def.fields[at as usize];
    match field.source {
        Source::Id => record_id(object, slot).into(),
        Source::Created => moment(record.created).into(),
        Source::Modified => moment(record.modified).into(),
        Source::ModifiedBy => user(record.modified_by),
        _ if field.kind == Kind::Bool => matches!(record.get(at), Some(Value::Bool(true))).into(),
        _ => record
            .get(at)
            .map_or(Json::Null, |value| spelled(field, value)),
    }
}

pub fn spelled(field: &Field, value: &Value) -> Json {
    match value {
        Value::Text(text) if is_list(field) => text.split(';').collect(),
        Value::Text(text) if is_reference(field) => json!({"name": "x", "id": text.as_ref()}),
        Value::Text(text) => text.as_ref().into(),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            json!(*number as i64)
        }
        Value::Number(number) => json!(number),
        Value::Bool(value) => (*value).into(),
        Value::Date(days) => clock::date(*days).into(),
        Value::Time(ms) => moment(*ms).into(),
    }
}

/// A record in some of its fields. Names that are none are left out without a word.
pub fn show(object: &Object, slot: u32, names: &[String]) -> Json {
    let mut shown = Map::new();
    shown.insert("id".to_owned(), record_id(object, slot).into());
    for (at, field) in names.iter().filter_map(|name| object.def.field(name)) {
        shown.insert(field.name().to_owned(), held(object, slot, at));
    }
    shown.into()
}
