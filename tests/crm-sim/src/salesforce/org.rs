//! The Salesforce org: its objects, and how its records read.
//!
//! Guarantees: every object has the system fields; every value comes out in the one spelling the
//! vendor uses (doubles with a fraction, whole seconds, 18 character ids).

use super::id;
use crate::clock;
use crate::schema::{Dialect, FieldSpec, ObjectDef, ObjectSpec, Source};
use crate::store::{Actor, Object, Store};
use crate::value::{Kind, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;

pub const ORG_ID: &str = "00DHs0000000001MAA";

/// The user id behind an actor.
pub fn user(actor: Actor) -> String {
    let slot = match actor {
        Actor::Integration => 0,
        Actor::Human => 1,
    };
    id::spell("005", slot)
}

pub struct Types;

impl Dialect for Types {
    fn kind(&self, field: &FieldSpec) -> Option<Kind> {
        Some(match field.native.as_str() {
            "string" | "textarea" | "phone" | "url" | "combobox" | "encryptedstring" => Kind::Text,
            "email" => Kind::Email,
            "boolean" => Kind::Bool,
            "int" | "long" => Kind::Int,
            "double" | "currency" | "percent" => Kind::Number,
            "date" => Kind::Date,
            "datetime" => Kind::Second,
            "picklist" => Kind::Choice,
            "multipicklist" => Kind::Choices,
            "reference" => Kind::Reference,
            _ => return None,
        })
    }

    fn known_types(&self) -> &'static str {
        "string, textarea, phone, url, combobox, encryptedstring, email, boolean, int, long, double, \
         currency, percent, date, datetime, picklist, multipicklist, reference"
    }
}

pub fn built_in() -> Store {
    let define = |def: &mut ObjectDef, spec: &ObjectSpec| def.define(spec, &Types);
    Store::built_in(include_str!("schema.json"), false, blank, define)
}

pub fn blank(name: &str) -> ObjectDef {
    let mut def = ObjectDef::new(name);
    def.add_system("Id", "id", Kind::Id, Source::Id);
    def.add_system("IsDeleted", "boolean", Kind::Bool, Source::Deleted);
    def.add_system("CreatedDate", "datetime", Kind::Second, Source::Created);
    def.add_system(
        "CreatedById",
        "reference",
        Kind::Reference,
        Source::CreatedBy,
    );
    def.add_system(
        "LastModifiedDate",
        "datetime",
        Kind::Second,
        Source::Modified,
    );
    def.add_system(
        "LastModifiedById",
        "reference",
        Kind::Reference,
        Source::ModifiedBy,
    );
    def.add_system("SystemModstamp", "datetime", Kind::Second, Source::Modified);
    if mergeable(name) {
        def.add_system(
            "MasterRecordId",
            "reference",
            Kind::Reference,
            Source::Master,
        );
    }
    if matches!(name, "Contact" | "Lead") {
        def.add_system("Name", "string", Kind::Text, Source::FullName);
    }
    let owner = FieldSpec {
        name: "OwnerId".into(),
        label: Some("Owner ID".into()),
        native: "reference".into(),
        references: vec!["User".into()],
        default: Some(user(Actor::Integration).into()),
        ..FieldSpec::default()
    };
    let spec = ObjectSpec {
        fields: vec![owner],
        ..ObjectSpec::default()
    };
    def.define(&spec, &Types).expect("OwnerId is sound");
    def
}

/// Objects whose records can be merged.
pub fn mergeable(name: &str) -> bool {
    matches!(name, "Account" | "Contact" | "Lead")
}

/// Three characters that begin the ids of an object.
pub fn prefix(def: &ObjectDef) -> String {
    def.spec.code.clone().unwrap_or_else(|| {
        let sum = def
            .name
            .bytes()
            .fold(0u32, |sum, byte| sum * 31 % 1296 + u32::from(byte));
        format!("a{:02}", sum % 100)
    })
}

pub fn record_id(object: &Object, slot: u32) -> String {
    id::spell(&prefix(&object.def), slot)
}

/// The live record of this object with this id.
pub fn live_slot(object: &Object, text: &str) -> Option<u32> {
    slot(object, text).filter(|slot| object.live(*slot).is_some())
}

pub fn slot(object: &Object, text: &str) -> Option<u32> {
    let (found, slot) = id::parse(text)?;
    (found == prefix(&object.def) && object.record(slot).is_some()).then_some(slot)
}

/// The value of any field, system fields and defaults of empty checkboxes included.
pub fn read(object: &Object, slot: u32, field: u16) -> Option<Cow<'_, Value>> {
    let record = object.record(slot)?;
    let def = &object.def.fields[field as usize];
    let second = |ms: i64| Value::Time(ms.div_euclid(1000) * 1000);
    let owned = match def.source {
        Source::Stored => {
            return match (record.get(field), def.kind) {
                (None, Kind::Bool) => Some(Cow::Owned(Value::Bool(false))),
                (value, _) => value.map(Cow::Borrowed),
            };
        }
        Source::Id => Value::text(record_id(object, slot)),
        Source::Deleted => Value::Bool(!record.live()),
        Source::Created => second(record.created),
        Source::Modified => second(record.modified),
        Source::CreatedBy => Value::text(user(record.created_by)),
        Source::ModifiedBy => Value::text(user(record.modified_by)),
        Source::Master => Value::text(record_id(object, record.master?)),
        Source::Merged | Source::MergedTimes => return None,
        Source::FullName => {
            let part = |name| record.get(object.def.field(name)?.0)?.as_text();
            let parts: Vec<&str> = ["FirstName", "LastName"]
                .iter()
                .filter_map(|name| part(name))
                .collect();
            Value::text(parts.join(" "))
        }
    };
    Some(Cow::Owned(owned))
}

/// A value in its JSON spelling.
pub struct Cell<'a>(pub Option<Cow<'a, Value>>, pub Kind);

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.0.as_deref() {
            None => out.serialize_unit(),
            Some(Value::Text(text)) => out.serialize_str(text),
            Some(Value::Bool(value)) => out.serialize_bool(*value),
            Some(Value::Number(number)) if self.1 == Kind::Int => out.serialize_i64(*number as i64),
            Some(Value::Number(number)) => out.serialize_f64(*number),
            Some(Value::Date(days)) => out.serialize_str(&clock::date(*days)),
            Some(Value::Time(ms)) => out.serialize_str(&clock::iso_offset(*ms)),
        }
    }
}

impl Cell<'_> {
    /// The CSV spelling of bulk results.
    pub fn text(&self) -> String {
        match self.0.as_deref() {
            None => String::new(),
            Some(Value::Text(text)) => text.to_string(),
            Some(Value::Bool(value)) => value.to_string(),
            Some(Value::Number(number)) if self.1 == Kind::Int => (*number as i64).to_string(),
            // Through serde_json, so that both forms of a double are the same.
            Some(Value::Number(number)) => serde_json::Value::from(*number).to_string(),
            Some(Value::Date(days)) => clock::date(*days),
            // Bulk results spell the offset `Z`.
            Some(Value::Time(ms)) => clock::iso(*ms),
        }
    }
}

/// A record as JSON: `attributes` and then the chosen fields, empty ones as null.
pub struct Row<'a> {
    pub object: &'a Object,
    pub slot: u32,
    pub fields: &'a [u16],
    pub version: &'a str,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let def = &self.object.def;
        let mut map = out.serialize_map(Some(self.fields.len() + 1))?;
        let url = format!(
            "/services/data/{}/sobjects/{}/{}",
            self.version,
            def.name,
            record_id(self.object, self.slot)
        );
        map.serialize_entry(
            "attributes",
            &Attributes {
                kind: &def.name,
                url,
            },
        )?;
        for field in self.fields {
            let value = read(self.object, self.slot, *field);
            let Some(spec) = def.fields.get(*field as usize) else {
                continue;
            };
            map.serialize_entry(spec.name(), &Cell(value, spec.kind))?;
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
struct Attributes<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    url: String,
}

/// Positions of all fields, or of those named.
pub fn select(def: &ObjectDef, names: &[String]) -> Result<Vec<u16>, String> {
    if names.is_empty() {
        return Ok(def.visible().map(|(at, _)| at).collect());
    }
    let found = names
        .iter()
        .map(|name| def.field(name).map(|(at, _)| at).ok_or(name.clone()));
    found.collect()
}
