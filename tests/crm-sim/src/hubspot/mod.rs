//! HubSpot: CRM objects v3 and the dated versions, batch, search, properties and OAuth.
//!
//! Guarantees: every call but the OAuth ones needs a valid token and counts against the daily and
//! the interval budget; the rate headers tell the same figures.

mod associations;
mod batch;
mod directory;
mod error;
mod form;
mod groups;
mod oauth;
mod objects;
mod portal;
mod properties;
mod routes;
mod save;
mod search;
mod webhooks;

use crate::budget::{Budget, Verdict};
use crate::clock::{self, Clock};
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError, Source};
use crate::store::{Change, Note, Object, Store};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Call, Services, Vendor};
use associations::Links;
use error::HsError;
use groups::Groups;
use objects::Answer;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

pub struct HubSpot {
    services: Services,
    store: Mutex<Store>,
    /// Locked after the store.
    links: Mutex<Links>,
    groups: Mutex<Groups>,
}

impl HubSpot {
    pub fn new(clock: Arc<Clock>) -> Self {
        let defaults = Defaults {
            access: "hs-token",
            refresh: "hs-refresh",
            client_id: "hs-client",
            client_secret: "hs-secret",
            lifetime_s: Some(1800),
        };
        let budget = Budget::new(10_000_000, 1_000_000, 10_000);
        let store = portal::built_in();
        Self {
            services: Services::new("hubspot", clock, defaults, budget),
            links: Mutex::new(Links::new(&store)),
            groups: Mutex::default(),
            store: Mutex::new(store),
        }
    }

    fn route(&self, call: &Call<'_>) -> Answer {
        let request = call.request;
        let segments = request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let ["oauth", path @ ..] = &parts[..] {
            return Ok(oauth::answer(&self.services, request, path));
        }
        self.admit(request)?;
        match self.services.budget.charge(self.services.clock.now(), 1) {
            Verdict::Granted => {}
            Verdict::DaySpent => return Ok(error::rate_limited("DAILY")),
            Verdict::IntervalSpent { .. } => {
                let limited = error::rate_limited("TEN_SECONDLY_ROLLING");
                return Ok(self.with_rates(limited));
            }
        }
        let searching = matches!(parts[..], [.., "search"]);
        let response = self
            .resource(call, &parts)
            .unwrap_or_else(|error| error.response());
        // Search has limits of its own, and does not tell them.
        Ok(match searching {
            true => response,
            false => self.with_rates(response),
        })
    }

    fn admit(&self, request: &Request) -> Result<(), HsError> {
        let now = self.services.clock.now();
        let standing = request
            .bearer()
            .map(|token| self.services.tokens.standing(token, now));
        match standing {
            Some(Standing::Valid) => Ok(()),
            Some(Standing::Expired { since_ms }) => Err(expired(since_ms, now)),
            Some(Standing::Unknown) | None => Err(unauthenticated()),
        }
    }

    fn with_rates(&self, response: Response) -> Response {
        let meter = self.services.budget.meter();
        let name = |part: &str| format!("X-HubSpot-RateLimit-{part}");
        response
            .with(&name("Daily"), meter.daily_limit.to_string())
            .with(&name("Daily-Remaining"), meter.daily_left().to_string())
            .with(
                &name("Interval-Milliseconds"),
                meter.interval_ms.to_string(),
            )
            .with(&name("Max"), meter.interval_limit.to_string())
            .with(&name("Remaining"), meter.interval_left().to_string())
    }
}

impl Vendor for HubSpot {
    fn name(&self) -> &'static str {
        "hubspot"
    }

    fn services(&self) -> &Services {
        &self.services
    }

    fn store(&self) -> &Mutex<Store> {
        &self.store
    }

    fn answer(&self, call: &Call<'_>) -> Response {
        self.route(call).unwrap_or_else(|error| error.response())
    }

    fn failure(&self, status: u16) -> Response {
        let error = match status {
            401 => expired(self.services.clock.now(), self.services.clock.now()),
            403 => HsError::new(
                403,
                "MISSING_SCOPES",
                "This app has not been granted all required scopes",
            ),
            404 => HsError::no_resource(),
            409 => HsError::new(409, "CONFLICT", "The record was changed by another request"),
            423 => HsError::new(423, "LOCKED", "The object is locked"),
            429 => return error::rate_limited("TEN_SECONDLY_ROLLING"),
            400..500 => HsError::new(status, "VALIDATION_ERROR", "The request is not valid"),
            // The content delivery network in front answers these, not the API.
            502..=504 | 521..=524 => {
                let page =
                    format!("<html><head><title>{status}</title></head><body></body></html>");
                return Response::bytes(status, "text/html", page);
            }
            _ => HsError::new(status, "INTERNAL_ERROR", "internal error"),
        };
        error.response()
    }

    fn blank_object(&self, name: &str) -> ObjectDef {
        portal::blank(name)
    }

    fn define(&self, def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), SchemaError> {
        portal::define(def, spec)
    }

    fn reset(&self) {
        let mut store = self.store.lock();
        *store = portal::built_in();
        *self.links.lock() = Links::new(&store);
        *self.groups.lock() = Groups::default();
    }

    fn id(&self, object: &Object, slot: u32) -> String {
        portal::record_id(object, slot)
    }

    fn slot(&self, object: &Object, id: &str) -> Option<u32> {
        portal::slot(object, id)
    }

    fn show(&self, object: &Object, slot: u32) -> Map<String, Json> {
        let mut shown = Map::new();
        for (at, field) in object.def.visible() {
            if let (Some(value), false) =
                (portal::read(object, slot, at), field.source == Source::Id)
            {
                shown.insert(field.name().to_owned(), portal::spelled(&value).into());
            }
        }
        shown
    }

    fn merges(&self, _: &Object) -> bool {
        true
    }

    fn events(&self, object: &Object, note: &Note, number: &dyn Fn() -> u64) -> Vec<Json> {
        webhooks::events(object, note, number)
    }

    fn signature(
        &self,
        secret: &str,
        url: &str,
        body: &str,
        now: i64,
    ) -> Vec<(&'static str, String)> {
        webhooks::signature(secret, url, body, now)
    }

    fn edit(&self, object: &Object, fields: &Map<String, Json>, _: bool) -> Result<Change, String> {
        // Admin input says null for empty, whatever the vendor says.
        let fields = fields.iter().map(|(name, value)| match value {
            Json::Null => (name.clone(), Json::from("")),
            value => (name.clone(), value.clone()),
        });
        save::change_of(object, &fields.collect(), None).map_err(|error| error.to_string())
    }

    fn keeps_history(&self) -> bool {
        true
    }
}

fn unknown_type(name: &str) -> HsError {
    let message = format!("Unable to infer object type from: {name}");
    HsError::validation(message)
}

fn unauthenticated() -> HsError {
    let message =
        "Authentication credentials not found. This API supports OAuth 2.0 authentication";
    HsError::new(401, "INVALID_AUTHENTICATION", message)
}

fn expired(since_ms: i64, now: i64) -> HsError {
    let seconds = (now - since_ms) / 1000;
    let message =
        format!("The OAuth token used to make this call expired {seconds} second(s) ago.");
    HsError {
        context: json!({"expire time": [clock::iso(since_ms)]}),
        ..HsError::new(401, "EXPIRED_AUTHENTICATION", message)
    }
}
