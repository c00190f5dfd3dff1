//! Typed values, and whether what a caller sent fits a field.
//!
//! Guarantees: a value that `fit` returns obeys the field's type, length and choices; no vendor
//! stores anything that has not passed here. How a breach is worded is the vendor's business.

use crate::clock;
use crate::decimal;
use crate::schema::Field;
use std::borrow::Cow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Id,
    Text,
    Email,
    Bool,
    Int,
    Number,
    /// A number kept as it was written.
    Decimal,
    Date,
    Time,
    /// A time of which whole seconds are kept.
    Second,
    Choice,
    Choices,
    Reference,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(Box<str>),
    Number(f64),
    Bool(bool),
    /// Days since 1970.
    Date(i32),
    /// Milliseconds since 1970.
    Time(i64),
}

impl Value {
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Self::Text(text.into())
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text by which an index knows the value.
    pub fn key(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
            _ => None,
        }
    }
}

/// A value as it came in.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(&'a str),
    /// An object or array, where a plain value belongs.
    Nested,
}

impl<'a> From<&'a serde_json::Value> for Raw<'a> {
    fn from(value: &'a serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Raw::Null,
            serde_json::Value::Bool(value) => Raw::Bool(*value),
            serde_json::Value::Number(number) => Raw::Number(number.as_str()),
            serde_json::Value::String(text) => Raw::Text(text),
            _ => Raw::Nested,
        }
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    Type,
    TooLong { limit: u32 },
    Choice { value: String },
    Email,
    Range,
}

/// Checks `raw` against `field`; `None` is empty.
pub fn fit(field: &Field, raw: Raw<'_>) -> Result<Option<Value>, Misfit> {
    let text = match raw {
        Raw::Null => return Ok(None),
        Raw::Nested => return Err(Misfit::Type),
        Raw::Bool(value) => match field.kind {
            Kind::Bool => return Ok(Some(Value::Bool(value))),
            _ => return Err(Misfit::Type),
        },
        Raw::Number(text) => match field.kind {
            Kind::Int | Kind::Number | Kind::Decimal => text,
            _ => return Err(Misfit::Type),
        },
        Raw::Text("") => return Ok(None),
        Raw::Text(text) => text,
    };
    fit_text(field, text).map(|value| Some(altered(field, value)))
}

/// What the CRM makes of a value that fits, and tells nobody.
pub fn altered(field: &Field, value: Value) -> Value {
    let rule = &field.spec.alters;
    match value {
        Value::Number(number) => match rule.decimals {
            Some(decimals) => {
                let unit = 10_f64.powi(decimals as i32);
                Value::Number((number * unit).round() / unit)
            }
            None => value,
        },
        Value::Text(text) if field.kind == Kind::Decimal => match rule.decimals {
            Some(decimals) => {
                let number = decimal::rounded(&text, decimals, i64::MAX);
                number.map_or(Value::Text(text), |n| Value::text(n.to_plain_string()))
            }
            None => Value::Text(text),
        },
        Value::Text(text) if field.kind == Kind::Text => {
            let most = rule.characters.unwrap_or(usize::MAX);
            let mut text: String = text.chars().take(most).collect();
            if rule.upper {
                text = text.to_uppercase();
            }
            if rule.brackets && !text.starts_with('[') {
                text = format!("[{text}]");
            }
            Value::text(text)
        }
        value => value,
    }
}

fn fit_text(field: &Field, text: &str) -> Result<Value, Misfit> {
    Ok(match field.kind {
        Kind::Bool => Value::Bool(boolean(text).ok_or(Misfit::Type)?),
        Kind::Int | Kind::Number => number(field, text)?,
        Kind::Decimal => {
            text.parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
                .ok_or(Misfit::Type)?;
            Value::text(text)
        }
        Kind::Date => Value::Date(clock::parse_date(text).ok_or(Misfit::Type)?),
        Kind::Time => Value::Time(clock::parse_time(text).ok_or(Misfit::Type)?),
        Kind::Second => {
            let time = clock::parse_time(text).ok_or(Misfit::Type)?;
            Value::Time(time.div_euclid(1000) * 1000)
        }
        Kind::Email => {
            within(field, text)?;
            if !is_email(text) {
                return Err(Misfit::Email);
            }
            Value::text(text)
        }
        Kind::Choice => {
            chosen(field, text)?;
            within(field, text)?;
            Value::text(text)
        }
        Kind::Choices => {
            for part in text.split(';') {
                chosen(field, part)?;
            }
            within(field, text)?;
            Value::text(text)
        }
        Kind::Text | Kind::Id | Kind::Reference => {
            within(field, text)?;
            Value::text(text)
        }
    })
}

/// CRMs count UTF-16 units, so an emoji is two.
fn within(field: &Field, text: &str) -> Result<(), Misfit> {
    match field.spec.length {
        // Bytes are never fewer than UTF-16 units, so most texts need no counting.
        Some(limit) if text.len() > limit as usize => {
            if text.encode_utf16().count() > limit as usize {
                return Err(Misfit::TooLong { limit });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn chosen(field: &Field, text: &str) -> Result<(), Misfit> {
    let listed = || field.spec.values.iter().any(|value| value == text);
    if field.spec.restricted && !listed() {
        let value = text.to_owned();
        return Err(Misfit::Choice { value });
    }
    Ok(())
}

fn number(field: &Field, text: &str) -> Result<Value, Misfit> {
    let number: f64 = text.trim().parse().map_err(|_| Misfit::Type)?;
    if !number.is_finite() {
        return Err(Misfit::Type);
    }
    if field.kind == Kind::Int {
        if number.fract() != 0.0 {
            return Err(Misfit::Type);
        }
        if number.abs() > f64::from(i32::MAX) {
            return Err(Misfit::Range);
        }
    }
    if let Some(precision) = field.spec.precision {
        let whole_digits = precision - field.spec.scale.unwrap_or(0).min(precision);
        if number.abs() >= 10f64.powi(whole_digits as i32) {
            return Err(Misfit::Range);
        }
    }
    Ok(Value::Number(number))
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let blank = text.chars().any(|c| c.is_whitespace() || c == ',');
    !blank
        && !local.is_empty()
        && !local.contains('@')
        && domain.contains('.')
        && domain.split('.').all(|label| !label.is_empty())
}
