//! The HubSpot portal: its objects, and how its records read.
//!
//! Guarantees: every value comes out as text or null; numbers as they were written, times as ISO
//! with `Z`.

use crate::clock;
use crate::schema::{Dialect, FieldSpec, ObjectDef, ObjectSpec, Source};
use crate::store::{Actor, Object, Record, Store};
use crate::value::{Kind, Value};
use serde_json::{Map, Value as Json, json};

pub const PORTAL: u32 = 4_101_001;
pub const APP: &str = "5670736";
/// Who uses the CRM by hand.
pub const USER: &str = "98";
const TEXT_LIMIT: u32 = 65_536;

pub struct Types;

impl Dialect for Types {
    fn kind(&self, field: &FieldSpec) -> Option<Kind> {
        Some(match (field.native.as_str(), field.widget.as_deref()) {
            ("string", _) if field.name == "email" => Kind::Email,
            ("string" | "phone_number" | "json", _) => Kind::Text,
            ("number", _) => Kind::Decimal,
            ("bool", _) => Kind::Bool,
            ("date", _) => Kind::Date,
            ("datetime", _) => Kind::Time,
            ("enumeration", Some("checkbox")) => Kind::Choices,
            ("enumeration", _) => Kind::Choice,
            _ => return None,
        })
    }

    fn known_types(&self) -> &'static str {
        "string, phone_number, json, number, bool, date, datetime, enumeration (several values with \
         widget checkbox)"
    }
}

pub fn define(def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), crate::schema::SchemaError> {
    let mut spec = spec.clone();
    for field in &mut spec.fields {
        // An enumeration takes its options and nothing else; texts end at one limit for all.
        field.restricted |= field.native == "enumeration";
        if matches!(field.native.as_str(), "string" | "phone_number") {
            field.length = field.length.or(Some(TEXT_LIMIT));
        }
    }
    def.define(&spec, &Types)
}

pub fn built_in() -> Store {
    let mut store = Store::built_in(include_str!("schema.json"), true, blank, define);
    for at in 0..store.objects.len() {
        let def = &store.objects[at].def;
        let (singular, code) = (def.label().to_ascii_lowercase(), def.spec.code.clone());
        store.alias(&singular, at);
        if let Some(code) = code {
            store.alias(&code, at);
        }
    }
    store
}

pub fn blank(name: &str) -> ObjectDef {
    let mut def = ObjectDef::new(name);
    def.add_system("hs_object_id", "number", Kind::Id, Source::Id);
    def.add_system("createdate", "datetime", Kind::Time, Source::Created);
    let modified = modified_name(name);
    def.add_system(modified, "datetime", Kind::Time, Source::Modified);
    let by = "hs_updated_by_user_id";
    def.add_system(by, "number", Kind::Text, Source::ModifiedBy);
    def.add_system(
        "hs_merged_object_ids",
        "enumeration",
        Kind::Text,
        Source::Merged,
    );
    if name == "contacts" {
        let name = "hs_calculated_merged_vids";
        def.add_system(name, "string", Kind::Text, Source::MergedTimes);
    }
    def
}

/// Contacts are older than the naming rule.
fn modified_name(object: &str) -> &'static str {
    match object {
        "contacts" => "lastmodifieddate",
        _ => "hs_lastmodifieddate",
    }
}

/// The object that a path names: by its name or label, its type id (`0-1`, `2-777`), or in full
/// (`p4101001_cars`).
pub fn position(store: &Store, name: &str) -> Option<usize> {
    let full = format!("p{PORTAL}_");
    store
        .position(name)
        .or_else(|| store.objects.iter().position(|object| code(object) == name))
        .or_else(|| store.position(name.strip_prefix(&full)?))
}

/// The type id of an object.
pub fn code(object: &Object) -> String {
    object
        .def
        .spec
        .code
        .clone()
        .unwrap_or_else(|| "2-89".into())
}

/// Ids of different objects never meet, and none fits 32 bits.
fn base(object: &Object) -> u64 {
    let code = code(object);
    let number = code.rsplit('-').next().and_then(|text| text.parse().ok());
    (number.unwrap_or(89u64) % 90) * 10_000_000_000
}

pub fn record_id(object: &Object, slot: u32) -> String {
    (base(object) + u64::from(slot) + 1).to_string()
}

pub fn slot(object: &Object, id: &str) -> Option<u32> {
    let number: u64 = id.parse().ok()?;
    let slot = number.checked_sub(base(object) + 1)?;
    let slot = u32::try_from(slot).ok()?;
    object.record(slot).map(|_| slot)
}

/// The live record of that id, or the one that it was merged into.
pub fn live_slot(object: &Object, id: &str) -> Option<u32> {
    let slot = slot(object, id)?;
    let slot = object.record(slot)?.master.unwrap_or(slot);
    object.live(slot).map(|_| slot)
}

pub fn read(object: &Object, slot: u32, field: u16) -> Option<Value> {
    let record = object.record(slot)?;
    let source = object.def.fields[field as usize].source;
    match source {
        Source::Stored => record.get(field).cloned(),
        Source::Id => Some(Value::text(record_id(object, slot))),
        Source::Created => Some(Value::Time(record.created)),
        Source::Modified => Some(Value::Time(record.modified)),
        Source::ModifiedBy => match record.modified_by {
            Actor::Human => Some(Value::text(USER)),
            Actor::Integration => None,
        },
        Source::Merged | Source::MergedTimes => merged(object, record, source),
        _ => None,
    }
}

/// `52;53`, or `52:1700000000000;53:1700000000000`.
fn merged(object: &Object, record: &Record, source: Source) -> Option<Value> {
    let entries = record.merged.iter().map(|(slot, at)| {
        let id = record_id(object, *slot);
        match source {
            Source::Merged => id,
            _ => format!("{id}:{at}"),
        }
    });
    let entries: Vec<_> = entries.collect();
    (!entries.is_empty()).then(|| Value::text(entries.join(";")))
}

pub fn spelled(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Date(days) => clock::date(*days),
        Value::Time(ms) => clock::iso(*ms),
    }
}

/// Which properties an answer shows.
#[derive(Debug, Default)]
pub struct View {
    pub properties: Vec<String>,
    pub history: Vec<String>,
}

/// A record as the API shows it.
pub fn show(object: &Object, slot: u32, view: &View) -> Json {
    let record = &object.records[slot as usize];
    let mut shown = json!({
        "id": record_id(object, slot),
        "properties": properties(object, slot, &view.properties),
        "createdAt": clock::iso(record.created),
        "updatedAt": clock::iso(record.modified),
        "archived": !record.live(),
    });
    if !record.live() {
        shown["archivedAt"] = clock::iso(record.modified).into();
    }
    if !view.history.is_empty() {
        let entries = view.history.iter().filter_map(|name| {
            let (at, field) = object.def.field(name)?;
            Some((field.name().to_owned(), history(record, at)))
        });
        shown["propertiesWithHistory"] = Json::Object(entries.collect());
    }
    shown
}

/// System properties always, then those asked for (the usual ones, if none), empty ones as null.
fn properties(object: &Object, slot: u32, asked: &[String]) -> Map<String, Json> {
    let usual: &[&str] = match object.def.name.as_str() {
        "contacts" => &["email", "firstname", "lastname"],
        "companies" => &["name", "domain"],
        "deals" => &["dealname", "amount", "closedate", "dealstage", "pipeline"],
        _ => &[],
    };
    let system = object.def.fields.iter().enumerate();
    let system = system.take_while(|(_, field)| field.source != Source::Stored);
    let merges = |source| matches!(source, Source::Merged | Source::MergedTimes);
    let system = system.filter(|(_, field)| !merges(field.source));
    let system = system.map(|(at, field)| (at as u16, field));
    let usual = usual.iter().filter(|_| asked.is_empty()).copied();
    let asked = asked.iter().map(String::as_str).chain(usual);
    // Properties that do not exist are left out without a word, as HubSpot does.
    let asked = asked.filter_map(|name| object.def.field(name));
    let mut shown = Map::new();
    for (at, field) in system.chain(asked) {
        let value = read(object, slot, at).map(|value| spelled(&value));
        shown.insert(field.name().to_owned(), value.into());
    }
    shown
}

/// Values of one property, newest first, with who set them.
fn history(record: &Record, field: u16) -> Json {
    let past = record
        .history
        .iter()
        .rev()
        .filter(|past| past.field == field);
    past.map(|past| {
        let (kind, source) = match past.by {
            Actor::Integration => ("INTEGRATION", APP.to_owned()),
            Actor::Human => ("CRM_UI", format!("userId:{USER}")),
        };
        json!({
            "value": past.value.as_ref().map(spelled).unwrap_or_default(),
            "timestamp": clock::iso(past.at),
            "sourceType": kind,
            "sourceId": source,
        })
    })
    .collect()
}
