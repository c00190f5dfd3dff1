//! Pipedrive: one record by one request, in version 2 of its API where that has the object.
//!
//! There are no batches, no upsert, no unique fields and no conditions. Records are written in
//! parallel by the engine; a record is created after it was looked for; a changelog tells what a
//! write replaced.

mod answers;
mod changes;
mod describe;
mod errors;
mod field_name;
mod history;
mod lookup;
mod oauth;
mod objects;
mod reads;
#[cfg(test)]
mod tests;
mod values;
mod webhooks;
mod writes;

use std::sync::Arc;

use crm_domain::{DataType, Description, Failure, Value, ValueError};
use serde_json::Value as Json;

use crate::calls::Calls;
use crate::change_scan::{OVERLAP_OPTION, overlap};
use crate::moment::SECOND;
use crate::operation::{Exchange, FailedOperation};
use crate::outcomes::{Outcome, Plan};
use crate::record_id::RecordIdForm;
use crate::storage_rules::StorageRules;
use crate::{
    BoxOperation, ChangesPage, ChangesQuery, Credentials, CrmObject, DoneBatch, Grant, Guard,
    Method, Overwritten, Profile, Provider, ReadBatch, Request, Response, Settings, Usage,
    WebhookError, WebhookEvent, WebhookRequest, WriteBatch, WriteKind, webhook,
};

use lookup::RecentRecords;
use objects::{known, object};
use writes::{Stage, Write};

/// Upserts that share the look at what was created lately.
const UPSERTS: usize = 100;

pub struct Pipedrive;

const PROFILE: Profile = Profile {
    name: "pipedrive",
    // A grant names the company's own host, which takes its place.
    base_url: Some("https://api.pipedrive.com"),
    option_keys: &[OVERLAP_OPTION],
    credential_keys: &[
        "api_token",
        "access_token",
        "client_id",
        "client_secret",
        "refresh_token",
        "token_url",
        "scope",
        "login_url",
        webhook::SECRET,
    ],
};

impl Provider for Pipedrive {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn record_id_form(&self) -> RecordIdForm {
        RecordIdForm::DigitsOrUuid
    }

    /// Leads have UUIDs, in lower case.
    fn record_id(&self, id: &str) -> String {
        id.to_ascii_lowercase()
    }

    /// Pipedrive takes one record at a time, so batches only decide what is sent in parallel.
    /// Upserts share one look at what was created, updates one read of their records: as many parts
    /// as requests may be in flight.
    fn write_size(&self, settings: &Settings, kind: WriteKind, count: usize) -> usize {
        let part = count.div_ceil(settings.in_flight());
        match kind {
            WriteKind::Delete => 1,
            WriteKind::Update => part.clamp(1, writes::UPDATES),
            WriteKind::Upsert => part.clamp(1, UPSERTS),
        }
    }

    /// A changelog is that of one record, and costs a request: for many, as many as their writes.
    fn guard(&self, kind: WriteKind, count: usize) -> Guard {
        match kind {
            WriteKind::Update if count <= history::MOST => Guard::Afterwards,
            _ => Guard::None,
        }
    }

    fn write(&self, settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
        let object = match object(&batch.object) {
            Ok(object) => object,
            Err(failure) => return Box::new(FailedOperation::new(failure)),
        };
        let is_upsert = batch.kind == WriteKind::Upsert;
        if is_upsert && !lookup::holds_keys(object, batch.key_field()) {
            return Box::new(FailedOperation::new(lookup::keyless(
                object,
                batch.key_field(),
            )));
        }
        let plan = Plan::new(&batch, |key| key);
        let write = Write {
            object,
            recent: RecentRecords::new(overlap(settings, changes::OVERLAP_SECONDS)),
            held: None,
            stage: Stage::default(),
            batch,
        };
        Box::new(Calls::new(write, plan, 1))
    }

    fn read_size(&self, object: &str) -> usize {
        reads::limit(known(object))
    }

    fn read(
        &self,
        _settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> BoxOperation<Vec<Option<CrmObject>>> {
        match object(&batch.object) {
            Ok(object) => Box::new(reads::Reading::new(object, batch)),
            Err(failure) => Box::new(FailedOperation::new(failure)),
        }
    }

    fn history_size(&self) -> usize {
        1
    }

    fn overwritten(
        &self,
        _settings: &Settings,
        batch: Arc<DoneBatch>,
    ) -> Option<BoxOperation<Vec<Vec<Overwritten>>>> {
        history::read_history(known(&batch.object)?, batch)
    }

    fn changes(&self, settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
        match object(&query.object) {
            Ok(object) => changes::changes(settings, object, query),
            Err(failure) => Box::new(FailedOperation::new(failure)),
        }
    }

    fn names_unknown_fields(&self) -> bool {
        false
    }

    fn describe(&self, _settings: &Settings, name: &str) -> Option<BoxOperation<Description>> {
        Some(match object(name) {
            Ok(object) => Box::new(describe::Describe::new(object)),
            Err(failure) => Box::new(FailedOperation::new(failure)),
        })
    }

    fn webhook(
        &self,
        _settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        webhooks::read(credentials, request)
    }

    /// `deals` and `deal` are one.
    fn same_object(&self, one: &str, other: &str) -> bool {
        let name = |name| known(name).map(|object| object.name);
        one.eq_ignore_ascii_case(other) || name(one).is_some_and(|one| Some(one) == name(other))
    }

    /// Who one is needs no right on any object.
    fn ping(&self, _settings: &Settings) -> BoxOperation<String> {
        let request = Request::new(Method::Get, "/api/v1/users/me");
        Box::new(Exchange::new(request, |response| {
            let me = answers::record(&response)?;
            Ok(match me["company_name"].as_str() {
                Some(company) => format!("Pipedrive answers: {}", crate::errors::clean(company)),
                None => "Pipedrive answers".to_owned(),
            })
        }))
    }

    fn given_token(&self, credentials: &Credentials) -> Option<String> {
        oauth::given_token(credentials)
    }

    fn authorise(&self, _base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
        oauth::authorise(credentials)
    }

    fn sign(&self, request: &mut Request, access_token: &str) {
        oauth::sign(request, access_token);
    }

    fn failure(&self, response: &Response) -> Option<Failure> {
        errors::of_response(response)
    }

    /// The day's budget counts tokens, of which a request costs 1 to 40. Each header may be
    /// missing.
    fn usage(&self, response: &Response) -> Usage {
        let number = |name| errors::number(response, name);
        let window_remaining = number("x-ratelimit-remaining");
        Usage {
            daily_limit: number("x-daily-ratelimit-token-limit"),
            daily_remaining: number("x-daily-ratelimit-token-remaining"),
            window: window_remaining.map(|_| errors::WINDOW),
            window_limit: number("x-ratelimit-limit"),
            window_remaining,
        }
    }

    fn to_wire(&self, data_type: DataType, value: &Value) -> Json {
        values::form(data_type, value)
    }

    /// A moment is a whole second.
    fn stored(&self, _data_type: DataType, value: Value) -> Value {
        match value {
            Value::Timestamp(ms) => Value::Timestamp(ms - ms.rem_euclid(SECOND)),
            value => value,
        }
    }

    fn storage_rules(&self) -> StorageRules {
        values::STORAGE_RULES
    }

    fn from_wire(&self, data_type: DataType, wire: &Json) -> Result<Value, ValueError> {
        values::read(data_type, wire)
    }
}
