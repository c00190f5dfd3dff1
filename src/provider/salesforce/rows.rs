//! One record by one request: update and delete by id, upsert by external id.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};

use super::api::{Api, named};
use super::collections::{Collection, Saved};
use super::{errors, values};
use crate::calls::{Call, Calls, Outcome, Slots};
use crate::errors::unreadable;
use crate::request::encode;
use crate::wire::Fields;
use crate::{Method, Operation, Request, Response, Step, WriteBatch, WriteKind, Written};

struct Row {
    api: Api,
    batch: Arc<WriteBatch>,
}

/// A write of a single record.
///
/// A path that is not found may name a record that is gone or an object that never was, and the first
/// may delete a row of the user's. So the same write goes again by a collection, which knows the two
/// apart.
pub(super) struct Single {
    row: Calls<Row>,
    again: Option<Calls<Collection>>,
    api: Api,
    batch: Arc<WriteBatch>,
}

impl Single {
    pub fn new(api: Api, batch: Arc<WriteBatch>, rounds: &[Vec<usize>], slots: Slots) -> Self {
        let row = Row {
            api: api.clone(),
            batch: batch.clone(),
        };
        Single {
            row: Calls::new(row, rounds, 1, slots),
            again: None,
            api,
            batch,
        }
    }

    fn is_doubtful(&self, response: &Response) -> bool {
        let is_missing =
            |failure: Failure| failure.class == ErrorClass::NotFound && failure.code == "NOT_FOUND";
        self.batch.kind != WriteKind::Upsert
            && errors::of_response(response).is_some_and(is_missing)
    }
}

impl Operation<Vec<Outcome>> for Single {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        if let Some(again) = &mut self.again {
            return again.step(answer);
        }
        if !answer
            .as_ref()
            .is_some_and(|response| self.is_doubtful(response))
        {
            return self.row.step(answer);
        }
        let collection = Collection {
            api: self.api.clone(),
            batch: self.batch.clone(),
        };
        let slots = Slots::new(&self.batch);
        self.again
            .insert(Calls::new(collection, &[vec![0]], 1, slots))
            .step(None)
    }
}

/// Whether a key may stand in a path: Salesforce takes what follows a dot for a file extension
/// (`a@b.inc` is answered 404), and servers on the way decode and fold slashes and semicolons.
pub(super) fn is_path_safe(key: &str) -> bool {
    !key.chars()
        .any(|c| matches!(c, '.' | '/' | '\\' | ';' | '%') || c.is_control())
}

impl Call for Row {
    fn request(&self, records: &[usize]) -> Request {
        let batch = &*self.batch;
        let (object, key) = (encode(&batch.object), encode(batch.key(records[0])));
        let record = &batch.records[records[0]];
        let fields = Fields {
            record,
            key_field: batch.external_id_field.as_deref(),
            form: values::form,
        };
        let request = match batch.kind {
            WriteKind::Update => {
                let fields = Fields {
                    key_field: None,
                    ..fields
                };
                self.api
                    .request(Method::Patch, format_args!("/sobjects/{object}/{key}"))
                    .json(&fields)
            }
            WriteKind::Upsert => {
                let path = format_args!("/sobjects/{object}/{}/{key}", encode(batch.key_field()));
                self.api.request(Method::Patch, path).json(&fields)
            }
            WriteKind::Delete => self
                .api
                .request(Method::Delete, format_args!("/sobjects/{object}/{key}")),
        };
        named(request)
    }

    fn settle(
        &self,
        records: &[usize],
        response: &Response,
        slots: &mut Slots,
    ) -> Result<(), Failure> {
        if let Some(failure) = errors::of_response(response) {
            return Err(failure);
        }
        let outcome = match self.batch.kind {
            // Nothing but a 204 says that it was done; a page of some proxy does not.
            WriteKind::Update | WriteKind::Delete if response.status != 204 => {
                return Err(unreadable(response));
            }
            // No body; the id stays the one we hold.
            WriteKind::Update | WriteKind::Delete => Ok(Written {
                crm_id: self.batch.key(records[0]).to_owned(),
                created: false,
            }),
            WriteKind::Upsert => {
                let saved: Saved =
                    serde_json::from_slice(&response.body).map_err(|_| unreadable(response))?;
                saved.outcome()
            }
        };
        slots.settle(records[0], outcome);
        Ok(())
    }
}
