//! What a vendor is, and what every vendor has.
//!
//! Guarantees: authentication, budgets, latency and tokens are kept apart per vendor; the clock,
//! the faults and the request log are one for all.

use crate::budget::Budget;
use crate::clock::Clock;
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError};
use crate::store::{Change, Note, Object, Store};
use crate::tokens::{Defaults, Tokens};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use std::sync::Arc;

/// Settings of one vendor that `POST /config` changes.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Added to every answer.
    pub latency_ms: u64,
    /// How long a bulk job stays in progress at least.
    pub bulk_latency_ms: u64,
    /// Whether answers are compressed for callers that accept it.
    pub gzip: bool,
    /// How long a write stays invisible to search.
    pub search_lag_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            bulk_latency_ms: 20,
            gzip: false,
            search_lag_ms: 0,
        }
    }
}

/// What every vendor has.
#[derive(Debug)]
pub struct Services {
    pub clock: Arc<Clock>,
    pub settings: RwLock<Settings>,
    pub tokens: Tokens,
    pub budget: Budget,
}

impl Services {
    pub fn new(
        vendor: &'static str,
        clock: Arc<Clock>,
        defaults: Defaults,
        budget: Budget,
    ) -> Self {
        Self {
            clock,
            settings: RwLock::default(),
            tokens: Tokens::new(vendor, defaults),
            budget,
        }
    }

    pub fn reset(&self) {
        *self.settings.write() = Settings::default();
        self.tokens.reset();
        self.budget.reset();
    }
}

/// One request on its way through a vendor.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub request: &'a Request,
    /// Scheme, host and port the caller used.
    pub origin: &'a str,
    pub records: &'a RecordFaults,
}

/// A CRM: a function from requests to answers over a store.
pub trait Vendor: Send + Sync {
    fn name(&self) -> &'static str;
    fn services(&self) -> &Services;
    fn store(&self) -> &Mutex<Store>;

    fn answer(&self, call: &Call<'_>) -> Response;
    /// What the vendor usually says with a failing status; faults use it.
    fn failure(&self, status: u16) -> Response;

    /// An object definition with nothing but the fields the system fills.
    fn blank_object(&self, name: &str) -> ObjectDef;
    fn define(&self, def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), SchemaError>;
    /// Back to the built-in objects, without records.
    fn reset(&self);

    fn id(&self, object: &Object, slot: u32) -> String;
    fn slot(&self, object: &Object, id: &str) -> Option<u32>;
    /// All filled fields of a record, as the vendor's API spells them.
    fn show(&self, object: &Object, slot: u32) -> serde_json::Map<String, serde_json::Value>;
    /// Reads an edit made by a CRM user, under the same rules as the API; the error is for people.
    fn edit(
        &self,
        object: &Object,
        fields: &serde_json::Map<String, serde_json::Value>,
        creating: bool,
    ) -> Result<Change, String>;
    /// Whether records of this object can be merged.
    fn merges(&self, object: &Object) -> bool;
    /// What a webhook says of a change; `number` counts events.
    fn events(
        &self,
        object: &Object,
        note: &Note,
        number: &dyn Fn() -> u64,
    ) -> Vec<serde_json::Value>;
    /// Whether each event is posted by itself, and not in a list.
    fn one_event_a_post(&self) -> bool {
        false
    }
    /// Puts into an event what proves where it comes from, for vendors that sign nothing.
    fn seal(&self, _secret: &str, _event: &mut serde_json::Value) {}
    /// The headers that sign a webhook.
    fn signature(
        &self,
        secret: &str,
        url: &str,
        body: &str,
        now: i64,
    ) -> Vec<(&'static str, String)>;
    /// Whether records keep a history of values.
    fn keeps_history(&self) -> bool {
        false
    }
}

/// Everything the server and the admin address share.
pub struct Sim {
    pub clock: Arc<Clock>,
    pub log: crate::log::RequestLog,
    pub faults: crate::faults::Faults,
    pub hooks: Arc<crate::webhooks::Hooks>,
    pub vendors: Vec<Arc<dyn Vendor>>,
    /// The broker that leads to some of them.
    pub composio: crate::composio::Composio,
}

impl Default for Sim {
    fn default() -> Self {
        let clock = Arc::new(Clock::default());
        Self {
            log: Default::default(),
            faults: Default::default(),
            hooks: Default::default(),
            vendors: vec![
                Arc::new(crate::salesforce::Salesforce::new(clock.clone())),
                Arc::new(crate::hubspot::HubSpot::new(clock.clone())),
                Arc::new(crate::pipedrive::Pipedrive::new(clock.clone())),
                Arc::new(crate::zoho::Zoho::new(clock.clone())),
                Arc::new(crate::dynamics365::Dynamics365::new(clock.clone())),
            ],
            composio: crate::composio::Composio::new(clock.clone()),
            clock,
        }
    }
}

impl Sim {
    pub fn vendor(&self, name: &str) -> Option<&Arc<dyn Vendor>> {
        self.vendors.iter().find(|vendor| vendor.name() == name)
    }

    /// What each vendor has of services, and the broker.
    pub fn services(&self) -> impl Iterator<Item = (&'static str, &Services)> {
        let vendors = self.vendors.iter();
        vendors
            .map(|vendor| (vendor.name(), vendor.services()))
            .chain([(crate::composio::NAME, &self.composio.services)])
    }

    pub fn reset(&self) {
        self.clock.set_skew_ms(0);
        self.faults.clear(None);
        self.log.clear();
        self.hooks.clear(None);
        for vendor in &self.vendors {
            vendor.services().reset();
            vendor.reset();
        }
        self.composio.reset();
    }
}
