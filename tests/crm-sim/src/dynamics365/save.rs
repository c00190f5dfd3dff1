//! What the body of a write sets.
//!
//! Guarantees: nothing is stored that does not fit its column; columns of the system are passed
//! over, as Dataverse does; a lookup names a row that is there.

use super::address::Address;
use super::error::DataverseError;
use super::{org, rows};
use crate::decimal;
use crate::schema::Field;
use crate::store::{Change, Object, Store};
use crate::value::{Kind, Misfit, Raw, Value, altered, fit};
use serde_json::{Map, Value as Json};

type Fields = Map<String, Json>;

/// As the API takes it.
pub fn change_of(store: &Store, object: &Object, body: &Fields) -> Result<Change, DataverseError> {
    let mut change = Change::with_capacity(body.len());
    for (name, value) in body {
        if let Some(navigation) = name.strip_suffix("@odata.bind") {
            change.push(bound(store, object, navigation, value)?);
        } else if let Some((at, _)) = lookup(object, name).filter(|_| value.is_null()) {
            change.push((at, None));
        } else if name.starts_with("@odata.") {
            // Of the row as it was read: what it is called, and its tag.
        } else {
            change.extend(column(object, name, value)?);
        }
    }
    Ok(change)
}

/// As a person enters it: a lookup by the name that it is read by.
pub fn entered(object: &Object, fields: &Fields) -> Result<Change, DataverseError> {
    let mut change = Change::with_capacity(fields.len());
    for (name, value) in fields {
        match object.def.field(name).filter(|(_, field)| is_lookup(field)) {
            Some((at, _)) => change.push((at, value.as_str().map(Value::text))),
            None => change.extend(column(object, name, value)?),
        }
    }
    Ok(change)
}

fn is_lookup(field: &Field) -> bool {
    field.spec.native == "Lookup"
}

pub fn column(
    object: &Object,
    name: &str,
    value: &Json,
) -> Result<Option<(u16, Option<Value>)>, DataverseError> {
    let set = &object.def.name;
    let known = object.def.field(name);
    let known = known.filter(|(_, field)| field.name() == name && !field.removed);
    let Some((at, field)) = known.filter(|(_, field)| !field.writable() || !is_lookup(field))
    else {
        let table = org::table(set);
        let text = format!(
            "Invalid property '{name}' was found in entity 'Microsoft.Dynamics.CRM.{table}'."
        );
        return Err(DataverseError::payload(set, &text));
    };
    match field.writable() {
        true => Ok(Some((at, value_of(set, field, value)?))),
        false => Ok(None),
    }
}

fn value_of(set: &str, field: &Field, value: &Json) -> Result<Option<Value>, DataverseError> {
    if value.is_null() {
        return Ok(None);
    }
    let name = field.name();
    let strange = |kind: &str| {
        let text = format!("Cannot convert the literal '{value}' to the expected type '{kind}'.");
        DataverseError::payload(set, &text)
    };
    let out_of_range = || {
        let values = field.spec.values.join(",");
        let text = format!(
            "A validation error occurred. The value {value} of '{name}' on record of type '{}' is outside the valid range. Accepted Values: {values}",
            org::table(set)
        );
        DataverseError::new(400, "0x8004431a", text)
    };
    let listed = |option: &str| field.spec.values.iter().any(|value| value == option);
    match (field.spec.native.as_str(), value) {
        ("Picklist", Json::Number(option)) => match listed(&option.to_string()) {
            true => return Ok(Some(Value::text(option.to_string()))),
            false => return Err(out_of_range()),
        },
        ("Picklist", _) => return Err(strange("Edm.Int32")),
        ("MultiSelectPicklist", Json::String(options)) if options.split(',').all(listed) => {
            return Ok(Some(Value::text(options.as_str())));
        }
        ("MultiSelectPicklist", Json::String(_)) => return Err(out_of_range()),
        _ => {}
    }
    let (fits, kind) = match field.kind {
        Kind::Bool => (value.is_boolean(), "Edm.Boolean"),
        Kind::Int => (value.is_number(), "Edm.Int32"),
        Kind::Number => (value.is_number(), "Edm.Double"),
        Kind::Decimal => (value.is_number(), "Edm.Decimal"),
        Kind::Date => (value.is_string(), "Edm.Date"),
        Kind::Second => (value.is_string(), "Edm.DateTimeOffset"),
        _ => (value.is_string(), "Edm.String"),
    };
    if !fits {
        return Err(strange(kind));
    }
    if field.kind == Kind::Decimal {
        let (most, _) = org::decimals(&field.spec.native);
        let scale = field.spec.scale.unwrap_or_default();
        // More digits than the column keeps are no error.
        let number = decimal::rounded(&value.to_string(), scale, most);
        let too_much = || {
            let text = format!(
                "A validation error occurred. The value of '{name}' on record of type '{}' is outside the valid range.",
                org::table(set)
            );
            DataverseError::new(400, "0x80044330", text)
        };
        let number = number.ok_or_else(too_much)?;
        let number = Value::text(number.to_plain_string());
        return Ok(Some(altered(field, number)));
    }
    fit(field, Raw::from(value)).map_err(|misfit| match misfit {
        Misfit::TooLong { limit } => {
            let text = format!(
                "A validation error occurred. The length of the '{name}' attribute of the '{}' entity exceeded the maximum allowed length of '{limit}'.",
                org::table(set)
            );
            DataverseError::new(400, "0x80044331", text)
        }
        _ => strange(kind),
    })
}

/// `"navigation@odata.bind": "/set(GUID)"`
pub fn bound(
    store: &Store,
    object: &Object,
    navigation: &str,
    value: &Json,
) -> Result<(u16, Option<Value>), DataverseError> {
    let set = &object.def.name;
    let Some((at, field)) = lookup(object, navigation) else {
        let text = format!(
            "An undeclared property '{navigation}' which only has property annotations in the payload but no property value was found in the payload."
        );
        return Err(DataverseError::payload(set, &text));
    };
    let Some(link) = value.as_str() else {
        return match value {
            Json::Null => Ok((at, None)),
            _ => Err(DataverseError::payload(
                set,
                "The bind annotation takes a text.",
            )),
        };
    };
    let address = Address::of_link(link)?;
    let target = field.spec.references.get(1).map_or("", String::as_str);
    if address.set() != target {
        let of = address.set();
        let text = format!("The navigation property '{navigation}' does not lead to '{of}'.");
        return Err(DataverseError::payload(set, &text));
    }
    let rows = store.object(target);
    let rows = rows.ok_or_else(|| DataverseError::no_segment(target))?;
    let slot = rows::find(rows, &address)?.ok_or_else(|| rows::missing(&address))?;
    Ok((at, Some(Value::text(org::row_id(rows, slot)))))
}

/// The lookup that a navigation property writes.
pub fn lookup<'a>(object: &'a Object, navigation: &str) -> Option<(u16, &'a Field)> {
    let named = |field: &Field| {
        let first = field.spec.references.first();
        first.is_some_and(|held| held == navigation)
    };
    object.def.visible().find(|(_, field)| named(field))
}
