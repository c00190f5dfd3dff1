//! What a backend asks of the worker over the local socket, and what it is answered, beside `flush` and `test`.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A user's edit on its way to the CRM: `{"op": "write", ...}`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Intent {
    pub write_id: String,
    pub connection_id: i32,
    pub map_id: i32,
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: String,
    pub relation: String,
    pub connection: String,
    pub provider: String,
    pub object: String,
    /// The freshly read state is the base.
    pub force: bool,
    /// What is compared and what is written.
    pub fields: Vec<IntentField>,
    pub actor: String,
    pub correlation_id: Option<String>,
    pub backend_pid: i32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct IntentField {
    pub id: u16,
    pub name: String,
    pub data_type: String,
    /// What the user wants it to hold, canonical; absent: it is only compared, or only read.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub value: Option<Json>,
    /// Hash of what the CRM held when the edit was formed, in hex; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Whether a difference is a conflict.
    pub compared: bool,
}

/// A null that is there is a value: the user wants the field to be empty.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(value).map(Some)
}

/// A question for what the CRM holds: `{"op": "read", ...}`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Question {
    pub connection_id: i32,
    pub crm_id: String,
    pub object: String,
    pub fields: Vec<IntentField>,
}

/// What came of an intent or a question.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Answer {
    /// committed, conflict or pending; read: what was asked for is in `values`.
    pub outcome: String,
    /// What the CRM holds, canonical, by field_id; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<serde_json::Map<String, Json>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    pub fn failed(outcome: &str, class: &str, error: impl Into<String>) -> Answer {
        Answer {
            outcome: outcome.to_owned(),
            error_class: Some(class.to_owned()),
            error: Some(error.into()),
            ..Answer::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_is_a_value() {
        let field = IntentField {
            id: 1,
            name: "Phone".into(),
            data_type: "text".into(),
            value: Some(Json::Null),
            base: None,
            compared: true,
        };
        let there = serde_json::to_string(&field).unwrap();
        let back: IntentField = serde_json::from_str(&there).unwrap();
        assert_eq!(back.value, Some(Json::Null));
        let none = IntentField {
            value: None,
            ..field
        };
        let there = serde_json::to_string(&none).unwrap();
        let back: IntentField = serde_json::from_str(&there).unwrap();
        assert_eq!(back.value, None);
    }
}
