//! The embedded stand-in for a CRM: tables in schema `crm_stub`, behind a SQL function that the
//! engine calls with these requests instead of sending them.
//!
//! Its protocol is small and says everything in the engine's own words: `POST /write`, `POST
//! /read`, `POST /changes`, `POST /count`, `POST /describe` and `GET /ping`, canonical values,
//! results in the order of the request, errors with their class.

mod describe;
mod errors;
mod reads;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use crm_domain::key::KeyEquality;
use crm_domain::{DataType, Description, Failure, Value, ValueError};
use serde_json::Value as Json;

use crate::calls::Calls;
use crate::operation::Exchange;
use crate::outcomes::{Outcome, Plan};
use crate::{
    BoxOperation, ChangesPage, ChangesQuery, Credentials, CrmObject, Grant, Guard, Method, Profile,
    Provider, ReadBatch, Request, Response, Settings, WriteBatch, WriteKind, webhook,
};

use errors::{check, failure};
use reads::LIMIT;
use write::Write;

pub struct Stub;

const PROFILE: Profile = Profile {
    name: "stub",
    // Names the place for those who look; nothing is ever sent there.
    base_url: Some("stub:"),
    option_keys: &[],
    credential_keys: &[webhook::SECRET],
};

impl Provider for Stub {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn write_size(&self, _settings: &Settings, _kind: WriteKind, _count: usize) -> usize {
        LIMIT
    }

    fn guard(&self, _kind: WriteKind, _count: usize) -> Guard {
        Guard::Atomic
    }

    fn write(&self, _settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
        let plan = Plan::new(&batch, |key| key);
        Box::new(Calls::new(Write { batch }, plan, LIMIT))
    }

    fn read_size(&self, _object: &str) -> usize {
        LIMIT
    }

    fn read(
        &self,
        _settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> BoxOperation<Vec<Option<CrmObject>>> {
        reads::read(batch)
    }

    fn changes(&self, _settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
        reads::changes(&query)
    }

    fn count(&self, _settings: &Settings, object: &str) -> Option<BoxOperation<u64>> {
        Some(reads::count(object))
    }

    fn describe(&self, _settings: &Settings, object: &str) -> Option<BoxOperation<Description>> {
        Some(describe::describe(object))
    }

    fn ping(&self, _settings: &Settings) -> BoxOperation<String> {
        Box::new(Exchange::new(
            Request::new(Method::Get, "/ping"),
            |response| {
                check(&response)?;
                let body = response.json().unwrap_or_default();
                Ok(body["detail"]
                    .as_str()
                    .unwrap_or("the stub answers")
                    .to_owned())
            },
        ))
    }

    fn authorise(
        &self,
        _base_url: &str,
        _credentials: &Credentials,
    ) -> Option<BoxOperation<Grant>> {
        None
    }

    fn sign(&self, _request: &mut Request, _access_token: &str) {}

    fn failure(&self, response: &Response) -> Option<Failure> {
        failure(response)
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
