//! Writes of single records: reads properties, checks them, applies them.
//!
//! Guarantees: all bad properties of a record are reported together; a record that fails has
//! changed nothing. Single and batch calls write through here.

use super::error::{Breach, HsError};
use super::{form, portal};
use crate::faults::RecordFaults;
use crate::schema::{Field, Source};
use crate::store::{Change, Object, Stamp, Taken};
use crate::value::{Kind, Misfit, Raw, Value};
use serde_json::{Map, Value as Json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    New,
    Slot(u32),
}

#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub stamp: Stamp,
    pub records: &'a RecordFaults,
}

/// Reads properties; `held` is the record that they are to change, if there is one.
pub fn change_of(
    object: &Object,
    properties: &Map<String, Json>,
    held: Option<u32>,
) -> Result<Change, HsError> {
    let mut change = Change::with_capacity(properties.len());
    let mut breaches = Vec::new();
    for (name, value) in properties {
        match property(object, name, Raw::from(value), held) {
            Ok(entry) => change.push(entry),
            Err(breach) => breaches.push(breach),
        }
    }
    match breaches.is_empty() {
        true => Ok(change),
        false => Err(HsError::properties(&breaches)),
    }
}

fn property(
    object: &Object,
    name: &str,
    raw: Raw<'_>,
    held: Option<u32>,
) -> Result<(u16, Option<Value>), Breach> {
    let breach = |code, message: String| Breach {
        name: name.to_owned(),
        code,
        message,
    };
    let (at, field) = object.def.field(name).ok_or_else(|| {
        breach(
            "PROPERTY_DOESNT_EXIST",
            format!("Property \"{name}\" does not exist"),
        )
    })?;
    if !field.writable() {
        let message = format!("\"{name}\" is a read only property; its value cannot be set.");
        return Err(breach("READ_ONLY_VALUE", message));
    }
    if matches!(raw, Raw::Null | Raw::Nested) {
        // The documented way to clear a property is the empty string.
        let message = format!("The value of \"{name}\" must be a string");
        return Err(breach("INVALID_TYPE", message));
    }
    let shown = match raw {
        Raw::Text(text) | Raw::Number(text) => text,
        Raw::Bool(true) => "true",
        _ => "false",
    };
    let held = held.and_then(|slot| object.record(slot)?.get(at));
    let value = form::kept(field, shown, held).map_err(|misfit| worded(field, shown, misfit))?;
    if value.is_none() && field.spec.required {
        return Err(breach("REQUIRED_FIELD", format!("\"{name}\" is required")));
    }
    Ok((at, value))
}

fn worded(field: &Field, shown: &str, misfit: Misfit) -> Breach {
    let (code, message) = match (misfit, field.kind) {
        (Misfit::Choice { value }, _) => {
            let options = field.spec.values.join(", ");
            let message = format!("{value} was not one of the allowed options: [{options}]");
            ("INVALID_OPTION", message)
        }
        (Misfit::Email, _) => ("INVALID_EMAIL", format!("Email address {shown} is invalid")),
        (Misfit::TooLong { limit }, _) => {
            let message = format!("The value is longer than the maximum of {limit} characters");
            ("PROPERTY_VALUE_TOO_LONG", message)
        }
        (_, Kind::Date | Kind::Time) => {
            let message = format!("{shown} was not a valid {}.", field.spec.native);
            ("INVALID_DATE", message)
        }
        (_, Kind::Bool) => (
            "INVALID_BOOLEAN",
            format!("{shown} was not a valid boolean."),
        ),
        _ => (
            "INVALID_INTEGER",
            format!("{shown} was not a valid number."),
        ),
    };
    Breach {
        name: field.name().to_owned(),
        code,
        message,
    }
}

/// The record that an id means, read by a unique property if one is given.
pub fn find(object: &Object, id: &str, id_property: Option<&str>) -> Result<Option<u32>, HsError> {
    let Some(name) = id_property.filter(|name| !name.is_empty()) else {
        return Ok(portal::live_slot(object, id));
    };
    let (at, field) = key_of(object, name)?;
    match field.source {
        Source::Id => Ok(portal::live_slot(object, id)),
        _ => Ok(object.find(at, id).first().copied()),
    }
}

/// A property that identifies records.
pub fn key_of<'a>(object: &'a Object, name: &str) -> Result<(u16, &'a Field), HsError> {
    let found = object.def.field(name);
    found
        .filter(|(_, field)| field.spec.unique || field.source == Source::Id)
        .ok_or_else(|| {
            let code = object.def.spec.code.as_deref().unwrap_or(&object.def.name);
            let message = format!("Unable to perform update/upsert by non-unique {code} property");
            HsError::validation(message)
        })
}

pub fn save(
    object: &mut Object,
    target: Target,
    change: Change,
    writer: &Writer<'_>,
) -> Result<u32, HsError> {
    if target == Target::New {
        require(object, &change)?;
    }
    let result = match target {
        Target::New => object.insert(change, writer.stamp),
        Target::Slot(slot) => object.update(slot, change, writer.stamp).map(|()| slot),
    };
    result.map_err(|taken| duplicate(object, target, &taken))
}

fn require(object: &Object, change: &Change) -> Result<(), HsError> {
    let missing = |(at, field): &(u16, &Field)| {
        field.spec.required
            && !change
                .iter()
                .any(|(sent, value)| sent == at && value.is_some())
    };
    let breaches: Vec<_> = object
        .def
        .visible()
        .filter(missing)
        .map(|(_, field)| Breach {
            name: field.name().to_owned(),
            code: "REQUIRED_FIELD",
            message: format!("\"{}\" is required", field.name()),
        })
        .collect();
    match breaches.is_empty() {
        true => Ok(()),
        false => Err(HsError::properties(&breaches)),
    }
}

fn duplicate(object: &Object, target: Target, taken: &Taken) -> HsError {
    let holder = portal::record_id(object, taken.by);
    let field = &object.def.fields[taken.field as usize];
    if field.kind == Kind::Email && target == Target::New {
        let message = format!(
            "{} already exists. Existing ID: {holder}",
            object.def.label()
        );
        return HsError::new(409, "CONFLICT", message);
    }
    HsError::properties(&[Breach {
        name: field.name().to_owned(),
        code: "CONFLICTING_UNIQUE_VALUE",
        message: format!("{holder} already has that value."),
    }])
}

/// Whether a fault wants this record to fail.
pub fn strike(
    object: &Object,
    target: Target,
    change: &Change,
    writer: &Writer<'_>,
) -> Result<(), HsError> {
    if writer.records.is_empty() {
        return Ok(());
    }
    let slot = match target {
        Target::Slot(slot) => Some(slot),
        _ => None,
    };
    let id = slot.map(|slot| portal::record_id(object, slot));
    let ids: Vec<&str> = id.as_deref().into_iter().collect();
    match writer.records.strike(&ids, &object.keys(slot, change)) {
        None => Ok(()),
        Some(failure) => {
            let status = match failure.code.as_str() {
                "OBJECT_NOT_FOUND" => 404,
                "CONFLICT" => 409,
                "LOCKED" => 423,
                "RATE_LIMITS" => 429,
                "INTERNAL_ERROR" => 500,
                _ => 400,
            };
            Err(HsError::new(status, &failure.code, failure.message))
        }
    }
}
