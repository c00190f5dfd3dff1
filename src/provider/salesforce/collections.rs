//! sObject Collections: up to 200 records in one request, each with an outcome of its own, answered
//! in the order of the request.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::api::{Api, id_form};
use super::{errors, values};
use crate::calls::{Call, Next};
use crate::errors::{refused, unreadable};
use crate::outcomes::{Outcome, Outcomes};
use crate::request::encode;
use crate::wire::{Fields, List};
use crate::{Method, Request, Response, WriteBatch, WriteKind, Written};

/// Records in one writing request (REST API Developer Guide, "sObject Collections").
pub(super) const WRITE_LIMIT: usize = 200;

pub(super) struct Collection {
    pub api: Api,
    pub batch: Arc<WriteBatch>,
}

impl Call for Collection {
    fn is_split_by_the_engine(&self) -> bool {
        true
    }

    fn request(&mut self, records: &[usize]) -> Request {
        let batch = &*self.batch;
        if batch.kind == WriteKind::Delete {
            let ids: Vec<String> = records
                .iter()
                .map(|&i| encode(batch.key(i)).to_string())
                .collect();
            let path = format_args!("/composite/sobjects?ids={}&allOrNone=false", ids.join(","));
            return self.api.write(Method::Delete, path);
        }
        let request = match batch.kind {
            WriteKind::Upsert => {
                let (object, field) = (encode(&batch.object), encode(batch.key_field()));
                self.api.write(
                    Method::Patch,
                    format_args!("/composite/sobjects/{object}/{field}"),
                )
            }
            _ => self.api.write(Method::Patch, "/composite/sobjects"),
        };
        let item = |batch, index| Record { batch, index };
        request.json(&Body {
            all_or_none: false,
            records: List {
                batch,
                records,
                item,
            },
        })
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        errors::check(response).map_err(refused)?;
        let answers = response.array().ok_or_else(|| unreadable(response))?;
        for (&index, item) in records.iter().zip(answers) {
            // Null and missing alike: nothing is known of the record.
            if item.is_nothing() {
                continue;
            }
            let saved = serde_json::from_value::<Saved>(item.json);
            let outcome = match saved {
                Ok(saved) => saved.outcome_for(&self.batch, index),
                Err(_) => Err(unreadable(response)),
            };
            outcomes.set(index, outcome);
        }
        Ok(Next::Done)
    }
}

/// The body of an update or upsert, written straight from the batch.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "allOrNone")]
    all_or_none: bool,
    records: List<'a, Record<'a>>,
}

struct Record<'a> {
    batch: &'a WriteBatch,
    index: usize,
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Record { batch, index } = *self;
        let key_field = match batch.kind {
            WriteKind::Upsert => batch.key_field(),
            WriteKind::Update | WriteKind::Delete => "id",
        };
        let fields = Fields {
            record: &batch.records[index],
            key_field: Some(key_field),
            form: values::form,
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(
            "attributes",
            &Attributes {
                object: &batch.object,
            },
        )?;
        map.serialize_entry(key_field, batch.key(index))?;
        fields.write_into(&mut map)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(rename = "type")]
    object: &'a str,
}

/// What Salesforce says of one saved record.
#[derive(Deserialize)]
pub(super) struct Saved {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    success: bool,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    errors: Vec<errors::ErrorItem>,
}

impl Saved {
    pub fn outcome(self) -> Outcome {
        match self.id {
            Some(crm_id) if self.success => Ok(Written::saved(crm_id, self.created)),
            None if self.success => Err(Failure::record(
                ErrorClass::Internal,
                "missing_id",
                "the CRM saved the record but did not return its id",
            )),
            _ => Err(errors::of_record(self.errors)),
        }
    }

    /// The outcome of the record that is expected at this place of the answer. A success that names
    /// another record is not believed.
    fn outcome_for(self, batch: &WriteBatch, index: usize) -> Outcome {
        if batch.kind == WriteKind::Upsert || !self.success {
            return self.outcome();
        }
        let key = batch.key(index);
        match &self.id {
            Some(id) if id_form(id) != id_form(key) => {
                let message = "the CRM's answer has another record in place of this one";
                Err(Failure::record(
                    ErrorClass::Transient,
                    "mismatched_result",
                    message,
                ))
            }
            _ => Ok(Written::saved(key.to_owned(), false)),
        }
    }
}
