//! The embedded stand-in for a CRM: tables in schema `crm_stub`, behind a SQL function that the engine
//! calls with these requests instead of sending them.
//!
//! Its protocol is small and says everything in the engine's own words: `POST /write`, `POST /read`,
//! `POST /changes`, `POST /count`, `POST /describe` and `GET /ping`, canonical values, results in the order of the request, errors with their class.

mod describe;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crm_domain::key::KeyEquality;
use crm_domain::{DataType, Description, ErrorClass, Failure, Value, ValueError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::body::{Item, Listed};
use crate::calls::{Call, Calls, Next, Outcome, Slots, rounds};
use crate::errors::undocumented;
use crate::errors::unreadable_record;
use crate::errors::{self, Complaint, Rule, unreadable};
use crate::operation::Exchange;
use crate::wire::{self, List};
use crate::{
    Change, ChangesPage, ChangesQuery, Credentials, CrmObject, DoneBatch, Grant, Guard, Method,
    Operation, Overwritten, Provider, ReadBatch, Request, Response, Settings, Usage, WebhookError,
    WebhookEvent, WebhookRequest, WriteBatch, WriteKind, Written, webhook,
};

/// Records in one request, as many as Salesforce's collections take, so that the stub exercises
/// batches of the same size.
const LIMIT: usize = 200;

pub struct Stub;

impl Provider for Stub {
    fn name(&self) -> &'static str {
        "stub"
    }

    /// Names the place for those who look; nothing is ever sent there.
    fn default_base_url(&self) -> Option<&'static str> {
        Some("stub:")
    }

    fn option_keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn credential_keys(&self) -> &'static [&'static str] {
        &[webhook::SECRET]
    }

    fn write_size(&self, _settings: &Settings, _kind: WriteKind, _count: usize) -> usize {
        LIMIT
    }

    fn guard(&self, _kind: WriteKind, _count: usize) -> Guard {
        Guard::Atomic
    }

    fn write(
        &self,
        _settings: &Settings,
        batch: Arc<WriteBatch>,
    ) -> Box<dyn Operation<Vec<Outcome>>> {
        let mut slots = Slots::new(&batch);
        let rounds = rounds(&batch, &mut slots, |key| key);
        Box::new(Calls::new(Write { batch }, &rounds, LIMIT, slots))
    }

    fn read_size(&self, _object: &str) -> usize {
        LIMIT
    }

    fn read(
        &self,
        _settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> Box<dyn Operation<Vec<Option<CrmObject>>>> {
        let fields: Vec<&str> = batch
            .fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        let request = Request::new(Method::Post, "/read")
            .json(&json!({ "object": batch.object, "ids": batch.ids, "fields": fields }))
            .repeatable();
        Box::new(Exchange::new(request, move |response| {
            objects(&batch, &response)
        }))
    }

    /// Every write can be conditional.
    fn overwritten(
        &self,
        _settings: &Settings,
        _batch: Arc<DoneBatch>,
    ) -> Option<Box<dyn Operation<Vec<Vec<Overwritten>>>>> {
        None
    }

    fn changes(
        &self,
        _settings: &Settings,
        query: Arc<ChangesQuery>,
    ) -> Box<dyn Operation<ChangesPage>> {
        let request = Request::new(Method::Post, "/changes")
            .json(&changes_body(&query))
            .repeatable();
        Box::new(Exchange::new(request, |response| changes(&response)))
    }

    fn count(&self, _settings: &Settings, object: &str) -> Option<Box<dyn Operation<u64>>> {
        let request = Request::new(Method::Post, "/count")
            .json(&json!({ "object": object }))
            .repeatable();
        Some(Box::new(Exchange::new(request, |response| {
            match failure(&response) {
                Some(failure) => Err(failure),
                None => response
                    .json()
                    .and_then(|body| body["count"].as_u64())
                    .ok_or_else(|| unreadable(&response)),
            }
        })))
    }

    fn describe(
        &self,
        _settings: &Settings,
        object: &str,
    ) -> Option<Box<dyn Operation<Description>>> {
        Some(describe::describe(object))
    }

    fn webhook(
        &self,
        _settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        webhook::relayed(credentials, request)
    }

    fn ping(&self, _settings: &Settings) -> Box<dyn Operation<String>> {
        Box::new(Exchange::new(
            Request::new(Method::Get, "/ping"),
            |response| match failure(&response) {
                Some(failure) => Err(failure),
                None => {
                    let body = response.json().unwrap_or_default();
                    Ok(body["detail"]
                        .as_str()
                        .unwrap_or("the stub answers")
                        .to_owned())
                }
            },
        ))
    }

    fn authorise(
        &self,
        _base_url: &str,
        _credentials: &Credentials,
    ) -> Option<Box<dyn Operation<Grant>>> {
        None
    }

    fn sign(&self, _request: &mut Request, _access_token: &str) {}

    fn failure(&self, response: &Response) -> Option<Failure> {
        failure(response)
    }

    fn usage(&self, _response: &Response) -> Usage {
        Usage::default()
    }

    fn key_equality(&self) -> KeyEquality {
        KeyEquality::Exact
    }

    fn to_wire(&self, _data_type: DataType, value: &Value) -> Json {
        value.to_json()
    }

    fn from_wire(&self, data_type: DataType, wire: &Json) -> Result<Value, ValueError> {
        Value::from_json(data_type, wire)
    }
}

/// The stub names classes, not codes. For a whole request those that refuse service speak of the
/// connection, as they would from a vendor.
const TABLE: &[Rule] = &[
    Rule::new(ErrorClass::Transient, "transient").connection(),
    Rule::new(ErrorClass::RateLimited, "rate_limited").connection(),
    Rule::new(ErrorClass::Auth, "auth").connection(),
    Rule::new(ErrorClass::Validation, "validation"),
    Rule::new(ErrorClass::Mapping, "mapping"),
    Rule::new(ErrorClass::Conflict, "conflict"),
    Rule::new(ErrorClass::NotFound, "not_found"),
    Rule::new(ErrorClass::Internal, "internal"),
];

#[derive(Deserialize)]
struct Error {
    class: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: Error,
}

fn failure(response: &Response) -> Option<Failure> {
    if response.is_success() {
        return None;
    }
    if let Some(failure) = undocumented(response) {
        return Some(failure);
    }
    let Ok(Refusal { error }) = crate::json::parse(&response.body) else {
        return Some(errors::foreign(response));
    };
    let complaint = Complaint {
        codes: vec![error.class],
        message: error.message,
        names_field: false,
    };
    let failure = errors::classify_response(TABLE, &complaint, response);
    Some(Failure {
        code: if error.code.is_empty() {
            failure.code
        } else {
            error.code
        },
        ..failure
    })
}

struct Write {
    batch: Arc<WriteBatch>,
}

#[derive(Deserialize)]
struct Answer {
    id: Option<String>,
    #[serde(default)]
    created: bool,
    error: Option<Error>,
}

impl Call for Write {
    fn request(&mut self, records: &[usize]) -> Request {
        let batch = &*self.batch;
        Request::new(Method::Post, "/write").json(&Body {
            object: &batch.object,
            kind: batch.kind.name(),
            external_id_field: batch.external_id_field.as_deref(),
            records: List {
                batch,
                records,
                item: record,
            },
        })
    }

    fn settle(
        &mut self,
        records: &[usize],
        response: &Response,
        slots: &mut Slots,
    ) -> Result<Next, Failure> {
        if let Some(failure) = failure(response) {
            return Err(failure);
        }
        let answers = response.list("results");
        let answers = answers.ok_or_else(|| unreadable(response))?.items;
        for (&index, item) in records.iter().zip(answers) {
            let Ok(answer) = serde_json::from_value::<Answer>(item.json) else {
                slots.settle(index, Err(unreadable(response)));
                continue;
            };
            match answer {
                Answer {
                    error: Some(error), ..
                } => {
                    let class = error.class.parse().unwrap_or(ErrorClass::Internal);
                    let code = if error.code.is_empty() {
                        error.class
                    } else {
                        error.code
                    };
                    slots.settle(
                        index,
                        Err(Failure::record(class, code, errors::clean(&error.message))),
                    );
                }
                Answer {
                    id: Some(crm_id),
                    created,
                    ..
                } => slots.settle(index, Ok(Written { crm_id, created })),
                Answer { .. } => {}
            }
        }
        Ok(Next::Done)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    object: &'a str,
    kind: &'static str,
    external_id_field: Option<&'a str>,
    records: List<'a, Record<'a>>,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    fields: Map<String, Json>,
}

fn record(batch: &WriteBatch, index: usize) -> Record<'_> {
    let record = &batch.records[index];
    Record {
        id: record.crm_id.as_deref(),
        external_id: record.external_id.as_deref(),
        version: record.unless_changed.as_deref(),
        fields: record
            .fields
            .iter()
            .map(|(field, value)| (field.name.clone(), value.to_json()))
            .collect(),
    }
}

fn objects(batch: &ReadBatch, response: &Response) -> Result<Vec<Option<CrmObject>>, Failure> {
    if let Some(failure) = failure(response) {
        return Err(failure);
    }
    let results = response.list("results");
    let results = results.ok_or_else(|| unreadable(response))?.items;
    if results.len() != batch.ids.len() {
        return Err(unreadable(response));
    }
    let no_id = || unreadable_record("the answer does not say which record it is");
    let found = |(id, item): (&String, Item)| {
        if item.json.is_null() && item.trouble.is_none() {
            return None;
        }
        let mut object = object(&item);
        if object.crm_id.is_empty() {
            object.crm_id.clone_from(id);
            object.trouble.get_or_insert_with(no_id);
        }
        Some(object)
    };
    Ok(batch.ids.iter().zip(results).map(found).collect())
}

fn changes_body(query: &ChangesQuery) -> Json {
    let fields = query.fields.iter().map(|field| field.name.as_str());
    json!({
        "object": query.object,
        "fields": fields.collect::<Vec<_>>(),
        "external_id_field": query.external_id_field,
        "since": query.since,
        "limit": query.limit.clamp(1, LIMIT),
    })
}

/// The stub itself tells what a cursor has seen from what it has not, to the transaction: nothing is
/// late with it, and nothing comes twice.
fn changes(response: &Response) -> Result<ChangesPage, Failure> {
    if let Some(failure) = failure(response) {
        return Err(failure);
    }
    let listed = response.list("changes");
    let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
    let (Json::Object(_), Some(more)) = (&rest["next"], rest["more"].as_bool()) else {
        return Err(unreadable(response));
    };
    let change = |item: Item| {
        let object = object(&item);
        let (external_id, trouble) =
            crate::changes::keyed(item.json.get("external_id"), object.trouble.clone());
        Change {
            object: CrmObject { trouble, ..object },
            external_id,
            deleted: item.json["deleted"] == true,
            merged_into: None,
            by: crate::changes::by(&item.json["modified_by"]),
        }
    };
    let found = items.into_iter().map(change).collect();
    Ok(crate::changes::told(
        found,
        rest["next"].clone(),
        more,
        false,
    ))
}

fn object(item: &Item) -> CrmObject {
    let record = &item.json;
    let version = match &record["version"] {
        Json::Null => None,
        Json::String(version) => Some(version.clone()),
        version => Some(version.to_string()),
    };
    CrmObject {
        crm_id: wire::id(&record["id"]).unwrap_or_default(),
        fields: record["fields"].as_object().cloned().unwrap_or_default(),
        modified_at: wire::moment(&record["modified_at"]),
        version,
        trouble: item.trouble.clone(),
    }
}
