//! The form in which HubSpot keeps a value.
//!
//! Guarantees: e-mail addresses are lower case; numbers are plain digits, with the decimals they
//! were sent with; dates are days and times milliseconds, whichever way they were spelled; a
//! checkbox property holds each option once, and what begins with a semicolon is added to what it
//! holds.

use crate::clock::{self, DAY_MS};
use crate::schema::Field;
use crate::value::{Kind, Misfit, Raw, Value, fit};
use bigdecimal::BigDecimal;
use std::borrow::Cow;

/// Whatever its JSON type, a value is read as text. `held` is what the property holds so far.
pub fn kept(field: &Field, text: &str, held: Option<&Value>) -> Result<Option<Value>, Misfit> {
    let epoch: Option<i64> = text.parse().ok();
    match (field.kind, epoch) {
        (_, _) if text.is_empty() => Ok(None),
        // A date may come as its midnight in UTC.
        (Kind::Date, Some(ms)) if ms % DAY_MS == 0 => Ok(Some(Value::Date((ms / DAY_MS) as i32))),
        (Kind::Time, Some(ms)) => Ok(Some(Value::Time(ms))),
        (Kind::Time, None) => match clock::parse_date(text) {
            Some(days) => Ok(Some(Value::Time(i64::from(days) * DAY_MS))),
            None => fit(field, Raw::Text(text)),
        },
        (Kind::Email, _) => fit(field, Raw::Text(&text.trim().to_lowercase())),
        (Kind::Decimal, _) => fit(field, Raw::Text(&plain(text.trim()))),
        (Kind::Choices, _) => fit(field, Raw::Text(&several(text, held))),
        (Kind::Text, _) if field.spec.lower => fit(field, Raw::Text(&text.to_lowercase())),
        _ => fit(field, Raw::Text(text)),
    }
}

/// Digits without an exponent and without idle signs and zeros; trailing zeros stay.
fn plain(text: &str) -> Cow<'_, str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.split('.').next().unwrap_or_default();
    let idle = whole.len() > 1 && whole.starts_with('0');
    let usual = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    // An exponent that no double holds is refused, not written out.
    let sound = text.parse::<f64>().is_ok_and(f64::is_finite);
    match text.parse::<BigDecimal>() {
        Ok(number) if sound && (idle || !usual || whole.is_empty()) => {
            number.to_plain_string().into()
        }
        _ => text.into(),
    }
}

fn several(text: &str, held: Option<&Value>) -> String {
    let held = held
        .filter(|_| text.starts_with(';'))
        .and_then(Value::as_text);
    let mut parts: Vec<&str> = Vec::new();
    for part in held
        .into_iter()
        .chain([text])
        .flat_map(|text| text.split(';'))
    {
        if !part.is_empty() && !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(";")
}
