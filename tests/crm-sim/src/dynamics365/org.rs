//! The Dataverse environment: its tables, and how their rows read.
//!
//! Guarantees: ids are GUIDs; moments are whole seconds of UTC; choices are numbers, several of
//! them a text; a lookup is read as `_column_value` and written by its navigation property.
//! Decimals and money are exact and shown with all digits that the database has for them, doubles
//! are doubles.

use crate::clock;
use crate::decimal;
use crate::schema::{Dialect, Field, FieldSpec, ObjectDef, ObjectSpec, SchemaError, Source};
use crate::store::{Actor, Object, Store};
use crate::value::{Kind, Value};
use serde_json::{Map, Value as Json, json};

pub struct Types;

impl Dialect for Types {
    fn kind(&self, field: &FieldSpec) -> Option<Kind> {
        Some(match field.native.as_str() {
            "String" | "Memo" | "Lookup" | "Picklist" | "MultiSelectPicklist" => Kind::Text,
            "Integer" => Kind::Int,
            "Decimal" | "Money" => Kind::Decimal,
            "Double" => Kind::Number,
            "Boolean" => Kind::Bool,
            "DateOnly" => Kind::Date,
            "DateTime" => Kind::Second,
            _ => return None,
        })
    }

    fn known_types(&self) -> &'static str {
        "String, Memo, Lookup, Picklist, MultiSelectPicklist, Integer, Decimal, Double, Money, Boolean, DateOnly, DateTime"
    }
}

/// Digits behind the point that a column keeps, if its definition does not say.
const PRECISION: u32 = 2;

pub fn define(def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), SchemaError> {
    let mut spec = spec.clone();
    for field in &mut spec.fields {
        if matches!(field.native.as_str(), "Decimal" | "Money") {
            field.scale = field.scale.or(Some(PRECISION));
        }
    }
    def.define(&spec, &Types)
}

/// The most that a column of decimals takes, and the digits behind the point that its values are
/// shown with.
pub fn decimals(native: &str) -> (i64, u32) {
    match native {
        "Money" => (922_337_203_685_477, 4),
        _ => (100_000_000_000, 10),
    }
}

/// Columns whose values, taken together, make a row a duplicate of another: the rules that are
/// published.
pub fn duplicate_rules(set: &str) -> &'static [&'static [&'static str]] {
    match set {
        "accounts" => &[&["name"]],
        "contacts" => &[&["emailaddress1"], &["firstname", "lastname", "telephone1"]],
        "leads" => &[&["emailaddress1"]],
        _ => &[],
    }
}

pub fn built_in() -> Store {
    Store::built_in(include_str!("schema.json"), false, blank, define)
}

/// The table of an entity set.
pub fn table(set: &str) -> String {
    match set.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => set.strip_suffix('s').unwrap_or(set).to_owned(),
    }
}

pub fn id_column(object: &Object) -> String {
    format!("{}id", table(&object.def.name))
}

pub fn blank(set: &str) -> ObjectDef {
    let mut def = ObjectDef::new(set);
    let id = format!("{}id", table(set));
    def.add_system(&id, "Uniqueidentifier", Kind::Id, Source::Id);
    def.add_system("createdon", "DateTime", Kind::Second, Source::Created);
    def.add_system("modifiedon", "DateTime", Kind::Second, Source::Modified);
    def.add_system("_createdby_value", "Lookup", Kind::Text, Source::CreatedBy);
    def.add_system(
        "_modifiedby_value",
        "Lookup",
        Kind::Text,
        Source::ModifiedBy,
    );
    def
}

/// Ids of different tables never meet.
fn base(object: &Object) -> u32 {
    let name = object.def.name.bytes();
    name.fold(0x0d36_5000, |code, byte| {
        code.rotate_left(3) ^ u32::from(byte)
    })
}

/// The id that the row was made with, or the one of its number.
pub fn row_id(object: &Object, slot: u32) -> String {
    let record = &object.records[slot as usize];
    match id_at(object).and_then(|at| record.get(at)?.as_text()) {
        Some(given) => given.to_owned(),
        None => counted_id(object, slot),
    }
}

/// Where ids stand that are given. Records hold them first.
pub fn id_at(object: &Object) -> Option<u16> {
    let mut fields = object.def.visible();
    fields.find_map(|(at, field)| (field.source == Source::Id).then_some(at))
}

fn counted_id(object: &Object, slot: u32) -> String {
    format!(
        "{:08x}-0000-4000-8000-{:012x}",
        base(object),
        u64::from(slot) + 1
    )
}

pub fn slot(object: &Object, id: &str) -> Option<u32> {
    let id = id.to_ascii_lowercase();
    let counted = counted_slot(object, &id);
    match counted.and_then(|slot| object.live(slot)) {
        Some(_) => counted,
        // One that was deleted may have been made anew.
        None => given_slot(object, &id).or(counted),
    }
}

fn counted_slot(object: &Object, id: &str) -> Option<u32> {
    let number = u64::from_str_radix(id.get(24..)?, 16).ok()?;
    let slot = u32::try_from(number.checked_sub(1)?).ok()?;
    object.record(slot)?;
    (row_id(object, slot) == id).then_some(slot)
}

/// The newest row of an id that was given.
fn given_slot(object: &Object, id: &str) -> Option<u32> {
    let at = id_at(object)?;
    let slots = (0..object.records.len() as u32).rev();
    let mut held = slots.filter(|slot| {
        let record = object.record(*slot).and_then(|record| record.get(at));
        record.and_then(Value::as_text) == Some(id)
    });
    held.next()
}

pub fn is_id(text: &str) -> bool {
    let fits = |(at, c): (usize, u8)| match at {
        8 | 13 | 18 | 23 => c == b'-',
        _ => c.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

pub fn user(actor: Actor) -> &'static str {
    match actor {
        Actor::Integration => "05e70000-0000-4000-8000-000000000001",
        Actor::Human => "05e70000-0000-4000-8000-000000000002",
    }
}

/// `2026-01-02T03:04:05Z`
fn moment(ms: i64) -> String {
    format!("{}Z", &clock::iso(ms)[..19])
}

pub fn tag(object: &Object, slot: u32) -> String {
    format!("W/\"{}\"", 400_000 + object.records[slot as usize].turn)
}

/// What a row holds in a column.
pub fn held(object: &Object, slot: u32, at: u16) -> Json {
    let record = &object.records[slot as usize];
    let field = &object.def.fields[at as usize];
    match field.source {
        Source::Id => row_id(object, slot).into(),
        Source::Created => moment(record.created).into(),
        Source::Modified => moment(record.modified).into(),
        Source::CreatedBy => user(record.created_by).into(),
        Source::ModifiedBy => user(record.modified_by).into(),
        _ => record
            .get(at)
            .map_or(Json::Null, |value| spelled(field, value)),
    }
}

fn spelled(field: &Field, value: &Value) -> Json {
    match value {
        Value::Text(text) if field.spec.native == "Picklist" => {
            text.parse::<i64>().map_or(Json::Null, Json::from)
        }
        Value::Text(text) if field.kind == Kind::Decimal => {
            let (_, digits) = decimals(&field.spec.native);
            let shown = decimal::padded(text, digits);
            let number = shown.and_then(|shown| shown.parse::<serde_json::Number>().ok());
            number.map_or(Json::Null, Json::Number)
        }
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

/// A row in some of its columns, its tag and its id; `None`: all columns.
pub fn show(object: &Object, slot: u32, columns: Option<&[u16]>) -> Map<String, Json> {
    let mut shown = Map::new();
    shown.insert("@odata.etag".to_owned(), tag(object, slot).into());
    let own = object.def.visible().filter(|(at, field)| {
        field.source == Source::Id || columns.is_none_or(|columns| columns.contains(at))
    });
    shown.extend(own.map(|(at, field)| (field.name().to_owned(), held(object, slot, at))));
    shown
}
