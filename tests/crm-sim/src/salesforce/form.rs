//! The form in which Salesforce keeps a value.
//!
//! Guarantees: texts stand without white space around them; numbers have no more decimals than
//! their scale, rounded half up; a choice that a picklist has is spelled as the picklist spells it,
//! and among several it stands once.

use crate::schema::Field;
use crate::value::{Kind, Misfit, Raw, Value, fit};
use bigdecimal::{BigDecimal, RoundingMode};

/// Without the white space around a text, which Salesforce takes off before anything else.
pub fn bare(raw: Raw<'_>) -> Raw<'_> {
    match raw {
        Raw::Text(text) => Raw::Text(text.trim()),
        other => other,
    }
}

/// The value that is kept of a bare one; `None` is empty.
pub fn kept(field: &Field, raw: Raw<'_>) -> Result<Option<Value>, Misfit> {
    let (Raw::Text(text) | Raw::Number(text)) = raw else {
        return fit(field, raw);
    };
    let changed = match (field.kind, field.spec.scale) {
        (Kind::Number, Some(scale)) if !field.spec.exact => rounded(text, scale),
        (Kind::Choice, _) => Some(listed(field, text).to_owned()),
        (Kind::Choices, _) => Some(several(field, text)),
        (Kind::Text | Kind::Email, _) if field.spec.lower => Some(text.to_lowercase()),
        _ => None,
    };
    match (&changed, raw) {
        (None, raw) => fit(field, raw),
        (Some(changed), Raw::Number(_)) => fit(field, Raw::Number(changed)),
        (Some(changed), _) => fit(field, Raw::Text(changed)),
    }
}

/// `None` for what is no number, or none of a size that matters.
fn rounded(text: &str, scale: u32) -> Option<String> {
    let size: f64 = text.parse().ok()?;
    if !size.is_finite() {
        return None;
    }
    let number: BigDecimal = text.parse().ok()?;
    let number = number.with_scale_round(scale.into(), RoundingMode::HalfUp);
    Some(number.to_plain_string())
}

fn listed<'a>(field: &'a Field, text: &'a str) -> &'a str {
    let folded = text.to_lowercase();
    let mut values = field.spec.values.iter();
    let exact = values.clone().find(|value| *value == text);
    exact
        .or_else(|| values.find(|value| value.to_lowercase() == folded))
        .map_or(text, String::as_str)
}

fn several(field: &Field, text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split(';') {
        let part = listed(field, part.trim());
        if !part.is_empty() && !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(";")
}
