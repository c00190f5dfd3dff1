//! A scripted CRM for unit tests: drives an operation with prepared answers, as the engine does
//! with real ones.

use std::sync::Arc;
use std::time::Duration;

use crm_domain::{DataType, Failure, Value};
use serde_json::{Value as Json, json};

use crate::errors::{Rule, When};
use crate::record::Field;
use crate::{
    BoxOperation, Request, Response, Settings, Step, Target, WriteBatch, WriteKind, WriteRecord,
};

/// An answer of the script.
pub(crate) enum Answer {
    Http(Response),
    /// The transport fails.
    Lost(Failure),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Http(response)
    }
}

/// What an operation asked for, in order, and how long it wanted to wait.
#[derive(Default)]
pub(crate) struct Log {
    pub requests: Vec<Request>,
    pub waits: Vec<Duration>,
}

impl Log {
    /// `METHOD target` of each request.
    pub fn lines(&self) -> Vec<String> {
        self.requests.iter().map(line).collect()
    }
}

pub(crate) fn line(request: &Request) -> String {
    let (Target::Api(target) | Target::File(target) | Target::Url(target)) = &request.target;
    format!("{} {target}", request.method.name())
}

/// Runs an operation to its end. `answer` plays the CRM: it is given each request and its number.
pub(crate) fn drive<T, A: Into<Answer>>(
    mut operation: BoxOperation<T>,
    mut answer: impl FnMut(usize, &Request) -> A,
) -> (Result<T, Failure>, Log) {
    let mut log = Log::default();
    let mut step = operation.step(None);
    loop {
        step = match step {
            Step::Done(result) => return (result, log),
            Step::Wait(wait) => {
                log.waits.push(wait);
                operation.step(None)
            }
            Step::Send(request) => {
                let answer = answer(log.requests.len(), &request).into();
                log.requests.push(request);
                assert!(log.requests.len() < 10_000, "the operation never ends");
                match answer {
                    Answer::Http(response) => {
                        let success = log.requests.last().expect("it was sent").success;
                        operation.step(Some(response.answering(success)))
                    }
                    Answer::Lost(failure) => operation.interrupted(failure),
                }
            }
        };
    }
}

pub(crate) fn body(request: &Request) -> Json {
    serde_json::from_slice(&request.body).expect("the request's body is JSON")
}

pub(crate) fn answer(status: u16, body: &Json) -> Response {
    Response {
        status,
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
        ..Response::default()
    }
}

pub(crate) fn empty(status: u16) -> Response {
    Response {
        status,
        ..Response::default()
    }
}

pub(crate) fn page(status: u16) -> Response {
    Response {
        status,
        headers: Vec::new(),
        body: b"<html><body>Bad gateway</body></html>".to_vec(),
        ..Response::default()
    }
}

pub(crate) fn with_header(mut response: Response, name: &str, value: &str) -> Response {
    response.headers.push((name.to_owned(), value.to_owned()));
    response
}

pub(crate) fn settings(bulk_threshold: usize) -> Settings {
    Settings {
        bulk_threshold,
        ..Settings::default()
    }
}

pub(crate) fn field(name: &str, data_type: DataType) -> Arc<Field> {
    Arc::new(Field {
        name: name.to_owned(),
        data_type,
    })
}

/// A batch whose records each have the given key and one text field.
pub(crate) fn batch(
    object: &str,
    kind: WriteKind,
    field_name: &str,
    records: &[(&str, Value)],
) -> WriteBatch {
    let field = field(field_name, DataType::Text);
    let records = records.iter().map(|(key, value)| WriteRecord {
        crm_id: (kind != WriteKind::Upsert).then(|| (*key).to_owned()),
        external_id: (kind == WriteKind::Upsert).then(|| (*key).to_owned()),
        fields: match kind {
            WriteKind::Delete => Vec::new(),
            _ => vec![(field.clone(), value.clone())],
        },
        unless_changed: None,
    });
    WriteBatch {
        object: object.to_owned(),
        kind,
        external_id_field: (kind == WriteKind::Upsert).then(|| "Ext__c".to_owned()),
        creates_only: false,
        records: records.collect(),
    }
}

/// The error codes of outcomes, or the id of what was written.
pub(crate) fn told(outcomes: &[crate::outcomes::Outcome]) -> Vec<String> {
    let one = |outcome: &crate::outcomes::Outcome| match outcome {
        Ok(written) if written.created => format!("created {}", written.crm_id),
        Ok(written) if written.found => format!("found {}", written.crm_id),
        Ok(written) => format!("updated {}", written.crm_id),
        Err(failure) => format!("{} {}", failure.class, failure.code),
    };
    outcomes.iter().map(one).collect()
}

/// A Salesforce REST error.
pub(crate) fn sf_error(code: &str, message: &str) -> Json {
    json!([{ "errorCode": code, "message": message }])
}

/// Values of every type.
pub(crate) mod values {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_value() -> impl Strategy<Value = (DataType, Value)> {
        prop_oneof![
            prop::sample::select(&DataType::ALL[..]).prop_map(|data_type| (data_type, Value::Null)),
            text().prop_map(|text| (DataType::Text, Value::text(&text))),
            text().prop_map(|text| (DataType::Choice, Value::text(&text))),
            "[a-zA-Z0-9]{15,18}".prop_map(|id| (DataType::Reference, Value::text(&id))),
            "-?[0-9]{1,30}(\\.[0-9]{1,20})?"
                .prop_map(|n| (DataType::Number, Value::number(&n).unwrap())),
            any::<bool>().prop_map(|b| (DataType::Boolean, Value::Boolean(b))),
            (1i16..=9999, 1i8..=12, 1i8..=28)
                .prop_map(|(y, m, d)| (DataType::Date, Value::Date(jiff::civil::date(y, m, d)))),
            (-62_135_596_800_000i64..=253_402_300_799_999)
                .prop_map(|ms| (DataType::Timestamp, Value::timestamp_ms(ms))),
            prop::collection::vec(text(), 0..5)
                .prop_map(|words| (DataType::MultiChoice, Value::multi_choice(words))),
            json_value().prop_map(|json| (DataType::Json, Value::json(json))),
        ]
    }

    /// A number that a double holds exactly enough: Salesforce keeps 15 digits of any number.
    pub(crate) fn double() -> impl Strategy<Value = Value> {
        (-999_999_999_999_999i64..=999_999_999_999_999, 0u32..10)
            .prop_map(|(digits, scale)| Value::number(&format!("{digits}e-{scale}")).unwrap())
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "\\PC{0,20}",
            "[ -~\\n\\r\\t]{0,20}",
            "(#N/A|null|true|\\[a\\]|\"|''|0)"
        ]
    }

    fn json_value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            text().prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map("[a-z]{0,3}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }
}

/// Each row of an error table gives the failure that it says, when the vendor complains with its
/// code and a message of its kind.
pub(crate) fn assert_rules(table: &[Rule], complain: impl Fn(&Rule, &str) -> Failure) {
    for rule in table {
        let message = match rule.when {
            When::Says(text) => text,
            When::Always | When::NamesField => "no more",
        };
        let failure = complain(rule, message);
        assert_eq!(
            (
                failure.class,
                failure.scope,
                failure.retry_after,
                failure.code.as_str()
            ),
            (rule.class, rule.scope, rule.wait, rule.code)
        );
    }
}
