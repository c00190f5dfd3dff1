//! Values as Zoho has them: JSON of the field's type, moments in whole seconds, sets as lists,
//! references by an object with an id.

use crm_domain::{DataType, Value, ValueError};
use serde_json::{Value as Json, json};

use crate::moment::{self, SECOND};
use crate::storage_rules::{NumberStorage, StorageRules};
use crate::wire;

/// Numbers are doubles of the field's decimals; which way halves go, its documentation does not
/// say.
pub(super) const STORAGE_RULES: StorageRules = StorageRules {
    numbers: NumberStorage::Doubles,
    ..StorageRules::NONE
};

pub(super) fn form(data_type: DataType, value: &Value) -> Json {
    match (data_type, value) {
        // A checkbox is never empty.
        (DataType::Boolean, Value::Null) => false.into(),
        (DataType::Reference, Value::Text(id)) => json!({ "id": id }),
        (_, Value::Timestamp(ms)) => second(*ms).into(),
        (_, Value::Json(_)) => wire::text(value).into(),
        (_, value) => value.to_json(),
    }
}

/// `2026-01-02T03:04:05+00:00`: fractions of a second are refused.
pub(super) fn second(ms: i64) -> String {
    let text = moment::text(ms.div_euclid(SECOND) * SECOND);
    format!("{}+00:00", text.get(..19).unwrap_or(&text))
}

/// Makes canonical what Zoho answers: also where it shows a record or a user behind an id.
pub(super) fn read(data_type: DataType, held: &Json) -> Result<Value, ValueError> {
    match (data_type, held) {
        (DataType::Json, held) => wire::read(data_type, held),
        (_, Json::Object(parts)) => read(data_type, parts.get("id").unwrap_or(&Json::Null)),
        _ => Value::from_json(data_type, held),
    }
}
