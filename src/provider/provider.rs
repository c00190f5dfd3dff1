//! What every CRM must support, as one trait: all that the engine knows of a vendor.

use std::sync::Arc;

use crm_domain::key::KeyEquality;
use crm_domain::{DataType, Description, Failure, FieldDescription, Value, ValueError};

use crate::changes::{ChangesPage, ChangesQuery};
use crate::operation::BoxOperation;
use crate::outcome::{Grant, Usage, Written};
use crate::record::{CrmObject, DoneBatch, Guard, Overwritten, ReadBatch, WriteBatch, WriteKind};
use crate::record_id::RecordIdForm;
use crate::request::{Credentials, Request, Response};
use crate::settings::Settings;
use crate::storage_rules::{self, StorageRules};
use crate::webhook::{self, WebhookError, WebhookEvent, WebhookRequest};

/// What is fixed about a provider.
#[derive(Debug)]
pub struct Profile {
    /// The name that users write in `create_connection(provider => …)`.
    pub name: &'static str,
    /// The base URL when the connection names none; `None` if it must name one.
    pub base_url: Option<&'static str>,
    /// Keys that `options` may hold beside those that every connection has.
    pub option_keys: &'static [&'static str],
    /// Keys that credentials may hold.
    pub credential_keys: &'static [&'static str],
}

/// One CRM product: its requests, its answers, its errors, its value forms.
pub trait Provider: Send + Sync {
    /// The fixed facts of this provider.
    fn profile(&self) -> &'static Profile;

    /// The name that users write in `create_connection(provider => …)`.
    fn name(&self) -> &'static str {
        self.profile().name
    }

    /// What speaks against the values of these options: why, and what they are.
    fn check_options(
        &self,
        _options: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(), (String, &'static str)> {
        Ok(())
    }

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
    ) -> BoxOperation<Vec<Result<Written, Failure>>>;

    /// How many ids of an object one [`Provider::read`] may carry.
    fn read_size(&self, object: &str) -> usize;

    /// Reads records by id: one entry per id, in order; `None` where the CRM has no such record.
    fn read(
        &self,
        settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> BoxOperation<Vec<Option<CrmObject>>>;

    /// How many records one [`Provider::overwritten`] may carry.
    fn history_size(&self) -> usize {
        usize::MAX
    }

    /// Looks back at writes that were not conditional ([`Guard::Afterwards`]): one entry per
    /// record, in order, of the foreign values that these writes replaced and that nobody had read.
    /// An empty entry means that none is known of. What was changed after our write is no concern
    /// of it. `None`: the CRM keeps nothing to look at.
    fn overwritten(
        &self,
        _settings: &Settings,
        _batch: Arc<DoneBatch>,
    ) -> Option<BoxOperation<Vec<Vec<Overwritten>>>> {
        None
    }

    /// Reads one page of what changed since a cursor: created, updated, deleted, merged, restored.
    ///
    /// Whoever asks on from [`ChangesPage::next`], each time from what the last page gave, sees
    /// every change at least once, however pages are sized and however often one is asked for
    /// again: of a record that changed several times, its latest state. A pass from `None` sees
    /// every record there is, so this serves a backfill too. A record that changes during a pass
    /// may come several times, and so may what changed shortly before a pass ended, since a CRM
    /// shows some changes late; a CRM in which nothing changes is not read anew for ever. Only the
    /// CRM's clock is asked, never ours.
    ///
    /// An operation that fails has moved nothing: ask again with the same cursor. A cursor that
    /// this provider did not make fails as `unreadable_cursor`.
    fn changes(&self, settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage>;

    /// How many records an object has, in one request: what is gone counts as the CRM likes.
    /// `None`: it does not tell.
    fn count(&self, _settings: &Settings, _object: &str) -> Option<BoxOperation<u64>> {
        None
    }

    /// The fields of an object, as the CRM tells them now. An object that it does not know fails as
    /// a mapping error. `None`: this provider cannot ask.
    fn describe(&self, _settings: &Settings, _object: &str) -> Option<BoxOperation<Description>> {
        None
    }

    /// What the ids of records look like, in the spelling of [`Provider::record_id`].
    fn record_id_form(&self) -> RecordIdForm {
        RecordIdForm::Text
    }

    /// The one spelling of a record's id, where the CRM knows several.
    fn record_id(&self, id: &str) -> String {
        id.to_owned()
    }

    /// Checks a request that the CRM sent by itself and reads the events in it, in its order.
    /// Events of kinds that no record is behind are left out. It does no more than that: whether an
    /// event is new, and what the record holds now, is the caller's to find out.
    ///
    /// Of a CRM that sends no webhooks of its own, they come from a relay.
    fn webhook(
        &self,
        _settings: &Settings,
        credentials: &Credentials,
        request: &WebhookRequest<'_>,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        webhook::relayed(credentials, request)
    }

    /// Whether two names mean one object (`Contact`, `contact`; HubSpot: `contacts`, `contact`,
    /// `0-1`).
    fn same_object(&self, one: &str, other: &str) -> bool {
        one.eq_ignore_ascii_case(other)
    }

    /// A cheap call that proves that the CRM answers and the credentials work; says what it saw.
    fn ping(&self, settings: &Settings) -> BoxOperation<String>;

    /// The token that credentials are already, if they are one.
    fn given_token(&self, credentials: &Credentials) -> Option<String> {
        credentials.get("access_token").map(str::to_owned)
    }

    /// Obtains an access token from credentials; `None` if these credentials are a token already
    /// and nothing can be refreshed.
    fn authorise(&self, base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>>;

    /// Where a [`Target::File`] is: an absolute URL at a host that may see the token, whatever the
    /// CRM's answers name. `base_url` is that of the API. `None`: no such host is known to be the
    /// CRM's.
    fn file_url(&self, _settings: &Settings, _base_url: &str, _file: &str) -> Option<String> {
        None
    }

    /// Adds the authorisation to a request that goes to the CRM.
    fn sign(&self, request: &mut Request, access_token: &str) {
        let value = format!("Bearer {access_token}");
        request.headers.push(("authorization", value));
    }

    /// The failure that a response states for the request as a whole, if it states one.
    fn failure(&self, response: &Response) -> Option<Failure>;

    /// What a response tells about the request budget; by default, nothing.
    fn usage(&self, _response: &Response) -> Usage {
        Usage::default()
    }

    /// A canonical value in the form this vendor is sent.
    fn to_wire(&self, data_type: DataType, value: &Value) -> serde_json::Value;

    /// Whether to request a field that the CRM does not have is an error that names the field.
    fn names_unknown_fields(&self) -> bool {
        true
    }

    /// When the vendor takes the values of two external ids for one.
    fn key_equality(&self) -> KeyEquality {
        KeyEquality::IgnoringCase
    }

    /// What the vendor will hold once it was sent this: what it has no room for is gone.
    fn stored(&self, _data_type: DataType, value: Value) -> Value {
        value
    }

    /// The form of a value that a field holds as it is once it was sent it, by the vendor's
    /// documentation; `None`: that does not tell, and only a read will show what becomes of the
    /// value.
    fn stored_form(
        &self,
        field: &FieldDescription,
        data_type: DataType,
        value: &Value,
    ) -> Option<Value> {
        let value = self.stored(data_type, value.clone());
        storage_rules::form(&self.storage_rules(), field, value)
    }

    /// The same with what the vendor's habits say of each field.
    fn with_storage_rules(&self, mut description: Description) -> Description {
        storage_rules::apply_storage_rules(&self.storage_rules(), &mut description);
        description
    }

    /// Why no field of this vendor's can hold the value, whatever it is sent.
    fn unstorable_reason(&self, value: &Value) -> Option<&'static str> {
        storage_rules::unstorable_reason(&self.storage_rules(), value)
    }

    /// What the vendor does with values of any field.
    fn storage_rules(&self) -> StorageRules {
        StorageRules::NONE
    }

    /// A value in the form this vendor answers, made canonical.
    #[expect(
        clippy::wrong_self_convention,
        reason = "it reads the wire, for this provider"
    )]
    fn from_wire(&self, data_type: DataType, wire: &serde_json::Value)
    -> Result<Value, ValueError>;
}
