//! The CRMs as pg_crm sees them.
//!
//! A [`Provider`] is a value that turns an operation into HTTP requests and HTTP responses into
//! outcomes. It does no I/O: an [`Operation`] is stepped by the engine, which sends what it asks for
//! and hands back the answer. So retries, budgets, token refresh, audit and splitting exist once, in
//! the engine, and a vendor's peculiarities exist once, here.

mod body;
mod calls;
pub mod changes;
pub mod composio;
pub mod dynamics365;
mod errors;
#[cfg(test)]
mod every_vendor;
mod history;
pub mod hubspot;
mod job;
mod json;
mod jwt;
mod look;
mod oauth;
pub mod operation;
pub mod outcome;
pub mod pipedrive;
pub mod record;
pub mod request;
mod result_table;
pub mod salesforce;
#[cfg(test)]
mod script;
mod secrets;
mod stored;
pub mod stub;
mod success;
mod walk;
pub mod webhook;
mod wire;
pub mod zoho;

pub use calls::Halving;
pub use changes::{Change, ChangesPage, ChangesQuery};
pub use json::is_in_proportion;
pub use operation::{Operation, Step};
pub use outcome::{Grant, News, Usage, Written};
pub use record::{
    CrmObject, DoneBatch, DoneField, DoneRecord, Guard, Overwritten, ReadBatch, WriteBatch,
    WriteKind, WriteRecord,
};
pub use request::{Credentials, Method, Request, Response, Target};
pub use secrets::{Secrets, Sentences};
use stored::Habits;
pub use webhook::{WebhookError, WebhookEvent, WebhookKind, WebhookRequest};

use crm_domain::budget::{self, Terms};
use crm_domain::key::KeyEquality;
use crm_domain::{DataType, Description, Failure, FieldDescription, Value};
use std::sync::Arc;

/// Where the requests of a connection go that names no URL; `None`: it must name one.
pub fn default_base_url(
    provider: &dyn Provider,
    options: &serde_json::Map<String, serde_json::Value>,
) -> Option<&'static str> {
    if composio::is_way(options) {
        Some(composio::BASE_URL)
    } else {
        provider.default_base_url()
    }
}

/// Fixed facts of one connection that requests depend on (never a secret).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `api_version` and whatever else `connections.options` holds for this provider.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Records above which an asynchronous bulk job is used (`pg_crm.bulk_threshold`).
    pub bulk_threshold: usize,
}

/// The option that bounds the requests on their way at once, and what holds without it.
pub const IN_FLIGHT_OPTION: &str = "max_in_flight";
const IN_FLIGHT: u64 = 4;
const MOST_IN_FLIGHT: u64 = 64;

/// The option that bounds the rate: {"requests": 100, "seconds": 10}.
pub const RATE_OPTION: &str = "rate_limit";
/// The option that bounds the requests of a day, which begins at midnight UTC.
pub const DAY_OPTION: &str = "daily_limit";
/// The option that says which part of each budget is kept for real-time writes, 0.0 to 0.9.
pub const RESERVE_OPTION: &str = "realtime_reserve";

impl Settings {
    pub fn new(
        options: serde_json::Map<String, serde_json::Value>,
        bulk_threshold: usize,
    ) -> Settings {
        // Jobs take files, which a broker may not carry.
        let jobs = !composio::is_way(&options);
        Settings {
            bulk_threshold: if jobs { bulk_threshold } else { usize::MAX },
            options,
        }
    }

    /// What the admin allows.
    pub fn terms(&self) -> Terms {
        let rate = self.options.get(RATE_OPTION).and_then(|rate| {
            let requests = u32::try_from(rate["requests"].as_u64()?).ok()?;
            let seconds = rate["seconds"].as_f64()?;
            (requests > 0 && seconds > 0.0).then_some((requests, (seconds * 1000.0) as i64))
        });
        let reserve = self.options.get(RESERVE_OPTION);
        let reserve = reserve.and_then(serde_json::Value::as_f64);
        let day = self.options.get(DAY_OPTION);
        Terms {
            rate,
            day: day.and_then(serde_json::Value::as_u64),
            reserve: reserve.unwrap_or(budget::RESERVE).clamp(0.0, 0.9),
        }
    }

    /// How many requests of a batch may be on their way at once.
    pub fn in_flight(&self) -> usize {
        let told = self.options.get(IN_FLIGHT_OPTION);
        let told = told.and_then(serde_json::Value::as_u64);
        told.unwrap_or(IN_FLIGHT).clamp(1, MOST_IN_FLIGHT) as usize
    }
}

/// One CRM product: its requests, its answers, its errors, its value forms.
pub trait Provider: Send + Sync {
    /// The name users write in `create_connection(provider => …)`.
    fn name(&self) -> &'static str;

    /// The base URL when the connection names none; `None` if it must name one.
    fn default_base_url(&self) -> Option<&'static str>;

    /// Keys that `options` may hold for this provider beside those that every connection has.
    fn option_keys(&self) -> &'static [&'static str];

    /// What speaks against the values of these options: why, and what they are.
    fn check_options(
        &self,
        _options: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(), (String, &'static str)> {
        Ok(())
    }

    /// Keys that credentials may hold.
    fn credential_keys(&self) -> &'static [&'static str];

    /// How many of `count` records one [`Provider::write`] should carry: the provider picks the
    /// endpoint (single, collection, bulk job) by the size of the batch it is given.
    fn write_size(&self, settings: &Settings, kind: WriteKind, count: usize) -> usize;

    /// What protects a write of `count` records in one batch. It may depend on `count`, because
    /// endpoints for many records may have no conditions: a caller who needs protection more than
    /// speed writes as many records at once as are guarded.
    fn guard(&self, kind: WriteKind, count: usize) -> Guard;

    /// Writes a batch. The result has one entry per record of the batch, in the batch's order; an
    /// `Err` of the operation means that the whole batch was refused and nothing was written.
    fn write(
        &self,
        settings: &Settings,
        batch: Arc<WriteBatch>,
    ) -> Box<dyn Operation<Vec<Result<Written, Failure>>>>;

    /// How many ids of an object one [`Provider::read`] may carry.
    fn read_size(&self, object: &str) -> usize;

    /// Reads records by id: one entry per id, in order; `None` where the CRM has no such record.
    fn read(
        &self,
        settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> Box<dyn Operation<Vec<Option<CrmObject>>>>;

    /// How many records one [`Provider::overwritten`] may carry.
    fn look_back_size(&self) -> usize {
        usize::MAX
    }

    /// Looks back at writes that were not conditional ([`Guard::Afterwards`]): one entry per record,
    /// in order, of the foreign values that these writes replaced and that nobody had read. An empty
    /// entry means that none is known of. What was changed after our write is no concern of it.
    /// `None`: the CRM keeps nothing to look at.
    fn overwritten(
        &self,
        settings: &Settings,
        batch: Arc<DoneBatch>,
    ) -> Option<Box<dyn Operation<Vec<Vec<Overwritten>>>>>;

    /// Reads one page of what changed since a cursor: created, updated, deleted, merged, restored.
    ///
    /// Whoever asks on from [`ChangesPage::next`], each time from what the last page gave, sees every
    /// change at least once, however pages are sized and however often one is asked for again: of a
    /// record that changed several times, its latest state. A pass from `None` sees every record there
    /// is, so this serves a backfill too. A record that changes during a pass may come several times,
    /// and so may what changed shortly before a pass ended, since a CRM shows some changes late; a CRM
    /// in which nothing changes is not read anew for ever. Only the CRM's clock is asked, never ours.
    ///
    /// An operation that fails has moved nothing: ask again with the same cursor. A cursor that this
    /// provider did not make fails as `unreadable_cursor`.
    fn changes(
        &self,
        settings: &Settings,
        query: Arc<ChangesQuery>,
    ) -> Box<dyn Operation<ChangesPage>>;

    /// How many records an object has, in one request: what is gone counts as the CRM likes. `None`: it does not tell.
    fn count(&self, _settings: &Settings, _object: &str) -> Option<Box<dyn Operation<u64>>> {
        None
    }

    /// The fields of an object, as the CRM tells them now. An object that it does not know fails as a mapping error.
    /// `None`: this provider cannot ask.
    fn describe(
        &self,
        _settings: &Settings,
        _object: &str,
    ) -> Option<Box<dyn Operation<Description>>> {
        None
    }

    /// The one spelling of a record's id, where the CRM knows several.
    fn record_id(&self, id: &str) -> String {
        id.to_owned()
    }

    /// Checks a request that the CRM sent by itself and reads the events in it, in its order. Events of
    /// kinds that no record is behind are left out. It does no more than that: whether an event is new,
    /// and what the record holds now, is the caller's to find out.
    fn webhook(
        &self,
        settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError>;

    /// Whether two names mean one object (`Contact`, `contact`; HubSpot: `contacts`, `contact`, `0-1`).
    fn same_object(&self, one: &str, other: &str) -> bool {
        one.eq_ignore_ascii_case(other)
    }

    /// A cheap call that proves that the CRM answers and the credentials work; says what it saw.
    fn ping(&self, settings: &Settings) -> Box<dyn Operation<String>>;

    /// The token that credentials are already, if they are one.
    fn given_token(&self, credentials: &Credentials) -> Option<String> {
        credentials.get("access_token").map(str::to_owned)
    }

    /// Obtains an access token from credentials; `None` if these credentials are a token already
    /// and nothing can be refreshed.
    fn authorise(
        &self,
        base_url: &str,
        credentials: &Credentials,
    ) -> Option<Box<dyn Operation<Grant>>>;

    /// Where a [`Target::File`] is: an absolute URL at a host that may see the token, whatever the CRM's answers name.
    /// `base_url` is that of the API. `None`: no such host is known to be the CRM's.
    fn file_url(&self, _settings: &Settings, _base_url: &str, _file: &str) -> Option<String> {
        None
    }

    /// Adds the authorisation to a request that goes to the CRM.
    fn sign(&self, request: &mut Request, access_token: &str);

    /// The failure that a response states for the request as a whole, if it states one.
    fn failure(&self, response: &Response) -> Option<Failure>;

    /// What a response tells about the request budget.
    fn usage(&self, response: &Response) -> Usage;

    /// A canonical value in the form this vendor is sent.
    fn to_wire(&self, data_type: DataType, value: &Value) -> serde_json::Value;

    /// When the vendor takes the values of two external ids for one.
    fn key_equality(&self) -> KeyEquality {
        KeyEquality::IgnoringCase
    }

    /// What the vendor will hold once it was sent this: what it has no room for is gone.
    fn stored(&self, _data_type: DataType, value: Value) -> Value {
        value
    }

    /// The form of a value that a field holds as it is once it was sent it, by the vendor's documentation; `None`: that does
    /// not tell, and only a read will show what becomes of the value.
    fn stored_form(
        &self,
        field: &FieldDescription,
        data_type: DataType,
        value: &Value,
    ) -> Option<Value> {
        let value = self.stored(data_type, value.clone());
        stored::form(&self.habits(), field, value)
    }

    /// The same with what the vendor's habits say of each field.
    fn characterised(&self, mut description: Description) -> Description {
        stored::characterise(&self.habits(), &mut description);
        description
    }

    /// Why no field of this vendor's can hold the value, whatever it is sent.
    fn unholdable(&self, value: &Value) -> Option<&'static str> {
        stored::unholdable(&self.habits(), value)
    }

    /// What the vendor does with values of any field.
    fn habits(&self) -> Habits {
        Habits::NONE
    }

    /// A value in the form this vendor answers, made canonical.
    #[expect(
        clippy::wrong_self_convention,
        reason = "it reads the wire, for this provider"
    )]
    fn from_wire(
        &self,
        data_type: DataType,
        wire: &serde_json::Value,
    ) -> Result<Value, crm_domain::ValueError>;
}

/// Every provider by name.
pub fn providers() -> &'static [&'static dyn Provider] {
    &[
        &stub::Stub,
        &salesforce::Salesforce,
        &hubspot::HubSpot,
        &pipedrive::Pipedrive,
        &zoho::Zoho,
        &dynamics365::Dynamics365,
    ]
}

/// The provider of that name.
pub fn provider(name: &str) -> Option<&'static dyn Provider> {
    providers().iter().copied().find(|p| p.name() == name)
}
