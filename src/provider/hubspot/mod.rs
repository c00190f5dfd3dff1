//! HubSpot: CRM objects v3, single and in batches of 100.

mod api;
mod batches;
mod changes;
mod describe;
mod errors;
mod history;
mod keys;
mod oauth;
mod reads;
mod rows;
#[cfg(test)]
mod tests;
mod values;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use crm_domain::{DataType, Description, Failure, Value, ValueError};
use serde_json::Value as Json;

use crate::calls::Calls;
use crate::change_scan::OVERLAP_OPTION;
use crate::creation::FindFirst;
use crate::operation::Exchange;
use crate::outcomes::{Outcome, Plan};
use crate::record_id::RecordIdForm;
use crate::storage_rules::StorageRules;
use crate::{
    BoxOperation, ChangesPage, ChangesQuery, Credentials, CrmObject, DoneBatch, Grant, Guard,
    Method, Overwritten, Profile, Provider, ReadBatch, Request, Response, Settings, Usage,
    WebhookError, WebhookEvent, WebhookRequest, WriteBatch, WriteKind, webhook, wire,
};

use batches::Batch;
use keys::Keys;
use rows::Row;

pub struct HubSpot;

const PROFILE: Profile = Profile {
    name: "hubspot",
    base_url: Some("https://api.hubapi.com"),
    option_keys: &[OVERLAP_OPTION, webhook::URL_OPTION],
    credential_keys: &[
        "access_token",
        "client_id",
        "client_secret",
        "refresh_token",
        "token_url",
        "scope",
        webhook::SECRET,
    ],
};

impl Provider for HubSpot {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn record_id_form(&self) -> RecordIdForm {
        RecordIdForm::Digits
    }

    fn write_size(&self, _settings: &Settings, _kind: WriteKind, _count: usize) -> usize {
        batches::LIMIT
    }

    /// HubSpot has no conditional writes, but a history of every property. An upsert is not based
    /// on a read, and of a deleted record no history can be asked.
    fn guard(&self, kind: WriteKind, _count: usize) -> Guard {
        match kind {
            WriteKind::Update => Guard::Afterwards,
            WriteKind::Upsert | WriteKind::Delete => Guard::None,
        }
    }

    fn write(&self, _settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
        match batch.creates_only {
            true => FindFirst::start(Keys::new(&batch), self.key_equality(), batch, write),
            false => write(batch),
        }
    }

    fn read_size(&self, _object: &str) -> usize {
        reads::LIMIT
    }

    fn read(
        &self,
        _settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> BoxOperation<Vec<Option<CrmObject>>> {
        reads::read(batch)
    }

    fn history_size(&self) -> usize {
        history::LIMIT
    }

    fn overwritten(
        &self,
        _settings: &Settings,
        batch: Arc<DoneBatch>,
    ) -> Option<BoxOperation<Vec<Vec<Overwritten>>>> {
        Some(history::read_history(batch))
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
        settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        webhooks::read(settings, credentials, request)
    }

    fn same_object(&self, one: &str, other: &str) -> bool {
        webhooks::object_name(one) == webhooks::object_name(other)
    }

    fn ping(&self, _settings: &Settings) -> BoxOperation<String> {
        let request = Request::new(Method::Get, "/crm/v3/objects/contacts?limit=1");
        Box::new(Exchange::new(
            request,
            |response| match errors::of_response(&response) {
                None => Ok("HubSpot answers".to_owned()),
                // The token is good, for other objects than this one.
                Some(failure) if failure.code == "MISSING_SCOPES" => {
                    Ok("HubSpot answers; the token may not read contacts".to_owned())
                }
                Some(failure) => Err(failure),
            },
        ))
    }

    fn authorise(&self, base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
        oauth::authorise(base_url, credentials)
    }

    fn failure(&self, response: &Response) -> Option<Failure> {
        errors::of_response(response)
    }

    /// The window is that of `X-HubSpot-RateLimit-Interval-Milliseconds`; older answers have a
    /// second's instead.
    fn usage(&self, response: &Response) -> Usage {
        let number = |name: &str| response.header(name)?.trim().parse::<u64>().ok();
        let interval = number("x-hubspot-ratelimit-remaining")
            .zip(number("x-hubspot-ratelimit-interval-milliseconds").map(Duration::from_millis));
        let second = || {
            Some((
                number("x-hubspot-ratelimit-secondly-remaining")?,
                Duration::from_secs(1),
            ))
        };
        let window = interval.or_else(second);
        Usage {
            daily_limit: number("x-hubspot-ratelimit-daily"),
            daily_remaining: number("x-hubspot-ratelimit-daily-remaining"),
            window_remaining: window.map(|(remaining, _)| remaining),
            window_limit: interval.and_then(|_| number("x-hubspot-ratelimit-max")),
            window: window.map(|(_, window)| window),
        }
    }

    fn to_wire(&self, _data_type: DataType, value: &Value) -> Json {
        values::form(value).into()
    }

    fn storage_rules(&self) -> StorageRules {
        values::STORAGE_RULES
    }

    fn from_wire(&self, data_type: DataType, wire: &Json) -> Result<Value, ValueError> {
        wire::read(data_type, wire)
    }
}

fn write(batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
    let plan = Plan::new(&batch, |key| key);
    match (&batch.records[..], batch.kind) {
        // A single upsert has no path of its own.
        ([_], WriteKind::Update | WriteKind::Delete) => {
            Box::new(Calls::new(Row { batch }, plan, 1))
        }
        _ => Box::new(Calls::new(Batch { batch }, plan, batches::LIMIT)),
    }
}
