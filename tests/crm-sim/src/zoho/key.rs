//! What queries and searches compare: a value of a record, and what a text means where its field is
//! concerned.

use super::error::ZohoError;
use super::org::{self, floor};
use crate::clock;
use crate::schema::{Field, Source};
use crate::store::Object;
use crate::value::Kind;
use serde_json::Value as Json;
use std::cmp::Ordering;

/// A value that compares: ids, moments and numbers by their size, texts without case.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Key {
    Nothing,
    /// An id or a moment.
    Whole(u64),
    Number(f64),
    Text(String),
}

impl Key {
    pub fn total(&self, other: &Self) -> Ordering {
        self.partial_cmp(other).unwrap_or(Ordering::Equal)
    }
}

/// What a record holds.
pub fn key(object: &Object, slot: u32, name: &str) -> Key {
    let Some((at, field)) = object.def.field(name) else {
        return Key::Nothing;
    };
    let record = &object.records[slot as usize];
    match field.source {
        Source::Created => return Key::Whole(floor(record.created) as u64),
        Source::Modified => return Key::Whole(floor(record.modified) as u64),
        _ => {}
    }
    let held = org::held(object, slot, at);
    let held = match held.get("id") {
        Some(id) => id.clone(),
        None => held,
    };
    match held {
        Json::Null => Key::Nothing,
        Json::String(text) => key_of(field, &text).unwrap_or(Key::Nothing),
        Json::Array(items) => {
            let items = items.iter().filter_map(Json::as_str);
            Key::Text(items.collect::<Vec<_>>().join(";").to_lowercase())
        }
        other => key_of(field, &other.to_string()).unwrap_or(Key::Nothing),
    }
}

/// What a query means by a text, where a field is concerned.
pub fn key_of(field: &Field, text: &str) -> Result<Key, ZohoError> {
    let unfit = || ZohoError::new(400, "INVALID_QUERY", "invalid query formed");
    Ok(match field.kind {
        _ if org::is_reference(field) || field.source == Source::Id => {
            Key::Whole(text.parse().map_err(|_| unfit())?)
        }
        Kind::Second => {
            let moment = clock::parse_time(text).filter(|_| !text.contains('.'));
            Key::Whole(moment.ok_or_else(unfit)? as u64)
        }
        Kind::Date => {
            clock::parse_date(text).ok_or_else(unfit)?;
            Key::Text(text.to_owned())
        }
        Kind::Int | Kind::Number => Key::Number(text.parse().map_err(|_| unfit())?),
        Kind::Bool => match text.to_ascii_lowercase() {
            word if matches!(word.as_str(), "true" | "false") => Key::Text(word),
            _ => return Err(unfit()),
        },
        _ => Key::Text(text.to_lowercase()),
    })
}
