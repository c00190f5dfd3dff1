//! One record by one request: update and delete by id, upsert by external id.

use std::sync::Arc;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use super::api::{Api, named};
use super::collections::{Collection, Saved};
use super::version::Version;
use super::{errors, reads, values};
use crate::calls::{Call, Calls, Next};
use crate::errors::{refused, unreadable};
use crate::outcomes::{Outcome, Outcomes, Plan};
use crate::request::encode;
use crate::success::salesforce as success;
use crate::wire::Fields;
use crate::{Method, Operation, Request, Response, Step, WriteBatch, WriteKind, Written};

struct Row {
    api: Api,
    batch: Arc<WriteBatch>,
    /// What the row must still be.
    unless_changed: Option<Version>,
}

/// A write of a single record.
///
/// Two refusals are not taken at their word. A path that is not found may name a record that is
/// gone or an object that never was, and the first may delete a row of the user's; a collection
/// knows the two apart. And a tag that does not match may be one that cannot.
pub(super) struct Single {
    row: Calls<Row>,
    doubt: Option<Doubt>,
    api: Api,
    batch: Arc<WriteBatch>,
    unless_changed: Option<Version>,
}

/// What is being asked about a refusal.
enum Doubt {
    /// The path was not found: the same write goes again by a collection.
    Again(Calls<Collection>),
    /// The path was not found, and the write is conditional. A collection has no conditions, so
    /// nothing is written by it: it is asked whether the record is there.
    Missing(Failure),
    /// The tag did not match. If the row still shows the very tag that we hold, nothing has changed
    /// and tags of such reads are none that a write can be given; the date then protects alone.
    Tag(Response),
}

impl Single {
    pub fn new(api: Api, batch: Arc<WriteBatch>, mut plan: Plan) -> Self {
        let based_on = batch.records[0].unless_changed.as_deref();
        let based_on = based_on.filter(|_| batch.kind == WriteKind::Update);
        let unless_changed = based_on.and_then(Version::from_text);
        if based_on.is_some() && unless_changed.is_none() {
            let message = "the version that the write is based on does not come from Salesforce";
            plan.outcomes.set(0, Err(Failure::stale(message)));
        }
        Single {
            row: Calls::new(
                Row {
                    api: api.clone(),
                    batch: batch.clone(),
                    unless_changed: unless_changed.clone(),
                },
                plan,
                1,
            ),
            doubt: None,
            api,
            batch,
            unless_changed,
        }
    }

    fn judge(&mut self, response: Response) -> Step<Vec<Outcome>> {
        let refusal = errors::of_response(&response);
        let is_missing = |failure: &Failure| {
            failure.class == ErrorClass::NotFound && failure.code == "NOT_FOUND"
        };
        if let Some(failure) = refusal.as_ref().filter(|failure| is_missing(failure))
            && self.batch.kind != WriteKind::Upsert
        {
            return self.missing(failure.clone());
        }
        if let Some(Version {
            tag: Some(tag),
            date: Some(_),
        }) = &self.unless_changed
            && refusal.is_some_and(|failure| failure.is_stale())
        {
            let request = reads::row(
                &self.api,
                &self.batch.object,
                self.batch.key(0),
                &tag.fields,
            );
            self.doubt = Some(Doubt::Tag(response));
            return Step::Send(request);
        }
        self.row.step(Some(response))
    }

    fn missing(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        if self.unless_changed.is_some() {
            let ids = [self.batch.key(0).to_owned()];
            let request = reads::collection(&self.api, &self.batch.object, &ids, "Id");
            self.doubt = Some(Doubt::Missing(failure));
            return Step::Send(request);
        }
        let collection = Collection {
            api: self.api.clone(),
            batch: self.batch.clone(),
        };
        let mut calls = Calls::new(collection, Plan::of_first(&self.batch), 1);
        let step = calls.step(None);
        self.doubt = Some(Doubt::Again(calls));
        step
    }

    /// The tag is compared; `refusal` is what the write was answered.
    fn compared(&mut self, refusal: Response, response: &Response) -> Step<Vec<Outcome>> {
        let held = self
            .unless_changed
            .as_mut()
            .and_then(|held| held.tag.take());
        let is_same = held.is_some_and(|held| response.header("etag") == Some(&held.etag));
        if !response.is_success() || !is_same {
            return self.row.step(Some(refusal));
        }
        let row = Row {
            api: self.api.clone(),
            batch: self.batch.clone(),
            unless_changed: self.unless_changed.clone(),
        };
        self.row = Calls::new(row, Plan::of_first(&self.batch), 1);
        self.row.step(None)
    }
}

/// What a collection knows of a record whose row was not found.
fn sought(missing: Failure, response: &Response) -> Result<Vec<Outcome>, Failure> {
    let records = match errors::of_response(response).map(refused) {
        Some(failure) if failure.scope == Scope::Connection => return Err(failure),
        Some(failure) => return Ok(vec![Err(failure)]),
        None => response.array().ok_or_else(|| unreadable(response))?,
    };
    // There after all: the condition still stands, so the same write may be tried again.
    let is_there = records.iter().any(|item| !item.is_nothing());
    let class = if is_there {
        ErrorClass::Transient
    } else {
        missing.class
    };
    Ok(vec![Err(Failure { class, ..missing })])
}

impl Operation<Vec<Outcome>> for Single {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        match (self.doubt.take(), answer) {
            (Some(Doubt::Again(mut calls)), answer) => {
                let step = calls.step(answer);
                self.doubt = Some(Doubt::Again(calls));
                step
            }
            (Some(Doubt::Missing(failure)), Some(response)) => {
                Step::Done(sought(failure, &response))
            }
            (Some(Doubt::Tag(refusal)), Some(response)) => self.compared(refusal, &response),
            (None, Some(response)) => self.judge(response),
            (_, None) => self.row.step(None),
        }
    }
}

impl Call for Row {
    fn request(&mut self, records: &[usize]) -> Request {
        let batch = &*self.batch;
        let (object, key) = (encode(&batch.object), encode(batch.key(records[0])));
        let record = &batch.records[records[0]];
        let fields = Fields {
            record,
            key_field: batch.external_id_field.as_deref(),
            form: values::form,
        };
        let (request, success) = match batch.kind {
            WriteKind::Update => {
                let fields = Fields {
                    key_field: None,
                    ..fields
                };
                let path = format_args!("/sobjects/{object}/{key}");
                let request = self.api.write(Method::Patch, path).json(&fields);
                let request = match &self.unless_changed {
                    Some(version) => version.condition(request),
                    None => request,
                };
                (request, success::ROW_UPDATE)
            }
            WriteKind::Upsert => {
                let path = format_args!("/sobjects/{object}/{}/{key}", encode(batch.key_field()));
                let request = self.api.write(Method::Patch, path).json(&fields);
                (request, success::ROW_UPSERT)
            }
            WriteKind::Delete => {
                let path = format_args!("/sobjects/{object}/{key}");
                (self.api.write(Method::Delete, path), success::ROW_DELETE)
            }
        };
        named(request).success(success)
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        errors::check(response)?;
        let outcome = match self.batch.kind {
            // No body; the id stays the one we hold.
            WriteKind::Update | WriteKind::Delete => {
                Ok(Written::saved(self.batch.key(records[0]).to_owned(), false))
            }
            WriteKind::Upsert => {
                let saved = response.json().ok_or_else(|| unreadable(response))?;
                let saved = serde_json::from_value::<Saved>(saved);
                saved.map_err(|_| unreadable(response))?.outcome()
            }
        };
        outcomes.set(records[0], outcome);
        Ok(Next::Done)
    }
}
