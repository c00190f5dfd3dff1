//! Pipedrive: version 2 of its API, what version 1 alone has (leads, notes, filters, changelogs),
//! and OAuth.
//!
//! Guarantees: every call but the token endpoint needs a token in the header that is for its kind,
//! and costs what Pipedrive says it costs; the headers tell the same figures.

mod account;
mod error;
mod fields;
mod filters;
mod lists;
mod oauth;
mod save;
mod search;
mod seek;
mod webhooks;

use crate::budget::{Budget, Verdict};
use crate::clock::Clock;
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError};
use crate::store::{Actor, Change, Life, Note, Object, Stamp, Store};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Call, Services, Vendor};
use error::PdError;
use filters::Filters;
use lists::{Answer, Params};
use parking_lot::Mutex;
use save::Writer;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// Tokens that were granted, and not given by a user; they have another header.
const GRANTED: &str = "pipedrive-access-";

pub struct Pipedrive {
    services: Services,
    store: Mutex<Store>,
    filters: Mutex<Filters>,
}

impl Pipedrive {
    pub fn new(clock: Arc<Clock>) -> Self {
        let defaults = Defaults {
            access: "pd-token",
            refresh: "pd-refresh",
            client_id: "pd-client",
            client_secret: "pd-secret",
            lifetime_s: Some(3599),
        };
        let budget = Budget::new(100_000_000, 1_000_000, 2_000);
        Self {
            services: Services::new("pipedrive", clock, defaults, budget),
            store: Mutex::new(account::built_in()),
            filters: Mutex::default(),
        }
    }

    fn route(&self, call: &Call<'_>) -> Answer {
        let request = call.request;
        let segments = request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let ["oauth", "token"] = &parts[..] {
            return Ok(oauth::token(&self.services, request, call.origin));
        }
        let (first, path) = match &parts[..] {
            ["api", "v1", path @ ..] | ["v1", path @ ..] => (true, path),
            ["api", "v2", path @ ..] => (false, path),
            _ => return Err(PdError::no_path()),
        };
        self.admit(request)?;
        let now = self.services.clock.now();
        let cost = cost(request.method.as_str(), path, first);
        let response = match self.services.budget.charge(now, cost) {
            Verdict::Granted => self
                .resource(call, path, first)
                .unwrap_or_else(|error| error.response()),
            Verdict::DaySpent | Verdict::IntervalSpent { .. } => limited(),
        };
        Ok(self.with_rates(response))
    }

    fn resource(&self, call: &Call<'_>, path: &[&str], first: bool) -> Answer {
        let request = call.request;
        let mut store = self.store.lock();
        let now = self.services.clock.now();
        // Searches ask an index that may be behind.
        let until = now - self.services.settings.read().search_lag_ms;
        match (first, request.method.as_str(), path) {
            (true, "GET", ["users", "me"]) => return Ok(me()),
            (true, "GET", ["recents"]) => return lists::recents(&store, request),
            (false, "GET", ["itemSearch"]) => return search::items(&store, request, None, until),
            (false, "GET", ["itemSearch", "field"]) => {
                return seek::by_field(&store, request, until);
            }
            (
                false,
                "GET",
                [
                    name @ ("deals" | "persons" | "organizations" | "products" | "leads"),
                    "search",
                ],
            ) => {
                let object = store.object(name).ok_or_else(PdError::no_path)?;
                return search::items(&store, request, Some(object), until);
            }
            (true, method, ["filters", rest @ ..]) => {
                let mut filters = self.filters.lock();
                return filters.answer(&store, request, method, rest, now);
            }
            (
                true,
                "GET",
                [
                    name @ ("deals" | "persons" | "organizations"),
                    id,
                    "changelog",
                ],
            ) => {
                let object = store.object(name).ok_or_else(PdError::no_path)?;
                let slot = located(object, id)?;
                return lists::changelog(object, request, slot);
            }
            _ => {}
        }
        let [name, rest @ ..] = path else {
            return Err(PdError::no_path());
        };
        if let Some(object) = fields::listed(&store, name, first) {
            return match (request.method.as_str(), rest) {
                ("GET", []) => fields::list(object, request, first),
                ("GET", [code]) if !first => fields::read(object, code),
                _ => Err(PdError::no_path()),
            };
        }
        let object = store
            .object_mut(name)
            .filter(|object| account::is_first(&object.def.name) == first);
        let object = object.ok_or_else(PdError::no_path)?;
        let writer = Writer {
            stamp: Stamp {
                at: self.services.clock.now(),
                by: Actor::Integration,
            },
            records: call.records,
        };
        let update = match *name {
            "notes" => "PUT",
            _ => "PATCH",
        };
        match (request.method.as_str(), rest) {
            ("GET", []) if first => lists::list_first(object, request),
            ("GET", []) => lists::list(object, request, false, &self.filters.lock()),
            ("GET", ["archived"]) if *name == "deals" => {
                lists::list(object, request, true, &self.filters.lock())
            }
            ("POST", []) => create(object, request, &writer),
            ("GET", [id]) => read(object, request, id),
            (method, [id]) if method == update => change(object, request, id, &writer),
            ("DELETE", [id]) => delete(object, id, &writer),
            (_, [] | [_]) => Err(PdError::new(405, "Method not allowed")),
            _ => Err(PdError::no_path()),
        }
    }

    fn admit(&self, request: &Request) -> Result<(), PdError> {
        let given = request
            .header("x-api-token")
            .filter(|token| !token.starts_with(GRANTED));
        let granted = request.bearer().filter(|token| token.starts_with(GRANTED));
        let token = given.or(granted).ok_or_else(unauthorised)?;
        match self
            .services
            .tokens
            .standing(token, self.services.clock.now())
        {
            Standing::Valid => Ok(()),
            Standing::Expired { .. } | Standing::Unknown => Err(unauthorised()),
        }
    }

    fn with_rates(&self, response: Response) -> Response {
        let meter = self.services.budget.meter();
        let left = meter.interval_ms - self.services.clock.now().rem_euclid(meter.interval_ms);
        response
            .with("x-ratelimit-limit", meter.interval_limit.to_string())
            .with("x-ratelimit-remaining", meter.interval_left().to_string())
            .with("x-ratelimit-reset", (left / 1000 + 1).to_string())
            .with(
                "x-daily-ratelimit-token-limit",
                meter.daily_limit.to_string(),
            )
            .with(
                "x-daily-ratelimit-token-remaining",
                meter.daily_left().to_string(),
            )
    }
}

/// Tokens of the day's budget ("Rate limiting"): twice as many in version 1.
fn cost(method: &str, path: &[&str], first: bool) -> u64 {
    let cost = match (method, path) {
        ("GET", ["itemSearch", ..] | [_, "search"]) => 20,
        ("GET", ["filters", _]) => 1,
        ("GET", ["users", "me"]) => 1,
        ("GET", [_] | [_, "archived"] | [_, _, "changelog"]) => 10,
        ("GET", _) => 1,
        ("DELETE", _) => 3,
        _ => 5,
    };
    match first {
        true => 2 * cost,
        false => cost,
    }
}

fn data(status: u16, data: &Json) -> Response {
    Response::json(status, &json!({"success": true, "data": data}))
}

fn me() -> Response {
    data(
        200,
        &json!({
            "id": account::USER, "name": "Integration", "company_id": account::COMPANY,
            "company_name": "Simulated Company", "company_domain": "simulated",
        }),
    )
}

fn located(object: &Object, id: &str) -> Result<u32, PdError> {
    if !account::is_first(&object.def.name) && id.parse::<u32>().is_err() {
        return Err(PdError::schema(&["id: Invalid number".to_owned()]));
    }
    account::slot(object, id).ok_or_else(|| PdError::not_found(account::word(object)))
}

fn live(object: &Object, id: &str) -> Result<u32, PdError> {
    let slot = located(object, id)?;
    match object.live(slot) {
        Some(_) => Ok(slot),
        None => Err(PdError::not_found(account::word(object))),
    }
}

fn create(object: &mut Object, request: &Request, writer: &Writer<'_>) -> Answer {
    let change = save::change_of(object, &save::body(&request.body)?)?;
    save::require(object, &change)?;
    save::strike(object, None, &change, writer)?;
    let slot = object.insert(change, writer.stamp).map_err(|_| taken())?;
    Ok(data(201, &account::show(object, slot, &[])))
}

fn read(object: &Object, request: &Request, id: &str) -> Answer {
    let known: &[&str] = match object.def.name.as_str() {
        "deals" | "persons" | "organizations" => &["include_fields", "custom_fields"],
        _ => &[],
    };
    let custom = Params::of(request, known)?.custom_fields()?;
    // A deleted deal is shown as such; others are not found.
    let slot = match object.def.name.as_str() {
        "deals" => located(object, id)?,
        _ => live(object, id)?,
    };
    Ok(data(200, &account::show(object, slot, &custom)))
}

fn change(object: &mut Object, request: &Request, id: &str, writer: &Writer<'_>) -> Answer {
    let slot = live(object, id)?;
    let change = save::change_of(object, &save::body(&request.body)?)?;
    save::strike(object, Some(slot), &change, writer)?;
    object
        .update(slot, change, writer.stamp)
        .map_err(|_| taken())?;
    Ok(data(200, &account::show(object, slot, &[])))
}

fn delete(object: &mut Object, id: &str, writer: &Writer<'_>) -> Answer {
    let slot = live(object, id)?;
    save::strike(object, Some(slot), &Vec::new(), writer)?;
    object
        .set_life(slot, Life::Deleted, writer.stamp)
        .map_err(|_| taken())?;
    let id = account::show(object, slot, &[])["id"].take();
    Ok(data(200, &json!({"id": id})))
}

/// No field of Pipedrive's is unique, unless a test defines one.
fn taken() -> PdError {
    PdError::new(409, "The value is taken")
}

fn unauthorised() -> PdError {
    PdError::new(401, "unauthorized access")
}

fn limited() -> Response {
    PdError::new(429, "request over limit").response()
}

impl Vendor for Pipedrive {
    fn name(&self) -> &'static str {
        "pipedrive"
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
            401 => unauthorised(),
            402 => PdError::new(402, "company subscription has ended"),
            // The network in front blocks who does not heed 429s.
            403 => {
                let page = "<html><head><title>Access denied</title></head><body></body></html>";
                return Response::bytes(403, "text/html", page);
            }
            404 => PdError::not_found("item"),
            409 => PdError::new(409, "The record is being changed"),
            429 => return limited().with("x-ratelimit-reset", "1"),
            400..500 => PdError::new(status, "Bad request"),
            502..=504 | 521..=524 => {
                let page =
                    format!("<html><head><title>{status}</title></head><body></body></html>");
                return Response::bytes(status, "text/html", page);
            }
            _ => PdError::new(status, "Internal error"),
        };
        error.response()
    }

    fn blank_object(&self, name: &str) -> ObjectDef {
        account::blank(name)
    }

    fn define(&self, def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), SchemaError> {
        account::define(def, spec)
    }

    fn reset(&self) {
        *self.store.lock() = account::built_in();
        *self.filters.lock() = Filters::default();
    }

    fn id(&self, object: &Object, slot: u32) -> String {
        account::record_id(object, slot)
    }

    fn slot(&self, object: &Object, id: &str) -> Option<u32> {
        account::slot(object, id)
    }

    fn show(&self, object: &Object, slot: u32) -> Map<String, Json> {
        let own = object.def.visible().filter(|(_, field)| field.writable());
        let held =
            own.map(|(at, field)| (field.name().to_owned(), account::held(object, slot, at)));
        held.filter(|(_, value)| !value.is_null()).collect()
    }

    fn merges(&self, object: &Object) -> bool {
        matches!(
            object.def.name.as_str(),
            "deals" | "persons" | "organizations"
        )
    }

    fn events(&self, object: &Object, note: &Note, number: &dyn Fn() -> u64) -> Vec<Json> {
        webhooks::events(object, note, number)
    }

    fn one_event_a_post(&self) -> bool {
        true
    }

    fn signature(&self, secret: &str, _: &str, _: &str, _: i64) -> Vec<(&'static str, String)> {
        webhooks::signature(secret)
    }

    fn edit(&self, object: &Object, fields: &Map<String, Json>, _: bool) -> Result<Change, String> {
        save::change_of_flat(object, fields).map_err(|breaches| breaches.join("; "))
    }

    fn keeps_history(&self) -> bool {
        true
    }
}
