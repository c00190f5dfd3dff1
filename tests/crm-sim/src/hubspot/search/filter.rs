//! The filters of a search, bound to an object.
//!
//! Guarantees: properties and operators are checked before any record is looked at.

use super::super::error::HsError;
use super::super::portal;
use crate::clock;
use crate::schema::{Field, Source};
use crate::store::Object;
use crate::value::{Kind, Value};
use serde::Deserialize;
use serde_json::Value as Json;
use std::cmp::Ordering;

const MAX_GROUPS: usize = 5;
const MAX_FILTERS: usize = 6;
/// Of all groups together.
const MAX_TOTAL: usize = 18;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Group {
    filters: Vec<FilterSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FilterSpec {
    property_name: String,
    operator: String,
    value: Option<Json>,
    high_value: Option<Json>,
    values: Vec<Json>,
}

pub struct Filter<'a> {
    at: u16,
    field: &'a Field,
    pub operator: &'a str,
    values: Vec<Wanted>,
}

/// The text of a filter, and what it says as a number and as a time.
struct Wanted {
    text: String,
    number: Option<f64>,
    ms: Option<i64>,
}

impl Wanted {
    fn new(text: String) -> Self {
        let day = || clock::parse_date(&text).map(|days| i64::from(days) * clock::DAY_MS);
        let epoch = text.parse().ok();
        Self {
            number: text.parse().ok(),
            ms: epoch.or_else(|| clock::parse_time(&text)).or_else(day),
            text: text.to_lowercase(),
        }
    }
}

/// Reads the filter groups of a request.
pub fn groups<'a>(object: &'a Object, specs: &'a [Group]) -> Result<Vec<Vec<Filter<'a>>>, HsError> {
    let sizes = || specs.iter().map(|group| group.filters.len());
    let too_many = specs.len() > MAX_GROUPS
        || sizes().any(|size| size > MAX_FILTERS)
        || sizes().sum::<usize>() > MAX_TOTAL;
    if too_many {
        let message = format!(
            "At most {MAX_GROUPS} filter groups of {MAX_FILTERS} filters, {MAX_TOTAL} in all, are allowed"
        );
        return Err(HsError::validation(message));
    }
    let bind = |spec: &'a FilterSpec| bind(object, spec);
    let group = |group: &'a Group| group.filters.iter().map(bind).collect();
    specs.iter().map(group).collect()
}

fn bind<'a>(object: &'a Object, spec: &'a FilterSpec) -> Result<Filter<'a>, HsError> {
    let name = &spec.property_name;
    let (at, field) = object.def.field(name).ok_or_else(|| {
        let message =
            format!("There was a problem with the request: property {name} does not exist");
        HsError::validation(message)
    })?;
    let text = |value: &Json| match value {
        Json::String(text) => Wanted::new(text.clone()),
        other => Wanted::new(other.to_string()),
    };
    let values: Vec<Wanted> = match spec.operator.as_str() {
        "IN" | "NOT_IN" => spec.values.iter().map(text).collect(),
        "BETWEEN" => spec
            .value
            .iter()
            .chain(&spec.high_value)
            .map(text)
            .collect(),
        _ => spec.value.iter().map(text).collect(),
    };
    let wanted = match spec.operator.as_str() {
        "HAS_PROPERTY" | "NOT_HAS_PROPERTY" => 0,
        "BETWEEN" => 2,
        "EQ" | "NEQ" | "LT" | "LTE" | "GT" | "GTE" | "IN" | "NOT_IN" | "CONTAINS_TOKEN"
        | "NOT_CONTAINS_TOKEN" => 1,
        other => return Err(HsError::validation(format!("unknown operator {other}"))),
    };
    if values.len() < wanted {
        let message = format!("operator {} of {name} needs a value", spec.operator);
        return Err(HsError::validation(message));
    }
    Ok(Filter {
        at,
        field,
        operator: &spec.operator,
        values,
    })
}

impl Filter<'_> {
    pub fn takes(&self, object: &Object, slot: u32) -> bool {
        let held = portal::read(object, slot, self.at);
        let order = |at: usize| {
            let held = held.as_ref()?;
            compare(self.field.kind, held, &self.values[at])
        };
        let any_equal = || (0..self.values.len()).any(|at| order(at) == Some(Ordering::Equal));
        match self.operator {
            "EQ" | "IN" => any_equal(),
            // Records without the property are not found by a negation either.
            "NEQ" | "NOT_IN" => held.is_some() && !any_equal(),
            "LT" => order(0).is_some_and(Ordering::is_lt),
            "LTE" => order(0).is_some_and(Ordering::is_le),
            "GT" => order(0).is_some_and(Ordering::is_gt),
            "GTE" => order(0).is_some_and(Ordering::is_ge),
            "BETWEEN" => {
                order(0).is_some_and(Ordering::is_ge) && order(1).is_some_and(Ordering::is_le)
            }
            "HAS_PROPERTY" => held.is_some(),
            "NOT_HAS_PROPERTY" => held.is_none(),
            "CONTAINS_TOKEN" => self.has_token(held.as_ref()),
            _ => !self.has_token(held.as_ref()),
        }
    }

    /// The modified time below which nothing matches.
    pub fn since(&self) -> Option<i64> {
        let bounds = matches!(self.operator, "GT" | "GTE" | "BETWEEN" | "EQ");
        let modified = self.field.source == Source::Modified;
        self.values.first().filter(|_| bounds && modified)?.ms
    }

    fn has_token(&self, held: Option<&Value>) -> bool {
        let wanted = &self.values[0].text;
        let held = held
            .map(|value| portal::spelled(value).to_lowercase())
            .unwrap_or_default();
        let tokens = held.split(|c: char| !c.is_alphanumeric());
        match (wanted.strip_prefix('*'), wanted.strip_suffix('*')) {
            (None, None) => held == *wanted || tokens.into_iter().any(|token| token == wanted),
            _ => held.contains(wanted.trim_matches('*')),
        }
    }
}

/// Compares a stored value with that of a filter.
fn compare(kind: Kind, held: &Value, wanted: &Wanted) -> Option<Ordering> {
    match (kind, held) {
        (_, Value::Time(held)) => Some(held.cmp(&wanted.ms?)),
        (_, Value::Date(held)) => Some((i64::from(*held) * clock::DAY_MS).cmp(&wanted.ms?)),
        (_, Value::Bool(held)) => Some(held.to_string().as_str().cmp(&wanted.text)),
        (_, Value::Number(held)) => held.partial_cmp(&wanted.number?),
        (Kind::Decimal | Kind::Id, Value::Text(held)) => {
            let held: f64 = held.parse().ok()?;
            held.partial_cmp(&wanted.number?)
        }
        (Kind::Choices, Value::Text(held)) => {
            let has = held
                .split(';')
                .any(|part| part.to_lowercase() == wanted.text);
            has.then_some(Ordering::Equal)
        }
        (_, Value::Text(held)) => Some(held.to_lowercase().cmp(&wanted.text)),
    }
}

/// Whether any text of the record contains the words.
pub fn mentions(object: &Object, slot: u32, words: &str) -> bool {
    let texts = object
        .def
        .visible()
        .filter(|(_, field)| matches!(field.kind, Kind::Text | Kind::Email));
    let mut held = texts.filter_map(|(at, _)| portal::read(object, slot, at));
    held.any(|value| portal::spelled(&value).to_lowercase().contains(words))
}
