//! The order of search results.
//!
//! Guarantees: empty values come first, numbers stand by size and texts without case.

use super::super::error::HsError;
use super::super::portal;
use crate::schema::Source;
use crate::store::Object;
use crate::value::{Kind, Value};
use serde_json::Value as Json;

/// Which property results stand in the order of; without one it is the id.
pub struct Order {
    field: u16,
    descending: bool,
}

impl Order {
    pub fn new(object: &Object, sorts: &[Json]) -> Result<Self, HsError> {
        if sorts.len() > 1 {
            return Err(HsError::validation("Only one sort is allowed"));
        }
        let (name, descending) = match sorts.first() {
            None => ("hs_object_id", false),
            Some(Json::String(name)) => (name.trim_start_matches('-'), name.starts_with('-')),
            Some(sort) => {
                let name = sort["propertyName"].as_str().unwrap_or_default();
                (name, sort["direction"] == "DESCENDING")
            }
        };
        let found = object
            .def
            .field(name)
            .map(|(field, _)| Self { field, descending });
        found.ok_or_else(|| {
            let message = format!("There was a problem with the request: cannot sort by {name}");
            HsError::validation(message)
        })
    }

    pub fn by_modified(&self, object: &Object) -> bool {
        let source = object.def.fields[self.field as usize].source;
        source == Source::Modified && !self.descending
    }

    pub fn arrange(&self, object: &Object, slots: &mut [u32]) {
        let field = &object.def.fields[self.field as usize];
        match field.source {
            Source::Id => slots.sort_unstable(),
            _ => slots.sort_by_cached_key(|slot| {
                let value = portal::read(object, *slot, self.field);
                value.map(|value| Rank::new(field.kind, value))
            }),
        }
        if self.descending {
            slots.reverse();
        }
    }
}

/// A value as it sorts: numbers by size, texts without case.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Number(i64),
    Text(String),
}

impl Rank {
    fn new(kind: Kind, value: Value) -> Self {
        match value {
            Value::Time(ms) => Self::Number(ms),
            Value::Date(days) => Self::Number(days.into()),
            Value::Bool(value) => Self::Number(value.into()),
            Value::Number(number) => Self::Number(ordered(number)),
            Value::Text(text) => match (kind, text.parse()) {
                (Kind::Decimal, Ok(number)) => Self::Number(ordered(number)),
                _ => Self::Text(text.to_lowercase()),
            },
        }
    }
}

/// An integer that orders as the number does: the bits of a double do, but for the sign.
fn ordered(number: f64) -> i64 {
    let bits = number.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}
