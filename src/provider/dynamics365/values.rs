//! Values as Dataverse has them: JSON of the column's type, choices as numbers, several of them as
//! `1,2,3`, moments in whole seconds of UTC.

use crm_domain::{DataType, Value, ValueError};
use serde_json::Value as Json;

use crate::moment::{self, SECOND};
use crate::storage_rules::{NumberStorage, StorageRules};
use crate::wire;

/// Decimals and money have a precision of their column, which of money is not told; floating point
/// numbers are doubles.
pub(super) const STORAGE_RULES: StorageRules = StorageRules {
    numbers: NumberStorage::Decimals,
    ..StorageRules::NONE
};

pub(super) fn form(data_type: DataType, value: &Value) -> Json {
    match (data_type, value) {
        // A number only in the spelling that comes back: `007` is none.
        (DataType::Choice, Value::Text(option)) => match option.parse::<i64>() {
            Ok(number) if number.to_string() == *option => number.into(),
            _ => option.as_str().into(),
        },
        (_, Value::MultiChoice(options)) => {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            options.join(",").into()
        }
        (_, Value::Timestamp(ms)) => second(*ms).into(),
        (_, Value::Json(_)) => wire::text(value).into(),
        (_, value) => value.to_json(),
    }
}

/// `2026-01-02T03:04:05Z`: no column keeps fractions of a second.
fn second(ms: i64) -> String {
    let text = moment::text(ms.div_euclid(SECOND) * SECOND);
    format!("{}Z", text.get(..19).unwrap_or(&text))
}

pub(super) fn read(data_type: DataType, held: &Json) -> Result<Value, ValueError> {
    Ok(parted(wire::read(data_type, held)?))
}

/// Options as rows hold them, perhaps as Dataverse writes them: `1,2`. What else holds a comma is
/// left as it is, and is none.
pub(super) fn of_row(value: Value) -> Value {
    let are_options = |word: &String| {
        !word.contains(',') || word.bytes().all(|b| b == b',' || b.is_ascii_digit())
    };
    match &value {
        Value::MultiChoice(words) if words.iter().all(are_options) => parted(value),
        _ => value,
    }
}

pub(super) fn unstorable_reason(value: &Value) -> Option<&'static str> {
    match value {
        Value::MultiChoice(words) if words.iter().any(|word| word.contains(',')) => {
            Some("the CRM separates choices by commas, so that none of them can hold one")
        }
        _ => None,
    }
}

/// No option holds a comma, which stands between them.
pub(super) fn parted(value: Value) -> Value {
    match value {
        Value::MultiChoice(options) => {
            Value::multi_choice(options.iter().flat_map(|option| option.split(',')))
        }
        value => value,
    }
}
