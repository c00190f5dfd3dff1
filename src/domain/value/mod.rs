//! The value of a mapped field, in one canonical form.
//!
//! Postgres writes `100.00`, HubSpot `"100"`, Salesforce `100.0`: one number. A [`Value`] is
//! canonical from its construction on, so two values mean the same if and only if they are `==`,
//! and then their JSON form and their hash are the same too:
//!
//! - numbers are compared as decimals of any size ([`Number`]);
//! - timestamps are UTC milliseconds, rounded down;
//! - a multi-choice is a set of words;
//! - text has LF line ends and no white space around it, as CRMs store it;
//! - null, missing, empty text and an empty multi-choice are one: [`Value::Null`].

mod blank;
mod canonical_form;
mod error;
pub mod number;
pub(crate) mod time;

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::civil::Date;
use serde_json::Value as Json;

use crate::{DataType, canonical};

use blank::canonical_text;

pub use blank::{filled, is_blank};
pub use error::ValueError;
pub(crate) use error::excerpt;
pub use number::Number;

/// The value of a mapped field, canonical when made by one of the functions here. Text, choices and
/// references are all [`Value::Text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    Number(Number),
    Boolean(bool),
    /// A day of the years 1 to 9999.
    Date(Date),
    /// UTC milliseconds, within the years 1 to 9999.
    Timestamp(i64),
    /// Words that are neither empty nor hold a `;`.
    MultiChoice(BTreeSet<String>),
    /// Any JSON but null, its numbers spelt canonically.
    Json(Json),
}

impl Value {
    /// Text as CRMs store it.
    pub fn text(text: &str) -> Value {
        filled(text).map_or(Value::Null, |text| Value::Text(text.into_owned()))
    }

    pub fn number(text: &str) -> Result<Value, ValueError> {
        text.parse().map(Value::Number)
    }

    /// A moment; what lies beyond the years 1 to 9999 becomes the nearest moment within.
    pub fn timestamp_ms(ms: i64) -> Value {
        Value::Timestamp(ms.clamp(time::MIN_MS, time::MAX_MS))
    }

    /// A set of words. A word that holds a `;` is several, as it would be for a CRM.
    pub fn multi_choice<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Value {
        let mut set = BTreeSet::new();
        for word in words {
            let parts = word
                .as_ref()
                .split(';')
                .map(canonical_text)
                .filter(|part| !part.is_empty());
            set.extend(parts.map(Cow::into_owned));
        }
        if set.is_empty() {
            Value::Null
        } else {
            Value::MultiChoice(set)
        }
    }

    pub fn json(mut json: Json) -> Value {
        if json.is_null() {
            return Value::Null;
        }
        canonical::normalise(&mut json);
        Value::Json(json)
    }

    /// Reads a column's text output, of a session whose `DateStyle` is ISO and `TimeZone` UTC.
    /// A multi-choice is `A;B;C`, or a JSON array if it begins with `[`.
    pub fn from_postgres(data_type: DataType, text: Option<&str>) -> Result<Value, ValueError> {
        let Some(text) = text else {
            return Ok(Value::Null);
        };
        let text = text.trim_matches(is_blank);
        if data_type == DataType::MultiChoice && text.starts_with('[') {
            return Value::from_row(data_type, &parse_json(data_type, text)?);
        }
        Value::from_text(data_type, text)
    }

    /// Reads JSON that a row holds, or a function made of it. A choice of a list that holds a `;`
    /// is none: a CRM would take it for several.
    pub fn from_row(data_type: DataType, json: &Json) -> Result<Value, ValueError> {
        if let (DataType::MultiChoice, Json::Array(items)) = (data_type, json) {
            let mut words = items.iter().filter_map(Json::as_str);
            if let Some(word) = words.find(|word| word.contains(';')) {
                return Err(ValueError::separated(word));
            }
        }
        Value::from_json(data_type, json)
    }

    /// Reads JSON leniently, as the vendors' APIs need it: numbers, booleans and moments may be
    /// strings, moments may be epoch milliseconds, a multi-choice may be `A;B;C`, and an empty
    /// string is null for every type but JSON.
    pub fn from_json(data_type: DataType, json: &Json) -> Result<Value, ValueError> {
        use DataType::{Boolean, Choice, Date, MultiChoice, Number, Reference, Text, Timestamp};
        let wrong_kind = || ValueError::wrong_kind(data_type, json);
        match (data_type, json) {
            (_, Json::Null) => Ok(Value::Null),
            (DataType::Json, _) => Ok(Value::json(json.clone())),
            (_, Json::String(text)) => Value::from_text(data_type, text.trim_matches(is_blank)),
            (Boolean, Json::Bool(b)) => Ok(Value::Boolean(*b)),
            (Number, Json::Number(n)) => Value::number(n.as_str()),
            (Date | Timestamp, Json::Number(n)) => Value::from_epoch(data_type, n.as_str()),
            (MultiChoice, Json::Array(items)) => {
                let words: Option<Vec<_>> = items.iter().map(scalar_text).collect();
                words.map(Value::multi_choice).ok_or_else(wrong_kind)
            }
            (Text | Choice | Reference | MultiChoice, _) => {
                Value::from_text(data_type, &scalar_text(json).ok_or_else(wrong_kind)?)
            }
            _ => Err(wrong_kind()),
        }
    }

    /// Reads trimmed text.
    fn from_text(data_type: DataType, text: &str) -> Result<Value, ValueError> {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        match data_type {
            DataType::Text | DataType::Choice | DataType::Reference => Ok(Value::text(text)),
            DataType::Number => Value::number(text),
            DataType::Boolean if text == "t" || text.eq_ignore_ascii_case("true") => {
                Ok(Value::Boolean(true))
            }
            DataType::Boolean if text == "f" || text.eq_ignore_ascii_case("false") => {
                Ok(Value::Boolean(false))
            }
            DataType::Boolean => Err(ValueError::unreadable(data_type, text)),
            DataType::Date => time::read_date(text).map(Value::Date),
            DataType::Timestamp => time::read_timestamp(text).map(Value::Timestamp),
            DataType::MultiChoice => Ok(Value::multi_choice([text])),
            DataType::Json => parse_json(data_type, text).map(Value::json),
        }
    }

    /// Reads epoch milliseconds that are a JSON number, so perhaps with a fraction or an exponent.
    fn from_epoch(data_type: DataType, number: &str) -> Result<Value, ValueError> {
        let number: Number = number.parse()?;
        let whole = number
            .floor()
            .ok_or_else(|| ValueError::out_of_range(data_type, number.as_str()))?;
        Value::from_text(data_type, &whole.to_string())
    }

    /// The canonical JSON form.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Text(text) => Json::String(text.clone()),
            Value::Number(n) => Json::Number(n.to_json()),
            Value::Boolean(b) => Json::Bool(*b),
            Value::Date(date) => Json::String(date.to_string()),
            Value::Timestamp(ms) => Json::String(time::Utc(*ms).to_string()),
            Value::MultiChoice(words) => words.iter().cloned().collect(),
            Value::Json(json) => json.clone(),
        }
    }

    /// The value as bare text, which [`Value::from_postgres`] reads back; `None` for null. A
    /// multi-choice is `A;B;C` (an array if its first word begins with `[`), JSON is canonical.
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        let owned = match self {
            Value::Null => return None,
            Value::Text(text) => return Some(Cow::Borrowed(text)),
            Value::Number(n) => return Some(Cow::Borrowed(n.as_str())),
            Value::Boolean(b) => return Some(Cow::Borrowed(if *b { "true" } else { "false" })),
            Value::Date(date) => date.to_string(),
            Value::Timestamp(ms) => time::Utc(*ms).to_string(),
            Value::MultiChoice(words)
                if words.first().is_some_and(|word| word.starts_with('[')) =>
            {
                canonical::text(&self.to_json())
            }
            Value::MultiChoice(words) => words
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(";"),
            Value::Json(json) => canonical::text(json),
        };
        Some(Cow::Owned(owned))
    }

    /// Whether PostgreSQL's `jsonb` can hold the value: it has no NUL, and its numbers are
    /// `numeric`.
    pub fn fits_jsonb(&self) -> bool {
        match self {
            Value::Json(json) => json_fits(json),
            // The others were made so that it can.
            _ => true,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// About how many bytes the value takes, in memory and on the way.
    pub fn size(&self) -> usize {
        let content = match self {
            Value::Null | Value::Boolean(_) | Value::Date(_) | Value::Timestamp(_) => 0,
            Value::Text(text) => text.len(),
            Value::Number(n) => n.as_str().len(),
            Value::MultiChoice(words) => words
                .iter()
                .map(|word| size_of::<String>() + word.len())
                .sum(),
            Value::Json(json) => json_size(json),
        };
        size_of::<Value>() + content
    }
}

fn json_size(json: &Json) -> usize {
    let content = match json {
        Json::Null | Json::Bool(_) => 0,
        Json::Number(n) => n.as_str().len(),
        Json::String(s) => s.len(),
        Json::Array(items) => items.iter().map(json_size).sum(),
        Json::Object(entries) => entries
            .iter()
            .map(|(key, item)| size_of::<String>() + key.len() + json_size(item))
            .sum(),
    };
    size_of::<Json>() + content
}

fn json_fits(json: &Json) -> bool {
    match json {
        Json::Null | Json::Bool(_) => true,
        Json::Number(n) => n.as_str().parse::<Number>().is_ok(),
        Json::String(s) => !s.contains('\0'),
        Json::Array(items) => items.iter().all(json_fits),
        Json::Object(entries) => entries
            .iter()
            .all(|(key, item)| !key.contains('\0') && json_fits(item)),
    }
}

fn parse_json(expected: DataType, text: &str) -> Result<Json, ValueError> {
    serde_json::from_str(text).map_err(|_| ValueError::unreadable(expected, text))
}

/// A JSON scalar as text, the way a text field shows it.
fn scalar_text(json: &Json) -> Option<Cow<'_, str>> {
    match json {
        Json::Null => Some(Cow::Borrowed("")),
        Json::String(s) => Some(Cow::Borrowed(s)),
        Json::Bool(b) => Some(Cow::Borrowed(if *b { "true" } else { "false" })),
        Json::Number(n) => Some(number::canonical(n.as_str()).unwrap_or(Cow::Borrowed(n.as_str()))),
        Json::Array(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
