//! HubSpot: CRM objects v3 and the dated versions, batch, search, properties and OAuth.
//!
//! Guarantees: every call but the OAuth ones needs a valid token and counts against the daily and the
//! interval budget; the rate headers tell the same figures.

mod batch;
mod error;
mod form;
mod oauth;
mod objects;
mod portal;
mod properties;
mod save;
mod search;
mod webhooks;

use crate::budget::{Budget, Verdict};
use crate::clock::{self, Clock};
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError, Source};
use crate::store::{Actor, Change, Note, Object, Stamp, Store};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Call, Services, Vendor};
use error::HsError;
use objects::Answer;
use parking_lot::Mutex;
use save::Writer;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

pub struct HubSpot {
    services: Services,
    store: Mutex<Store>,
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
        Self {
            services: Services::new("hubspot", clock, defaults, budget),
            store: Mutex::new(portal::built_in()),
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

    fn resource(&self, call: &Call<'_>, parts: &[&str]) -> Answer {
        let request = call.request;
        let kind = request.header("content-type").unwrap_or("application/json");
        if !request.body.is_empty() && !kind.to_ascii_lowercase().starts_with("application/json") {
            return Err(HsError::new(
                415,
                "VALIDATION_ERROR",
                "Unsupported Media Type",
            ));
        }
        match parts {
            ["crm", "v3", "objects", name, path @ ..] => self.objects(call, name, path, true),
            ["crm", "objects", version, name, path @ ..] if is_dated(version) => {
                self.objects(call, name, path, *version < "2026-09")
            }
            ["crm", "v3", "properties", name, path @ ..] => {
                let mut store = self.store.lock();
                let object = store.object_mut(name).ok_or_else(|| unknown_type(name))?;
                properties::answer(object, request, path)
            }
            ["crm", "v3", "pipelines", "deals"] => Ok(pipelines(&self.store.lock())),
            ["account-info", "v3", "api-usage", "daily", "private-apps"] => Ok(self.usage()),
            ["account-info", "v3", "details"] => Ok(Response::json(
                200,
                &json!({"portalId": portal::PORTAL, "accountType": "STANDARD", "timeZone": "UTC"}),
            )),
            _ => Err(HsError::no_resource()),
        }
    }

    fn objects(&self, call: &Call<'_>, name: &str, path: &[&str], multi_status: bool) -> Answer {
        let request = call.request;
        let mut store = self.store.lock();
        let object = store.object_mut(name).ok_or_else(|| unknown_type(name))?;
        let now = self.services.clock.now();
        let writer = Writer {
            stamp: Stamp {
                at: now,
                by: Actor::Integration,
            },
            records: call.records,
        };
        match (request.method.as_str(), path) {
            ("GET", []) => objects::list(object, request),
            ("POST", []) => objects::create(object, request, &writer),
            ("POST", ["search"]) => {
                let lag = self.services.settings.read().search_lag_ms;
                search::answer(object, &request.body, now - lag)
            }
            ("POST", ["merge"]) => objects::merge(object, request, &writer),
            ("POST", ["batch", verb]) => {
                let batch = batch::Batch {
                    request,
                    writer,
                    multi_status,
                };
                batch.answer(object, verb)
            }
            ("GET", [id]) => objects::read(object, request, id),
            ("PATCH", [id]) => objects::update(object, request, id, &writer),
            ("DELETE", [id]) => objects::archive(object, request, id, &writer),
            (_, [] | [_]) => Err(HsError::method()),
            _ => Err(HsError::no_resource()),
        }
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

    fn usage(&self) -> Response {
        let meter = self.services.budget.meter();
        let now = self.services.clock.now();
        let midnight = (now / clock::DAY_MS + 1) * clock::DAY_MS;
        Response::json(
            200,
            &json!({"results": [{
                "name": "private-apps-api-calls-daily",
                "usageLimit": meter.daily_limit,
                "currentUsage": meter.daily_used,
                "collectedAt": clock::iso(now),
                "resetsAt": clock::iso(midnight),
                "fetchStatus": "SUCCESS",
            }]}),
        )
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
        *self.store.lock() = portal::built_in();
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

/// `2026-03`, `2027-03-beta`
fn is_dated(version: &str) -> bool {
    let year = version.get(..4).unwrap_or_default();
    year.bytes().all(|byte| byte.is_ascii_digit()) && version.get(4..5) == Some("-")
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

/// The one pipeline there is, with the stages that `dealstage` takes.
fn pipelines(store: &Store) -> Response {
    let stages = store
        .object("deals")
        .and_then(|deals| deals.def.field("dealstage"));
    let stages: Vec<_> = stages
        .map(|(_, field)| field.spec.values.clone())
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(at, stage)| json!({"id": stage, "label": stage, "displayOrder": at, "archived": false}))
        .collect();
    let pipeline = json!({
        "id": "default",
        "label": "Sales Pipeline",
        "displayOrder": 0,
        "archived": false,
        "stages": stages,
    });
    Response::json(200, &json!({"results": [pipeline]}))
}
