//! What a backend requests of the worker over the local socket, and the responses to writes and
//! reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A request, as JSON: `{"op": "flush", ...}`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    /// Wait until nothing of some maps is due.
    Flush(Wait),
    /// Wait until a pass through the CRM's changes, begun from now on, is complete.
    Ingest(Wait),
    /// The same with every record read.
    Backfill(Wait),
    Write(Intent),
    Read(ReadRequest),
    Describe(DescribeRequest),
    Test(TestRequest),
    Records(RecordsRequest),
    Link(LinkRequest),
}

/// Read by hand: serde reads a tagged enum through a buffer that does not know numbers of arbitrary
/// precision.
impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Op {
            Flush,
            Ingest,
            Backfill,
            Write,
            Read,
            Describe,
            Test,
            Records,
            Link,
        }
        let request = Json::deserialize(deserializer)?;
        let understood = Op::deserialize(&request["op"]).and_then(|op| match op {
            Op::Flush => Wait::deserialize(request).map(Request::Flush),
            Op::Ingest => Wait::deserialize(request).map(Request::Ingest),
            Op::Backfill => Wait::deserialize(request).map(Request::Backfill),
            Op::Write => Intent::deserialize(request).map(Request::Write),
            Op::Read => ReadRequest::deserialize(request).map(Request::Read),
            Op::Describe => DescribeRequest::deserialize(request).map(Request::Describe),
            Op::Test => TestRequest::deserialize(request).map(Request::Test),
            Op::Records => RecordsRequest::deserialize(request).map(Request::Records),
            Op::Link => LinkRequest::deserialize(request).map(Request::Link),
        });
        understood.map_err(serde::de::Error::custom)
    }
}

/// What a waiting backend waits for, and how long.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Wait {
    /// `None`: all maps, those that come later too.
    pub map_ids: Option<Vec<i32>>,
    #[serde(default = "a_minute")]
    pub timeout_ms: u64,
}

fn a_minute() -> u64 {
    60_000
}

/// A request for the fields of a CRM's object.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DescribeRequest {
    pub connection_id: i32,
    pub object: String,
    /// The CRM is asked in any case. Otherwise a recent description is used if there is one, and a
    /// connection that is paused or waits is not used.
    pub fresh: bool,
}

/// A request for a real call to a connection's CRM.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TestRequest {
    pub connection_id: i32,
    /// The call asks how many records this object has.
    #[serde(default)]
    pub count: Option<String>,
}

/// A request for a page of the records that an object has.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RecordsRequest {
    pub connection_id: i32,
    pub object: String,
    /// The fields to show, with their types; an empty one: as the CRM describes the field.
    pub fields: BTreeMap<String, String>,
    /// The field whose value is shown as the record's key.
    #[serde(default)]
    pub external_id_field: Option<String>,
    /// What fields must hold: a value, or one of a list.
    #[serde(default)]
    pub condition: serde_json::Map<String, Json>,
    /// `next` of the page before; absent: the first one.
    #[serde(default)]
    pub since: Option<Json>,
}

/// Rows and CRM records that `crm.match()` found, to be linked in one transaction.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LinkRequest {
    pub map_id: i32,
    pub shard_keys: Vec<String>,
    pub record_keys: Vec<String>,
    pub crm_ids: Vec<String>,
    /// The keys that the records carry; `None`: those that they lack are not written.
    pub carried: Option<Vec<String>>,
    pub actor: String,
}

/// A user's edit in flight to the CRM: `{"op": "write", ...}`.
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
    /// The value that the user wants, canonical; absent: it is only compared, or only read.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub value: Option<Json>,
    /// Hash of what the CRM held when the edit was formed, in hex; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What was written there last, if the CRM was not read since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Json>,
    /// Hashes of what was written there last and of what the CRM then held, in hex, if they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<(String, String)>,
    /// Whether a difference is a conflict.
    pub compared: bool,
}

/// A JSON null is a value, the empty one; only a missing member is `None`.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(value).map(Some)
}

/// A request for what the CRM holds: `{"op": "read", ...}`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReadRequest {
    pub connection_id: i32,
    pub map_id: i32,
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: String,
    pub object: String,
    pub fields: Vec<IntentField>,
}

/// The outcome of a write or a read, as callers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerOutcome {
    Committed,
    Conflict,
    #[default]
    Pending,
    /// The result is in [`Answer::values`].
    Read,
}

/// The response to a write or a read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Answer {
    pub outcome: AnswerOutcome,
    /// What the CRM holds, canonical, by field_id; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<serde_json::Map<String, Json>>,
    /// The fields that were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<u16>,
    /// What the CRM's answer shows that it holds of them, canonical, by field_id.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub held: serde_json::Map<String, Json>,
    /// Fields whose last write the read was the first to show, for the caller's transaction to
    /// record: in the CRM's own form, if it holds one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<(u16, Option<Json>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    pub fn failed(outcome: AnswerOutcome, class: &str, error: impl Into<String>) -> Answer {
        Answer {
            outcome,
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
            unseen: None,
            form: None,
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

    #[test]
    fn a_request_is_read_by_its_operation() {
        let json = r#"{"op": "flush", "map_ids": [7], "v": 1}"#;
        let request = serde_json::from_str(json).unwrap();
        let Request::Flush(wait) = request else {
            panic!("{request:?}");
        };
        assert_eq!((wait.map_ids, wait.timeout_ms), (Some(vec![7]), 60_000));
        assert!(serde_json::from_str::<Request>(r#"{"op": "dance"}"#).is_err());
        assert!(serde_json::from_str::<Request>("{}").is_err());
    }
}
