//! Writes to the stub.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::errors::{Error, check};
use crate::calls::{Call, Next};
use crate::errors::{clean, unreadable};
use crate::outcomes::Outcomes;
use crate::wire::List;
use crate::{Method, Request, Response, WriteBatch, Written};

pub(super) struct Write {
    pub batch: Arc<WriteBatch>,
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
            creates_only: batch.creates_only,
            records: List {
                batch,
                records,
                item: record,
            },
        })
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        check(response)?;
        let answers = response.list("results");
        let answers = answers.ok_or_else(|| unreadable(response))?.items;
        for (&index, item) in records.iter().zip(answers) {
            let Ok(answer) = serde_json::from_value::<Answer>(item.json) else {
                outcomes.set(index, Err(unreadable(response)));
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
                    outcomes.set(
                        index,
                        Err(Failure::record(class, code, clean(&error.message))),
                    );
                }
                Answer {
                    id: Some(crm_id),
                    created,
                    ..
                } => {
                    let is_found = self.batch.creates_only && !created;
                    let written = match is_found {
                        true => Written::found(crm_id),
                        false => Written::saved(crm_id, created),
                    };
                    outcomes.set(index, Ok(written));
                }
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    creates_only: bool,
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
