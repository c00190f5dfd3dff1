//! Microsoft Dynamics 365, by the Dataverse Web API, version 9.2: rows by their own paths and in
//! batches, changes by change tracking.
//!
//! An object is an entity set (`contacts`), a field a column (`firstname`). Each row shows a tag,
//! and an update or a deletion, alone or in a batch, can be bound to it.

mod api;
mod batch;
mod changes;
mod columns;
mod definition;
mod describe;
mod errors;
mod oauth;
mod options;
mod reads;
mod records;
#[cfg(test)]
mod tests;
mod values;
mod webhooks;

use std::sync::Arc;

use crm_domain::{DataType, Description, Failure, Value, ValueError};
use serde_json::Value as Json;

use crate::calls::Calls;
use crate::moment::SECOND;
use crate::operation::Exchange;
use crate::outcomes::{Outcome, Plan};
use crate::record_id::RecordIdForm;
use crate::storage_rules::{self, StorageRules};
use crate::{
    BoxOperation, ChangesPage, ChangesQuery, Credentials, CrmObject, Grant, Guard, Method, Profile,
    Provider, ReadBatch, Response, Settings, WebhookError, WebhookEvent, WebhookRequest,
    WriteBatch, WriteKind, webhook,
};

use describe::Describe;
use records::Records;

pub struct Dynamics365;

const PROFILE: Profile = Profile {
    name: "dynamics365",
    // Every environment has a host of its own.
    base_url: None,
    option_keys: &[
        options::SUPPRESS_DUPLICATE_DETECTION,
        options::BYPASS_BUSINESS_LOGIC,
    ],
    credential_keys: &[
        "access_token",
        "client_id",
        "client_secret",
        "refresh_token",
        "tenant_id",
        "login_url",
        webhook::SECRET,
    ],
};

/// The request counts in its answers are those of one of several servers, and not meant to be
/// steered by ("Service protection API limits"), so they are not read.
impl Provider for Dynamics365 {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn check_options(
        &self,
        options: &serde_json::Map<String, Json>,
    ) -> Result<(), (String, &'static str)> {
        options::check(options)
    }

    fn write_size(&self, _settings: &Settings, _kind: WriteKind, _count: usize) -> usize {
        records::LIMIT
    }

    /// The parts of a batch take conditions like requests of their own. An upsert is based on no
    /// read.
    fn guard(&self, kind: WriteKind, _count: usize) -> Guard {
        match kind {
            WriteKind::Update | WriteKind::Delete => Guard::Atomic,
            WriteKind::Upsert => Guard::None,
        }
    }

    fn write(&self, settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
        let mut plan = Plan::new(&batch, |key| key);
        let records = Records::new(settings, batch.clone(), &mut plan.outcomes);
        Box::new(Calls::new(records, plan, records::LIMIT))
    }

    fn read_size(&self, _object: &str) -> usize {
        reads::LIMIT
    }

    fn read(
        &self,
        _settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> BoxOperation<Vec<Option<CrmObject>>> {
        Box::new(reads::Reading::new(batch))
    }

    fn changes(&self, _settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
        changes::changes(query)
    }

    fn describe(&self, _settings: &Settings, object: &str) -> Option<BoxOperation<Description>> {
        Some(Box::new(Describe::new(object)))
    }

    fn record_id_form(&self) -> RecordIdForm {
        RecordIdForm::Uuid
    }

    fn record_id(&self, id: &str) -> String {
        api::id_form(id)
    }

    fn webhook(
        &self,
        _settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        webhooks::read(credentials, request)
    }

    /// Webhooks name the table (`opportunity`), paths its entity set (`opportunities`).
    fn same_object(&self, one: &str, other: &str) -> bool {
        let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
        let is_set = |set: &str, table: &str| {
            let ends = |end: &str| set.strip_suffix(end);
            ends("s") == Some(table)
                || ends("es") == Some(table)
                || ends("ies").is_some_and(|stem| table.strip_suffix('y') == Some(stem))
        };
        one == other || is_set(&one, &other) || is_set(&other, &one)
    }

    /// Needs no right on any table.
    fn ping(&self, _settings: &Settings) -> BoxOperation<String> {
        let request = api::request(Method::Get, "WhoAmI");
        Box::new(Exchange::new(request, |response| {
            errors::check(&response)?;
            Ok(greeting(&response))
        }))
    }

    fn authorise(&self, base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
        oauth::authorise(base_url, credentials)
    }

    fn failure(&self, response: &Response) -> Option<Failure> {
        errors::of_response(response)
    }

    fn to_wire(&self, data_type: DataType, value: &Value) -> Json {
        values::form(data_type, value)
    }

    /// A moment is a whole second, and an id has one spelling.
    fn stored(&self, data_type: DataType, value: Value) -> Value {
        match value {
            Value::Timestamp(ms) => Value::Timestamp(ms - ms.rem_euclid(SECOND)),
            Value::Text(id) if data_type == DataType::Reference => Value::text(&api::id_form(&id)),
            value => values::of_row(value),
        }
    }

    fn unstorable_reason(&self, value: &Value) -> Option<&'static str> {
        values::unstorable_reason(value)
            .or_else(|| storage_rules::unstorable_reason(&self.storage_rules(), value))
    }

    fn storage_rules(&self) -> StorageRules {
        values::STORAGE_RULES
    }

    fn from_wire(&self, data_type: DataType, wire: &Json) -> Result<Value, ValueError> {
        values::read(data_type, wire)
    }
}

/// What `test_connection` shows of an answer of `WhoAmI`.
fn greeting(response: &Response) -> String {
    let body = response.json().unwrap_or_default();
    match body["UserId"].as_str() {
        Some(user) => format!("Dynamics 365 answers, to user {user}"),
        None => "Dynamics 365 answers".to_owned(),
    }
}
