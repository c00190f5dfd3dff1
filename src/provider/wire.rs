//! What the vendors' value formats have in common: a value as text, and a record's fields
//! serialised as JSON without an intermediate tree.

use std::borrow::Cow;

use crm_domain::value::filled;
use crm_domain::{DataType, Number, Value, ValueError};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;

use crate::{WriteBatch, WriteRecord};

/// Longer than any vendor's id, in bytes: URLs and indexes have to hold it.
const LONGEST_ID: usize = 500;

/// A value as a vendor is sent it.
pub(crate) enum Wire<'a> {
    Null,
    Boolean(bool),
    Number(&'a Number),
    Text(Cow<'a, str>),
}

impl Serialize for Wire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Wire::Null => serializer.serialize_unit(),
            Wire::Boolean(b) => serializer.serialize_bool(*b),
            Wire::Number(n) => n.to_json().serialize(serializer),
            Wire::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl From<Wire<'_>> for Json {
    fn from(wire: Wire<'_>) -> Json {
        match wire {
            Wire::Null => Json::Null,
            Wire::Boolean(b) => Json::Bool(b),
            Wire::Number(n) => Json::Number(n.to_json()),
            Wire::Text(text) => Json::String(text.into_owned()),
        }
    }
}

/// A value as the text that both vendors keep of it; empty for null. A multi-choice is `A;B;C`,
/// JSON is text to them.
pub(crate) fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::MultiChoice(words) => Cow::Owned(
            words
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(";"),
        ),
        value => value.to_text().unwrap_or_default(),
    }
}

/// A value as read from a vendor that keeps JSON as text. Text that is no JSON was typed there by
/// somebody: it is the JSON of that text.
pub(crate) fn read(data_type: DataType, wire: &Json) -> Result<Value, ValueError> {
    match (data_type, wire) {
        (DataType::Json, Json::String(text)) if filled(text).is_none() => Ok(Value::Null),
        (DataType::Json, Json::String(text)) => match serde_json::from_str(text) {
            Ok(json) => Ok(Value::json(json)),
            Err(_) => Value::from_json(data_type, wire),
        },
        _ => Value::from_json(data_type, wire),
    }
}

/// A moment in a vendor's form, as UTC milliseconds.
pub(crate) fn moment(wire: &Json) -> Option<i64> {
    match Value::from_json(DataType::Timestamp, wire) {
        Ok(Value::Timestamp(ms)) => Some(ms),
        _ => None,
    }
}

/// A text or a number, as text.
pub(crate) fn scalar_text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A record's id, if it can be one: what no id holds tells that it was damaged on its way, or is
/// none.
pub(crate) fn id(json: &Json) -> Option<String> {
    scalar_text(json).filter(|id| is_id(id))
}

/// Whether a text may be the id of a record.
pub(crate) fn is_id(text: &str) -> bool {
    let is_foreign = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    filled(text).is_some() && text.len() <= LONGEST_ID && !text.contains(is_foreign)
}

/// Takes a member out of what should be an object. Of anything else there is none:
/// `json[name].take()` would panic.
pub(crate) fn member(json: &mut Json, name: &str) -> Json {
    json.get_mut(name).map(Json::take).unwrap_or_default()
}

/// Some records of a batch as a JSON list, each in the form that `item` gives it.
pub(crate) struct List<'a, T> {
    pub batch: &'a WriteBatch,
    pub records: &'a [usize],
    pub item: fn(&'a WriteBatch, usize) -> T,
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.records
                .iter()
                .map(|&index| (self.item)(self.batch, index)),
        )
    }
}

/// The fields of a record as a JSON object, but for the one that holds our key, which travels
/// apart.
pub(crate) struct Fields<'a> {
    pub record: &'a WriteRecord,
    pub key_field: Option<&'a str>,
    pub form: fn(&Value) -> Wire<'_>,
}

impl<'a> Fields<'a> {
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        let key_field = self.key_field;
        let all = self
            .record
            .fields
            .iter()
            .map(|(field, value)| (field.name.as_str(), value));
        all.filter(move |(name, _)| !key_field.is_some_and(|key| key.eq_ignore_ascii_case(name)))
    }

    pub fn write_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        self.iter()
            .try_for_each(|(name, value)| map.serialize_entry(name, &(self.form)(value)))
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.write_into(&mut map)?;
        map.end()
    }
}
