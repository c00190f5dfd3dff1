//! What is told of values beside them, for those who prefer it: how people see them, and where
//! lookups lead.
//!
//! Guarantees: nothing is added that was not asked for by its name, or by `*`.

use super::org;
use crate::clock;
use crate::http::Request;
use crate::schema::{Field, Source};
use crate::store::Object;
use crate::value::Kind;
use serde_json::{Map, Value as Json};

const FORMATTED: &str = "OData.Community.Display.V1.FormattedValue";
const TABLE: &str = "Microsoft.Dynamics.CRM.lookuplogicalname";
const NAVIGATION: &str = "Microsoft.Dynamics.CRM.associatednavigationproperty";

/// The pattern of `odata.include-annotations="…"`.
pub fn wanted(request: &Request) -> Option<&str> {
    let (_, rest) = request
        .header("prefer")?
        .split_once("odata.include-annotations=")?;
    match rest.strip_prefix('"') {
        Some(rest) => rest.split('"').next(),
        None => rest.split(',').next(),
    }
}

/// Adds them to a row that is shown.
pub fn add(wanted: Option<&str>, object: &Object, row: &mut Map<String, Json>) {
    let Some(wanted) = wanted else {
        return;
    };
    let asked = |name: &str| {
        let mut patterns = wanted.split(',').map(str::trim);
        patterns.any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        })
    };
    for (_, field) in object.def.visible() {
        let Some(value) = row.get(field.name()).filter(|value| !value.is_null()) else {
            continue;
        };
        let told = [
            (FORMATTED, formatted(field, value)),
            (TABLE, led(field, 1).map(|set| org::table(&set))),
            (NAVIGATION, led(field, 0)),
        ];
        for (name, text) in told {
            if let Some(text) = text.filter(|_| asked(name)) {
                row.insert(format!("{}@{name}", field.name()), text.into());
            }
        }
    }
}

/// Where a lookup leads: by which property, or to which set.
fn led(field: &Field, part: usize) -> Option<String> {
    match field.source {
        Source::CreatedBy | Source::ModifiedBy => (part == 1).then(|| "systemusers".to_owned()),
        _ => field.spec.references.get(part).cloned(),
    }
}

fn formatted(field: &Field, value: &Json) -> Option<String> {
    let text = value.as_str();
    Some(match field.spec.native.as_str() {
        "Picklist" => format!("Option {value}"),
        "MultiSelectPicklist" => {
            let options = text?.split(',').map(|option| format!("Option {option}"));
            options.collect::<Vec<_>>().join("; ")
        }
        "Boolean" => if value == true { "Yes" } else { "No" }.to_owned(),
        "Money" => format!("${}", grouped(&value.to_string(), 2)),
        "Decimal" => grouped(
            &value.to_string(),
            field.spec.scale.unwrap_or_default() as usize,
        ),
        "Integer" => grouped(&value.to_string(), 0),
        _ if field.kind == Kind::Date => day(text?)?,
        _ if field.kind == Kind::Second => {
            let text = text?;
            let hour: u32 = text.get(11..13)?.parse().ok()?;
            let half = if hour < 12 { "AM" } else { "PM" };
            let hour = (hour + 11) % 12 + 1;
            format!(
                "{} {hour}:{} {half}",
                day(text.get(..10)?)?,
                text.get(14..16)?
            )
        }
        _ => return None,
    })
}

/// `1/2/2026`
fn day(text: &str) -> Option<String> {
    clock::parse_date(text)?;
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok();
    Some(format!(
        "{}/{}/{}",
        number(5..7)?,
        number(8..10)?,
        number(0..4)?
    ))
}

/// `1,234.50`, of so many digits behind the point.
fn grouped(number: &str, digits: usize) -> String {
    let (sign, number) = match number.strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", number),
    };
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if digits > 0 {
        text.push('.');
        text.extend(rest.chars().chain(std::iter::repeat('0')).take(digits));
    }
    format!("{sign}{text}")
}
