//! Zoho CRM, version 8: records in batches of 100, many of them in bulk write jobs, queries by
//! COQL.
//!
//! The host is that of the account's data centre. Updates of one record are conditional if Zoho
//! honours what its documentation of older versions states; whether it does is looked at
//! afterwards, by the record's timeline.

mod api;
mod archive;
mod bulk;
mod changes;
mod describe;
mod errors;
mod history;
mod hosts;
mod keys;
mod loads;
mod oauth;
mod reads;
mod records;
mod results;
#[cfg(test)]
mod tests;
mod values;
mod webhooks;

use std::sync::Arc;

use crm_domain::{DataType, Description, Failure, Value, ValueError};
use serde_json::Value as Json;

use crate::calls::Calls;
use crate::change_scan::OVERLAP_OPTION;
use crate::changes::is_api_name;
use crate::creation::FindFirst;
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

use api::option;
pub use api::{ORG_OPTION, UPLOAD_URL_OPTION};
use keys::Keys;
use records::{Records, TRIGGER_OPTION};

pub struct Zoho;

const PROFILE: Profile = Profile {
    name: "zoho",
    // Of the data centre in the United States; a grant names the account's own.
    base_url: Some("https://www.zohoapis.com"),
    option_keys: &[
        OVERLAP_OPTION,
        TRIGGER_OPTION,
        ORG_OPTION,
        UPLOAD_URL_OPTION,
    ],
    credential_keys: &[
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

impl Provider for Zoho {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn record_id_form(&self) -> RecordIdForm {
        RecordIdForm::Digits
    }

    fn check_options(
        &self,
        options: &serde_json::Map<String, Json>,
    ) -> Result<(), (String, &'static str)> {
        match options.get(TRIGGER_OPTION) {
            Some(told) if !records::is_trigger(told) => Err((
                format!("{TRIGGER_OPTION} cannot be {told}"),
                "It is a list of workflow, approval and blueprint, empty for none.",
            )),
            _ => match options.get(ORG_OPTION) {
                Some(told) if !api::is_org(told) => Err((
                    format!("{ORG_OPTION} cannot be {told}"),
                    "It is the organisation's zgid: a number.",
                )),
                _ => Ok(()),
            },
        }
    }

    fn write_size(&self, settings: &Settings, kind: WriteKind, count: usize) -> usize {
        match bulk::takes(settings, kind, count) {
            true => count.clamp(records::LIMIT, loads::LIMITS.rows),
            false => records::LIMIT,
        }
    }

    /// A timeline is that of one record, and costs a request. Few are looked at; for many that
    /// would be a hundred times the requests of their writes.
    fn guard(&self, kind: WriteKind, count: usize) -> Guard {
        match kind {
            WriteKind::Update if count <= history::MOST => Guard::Afterwards,
            _ => Guard::None,
        }
    }

    fn write(&self, settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
        if !batch.creates_only {
            return write(settings, batch);
        }
        let names = [batch.key_field(), &batch.object];
        if let Some(name) = names.into_iter().find(|name| !is_api_name(name)) {
            return Box::new(FailedOperation::new(changes::no_name(name)));
        }
        let (keys, settings) = (Keys::new(&batch), settings.clone());
        FindFirst::start(keys, self.key_equality(), batch, move |rest| {
            write(&settings, rest)
        })
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

    fn history_size(&self) -> usize {
        1
    }

    fn overwritten(
        &self,
        _settings: &Settings,
        batch: Arc<DoneBatch>,
    ) -> Option<BoxOperation<Vec<Vec<Overwritten>>>> {
        history::read_history(batch)
    }

    fn changes(&self, settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
        changes::changes(settings, query)
    }

    fn count(&self, _settings: &Settings, object: &str) -> Option<BoxOperation<u64>> {
        Some(changes::count(object))
    }

    fn names_unknown_fields(&self) -> bool {
        false
    }

    fn describe(&self, _settings: &Settings, object: &str) -> Option<BoxOperation<Description>> {
        Some(describe::describe(object))
    }

    fn webhook(
        &self,
        _settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        webhooks::read(credentials, request)
    }

    fn ping(&self, _settings: &Settings) -> BoxOperation<String> {
        let request = Request::new(Method::Get, "/crm/v8/users?type=CurrentUser");
        Box::new(Exchange::new(
            request,
            |response| match errors::of_response(&response) {
                None => Ok("Zoho answers".to_owned()),
                // The token is good, for records alone.
                Some(failure) if failure.code == errors::NO_SCOPE => {
                    Ok("Zoho answers; the token may not read users".to_owned())
                }
                Some(failure) => Err(failure),
            },
        ))
    }

    fn authorise(&self, base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
        oauth::authorise(base_url, credentials)
    }

    fn file_url(&self, settings: &Settings, base_url: &str, file: &str) -> Option<String> {
        let upload_url = option(settings, UPLOAD_URL_OPTION);
        hosts::file_url(base_url, upload_url.as_deref(), file)
    }

    fn sign(&self, request: &mut Request, access_token: &str) {
        let value = format!("Zoho-oauthtoken {access_token}");
        request.headers.push(("authorization", value));
    }

    /// A token that lacks a scope is good, and another would lack it too: what that means, whoever
    /// asked knows.
    fn failure(&self, response: &Response) -> Option<Failure> {
        errors::of_response(response).filter(|failure| failure.code != errors::NO_SCOPE)
    }

    fn usage(&self, response: &Response) -> Usage {
        Usage {
            daily_remaining: errors::number(response, errors::REMAINING),
            ..Usage::default()
        }
    }

    fn to_wire(&self, data_type: DataType, value: &Value) -> Json {
        values::form(data_type, value)
    }

    /// A checkbox is never empty, and a moment is a whole second.
    fn stored(&self, data_type: DataType, value: Value) -> Value {
        match value {
            Value::Null if data_type == DataType::Boolean => Value::Boolean(false),
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

fn write(settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
    let plan = Plan::new(&batch, |key| key);
    if bulk::takes(settings, batch.kind, batch.records.len()) {
        return bulk::write(settings, batch, plan);
    }
    let records = Records::new(settings, batch);
    Box::new(Calls::new(records, plan, records::LIMIT))
}
