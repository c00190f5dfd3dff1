//! Zoho CRM, version 8: records, bulk write jobs, COQL, searches, deleted records, timelines, and
//! OAuth whose refusals are 200s.
//!
//! Guarantees: every call but the token endpoint needs a token in Zoho's own scheme and costs
//! credits; what is left of them is told once half are spent.

mod bulk;
mod coql;
mod error;
mod key;
mod links;
mod org;
mod paging;
mod records;
mod save;
mod search;
mod settings;

use crate::budget::{Budget, Verdict};
use crate::clock::Clock;
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError};
use crate::store::{Actor, Change, Event, Note, Object, Stamp, Store};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Call, Services, Vendor};
use error::ZohoError;
use org::record_id;
use parking_lot::Mutex;
use save::{Verb, Writer};
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;

type Answer = Result<Response, ZohoError>;

pub struct Zoho {
    services: Services,
    store: Arc<Mutex<Store>>,
    jobs: bulk::Shared,
}

impl Zoho {
    pub fn new(clock: Arc<Clock>) -> Self {
        let defaults = Defaults {
            access: "zoho-token",
            refresh: "zoho-refresh",
            client_id: "zoho-client",
            client_secret: "zoho-secret",
            lifetime_s: Some(3600),
        };
        let budget = Budget::new(10_000_000, 1_000_000, 1_000);
        Self {
            services: Services::new("zoho", clock, defaults, budget),
            store: Arc::new(Mutex::new(org::built_in())),
            jobs: bulk::Shared::default(),
        }
    }

    fn route(&self, call: &Call<'_>) -> Answer {
        let request = call.request;
        let segments = request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let ["oauth", "v2", "token"] = &parts[..] {
            return Ok(self.token(request, call.origin));
        }
        self.admit(request)?;
        self.charge(1)?;
        if let Some(answer) = bulk::answer(self, call, &parts) {
            return answer;
        }
        let ["crm", "v8", path @ ..] = &parts[..] else {
            return Err(ZohoError::no_path());
        };
        self.resource(call, path)
    }

    fn charge(&self, credits: u64) -> Result<(), ZohoError> {
        let now = self.services.clock.now();
        match self.services.budget.charge(now, credits) {
            Verdict::Granted => Ok(()),
            Verdict::DaySpent | Verdict::IntervalSpent { .. } => Err(limited()),
        }
    }

    fn resource(&self, call: &Call<'_>, path: &[&str]) -> Answer {
        let request = call.request;
        let mut store = self.store.lock();
        match (request.method.as_str(), path) {
            ("POST", ["coql"]) => return records::query(&store, request),
            ("GET", ["users"]) => {
                let users = json!({"users": [org::user(Actor::Integration)]});
                return Ok(Response::json(200, &users));
            }
            _ => {}
        }
        if let ("GET", ["settings", what]) = (request.method.as_str(), path) {
            let name = request.param("module").unwrap_or_default();
            let shown = match *what {
                "modules" => settings::modules(&store),
                "fields" => settings::fields(store.object(&name).ok_or_else(ZohoError::no_module)?),
                _ => return Err(ZohoError::no_path()),
            };
            return Ok(Response::json(200, &shown));
        }
        let [name, rest @ ..] = path else {
            return Err(ZohoError::no_path());
        };
        let at = store.position(name).ok_or_else(ZohoError::no_module)?;
        let now = self.services.clock.now();
        let writer = Writer {
            stamp: Stamp {
                at: now,
                by: Actor::Integration,
            },
            records: call.records,
        };
        // Searches ask an index that may be behind.
        let until = now - self.services.settings.read().search_lag_ms;
        let object = &mut store.objects[at];
        match (request.method.as_str(), rest) {
            ("GET", []) => records::list(object, request, now),
            ("POST", []) => records::write(&mut store, at, request, Verb::Insert, &writer),
            ("PUT", []) => records::write(&mut store, at, request, Verb::Update, &writer),
            ("POST", ["upsert"]) => records::write(&mut store, at, request, Verb::Upsert, &writer),
            ("DELETE", []) => records::delete(object, request, &writer),
            ("GET", ["actions", "count"]) => {
                let all =
                    (0..object.records.len() as u32).filter(|slot| object.live(*slot).is_some());
                let found = search::found(object, request, until)?;
                let count = found.map_or_else(|| all.count(), |found| found.len());
                Ok(Response::json(200, &json!({"count": count})))
            }
            ("GET", ["search"]) => search::search(object, request, until),
            ("GET", ["deleted"]) => records::deleted(object, request),
            ("GET", [id, "__timeline"]) => records::timeline(object, id),
            ("GET", [id]) => records::read(object, request, id),
            ("PUT", [id]) => records::write_one(&mut store, at, request, id, &writer),
            ("DELETE", [id]) => records::delete_one(object, request, id, &writer),
            _ => Err(ZohoError::no_path()),
        }
    }

    fn admit(&self, request: &Request) -> Result<(), ZohoError> {
        let given = request.header("authorization").unwrap_or_default();
        let token = given.strip_prefix("Zoho-oauthtoken ");
        let now = self.services.clock.now();
        let standing = token.map(|token| self.services.tokens.standing(token, now));
        match standing {
            Some(Standing::Valid) => Ok(()),
            Some(_) => Err(ZohoError::new(401, "INVALID_TOKEN", "invalid oauth token")),
            None => Err(ZohoError::new(
                401,
                "AUTHENTICATION_FAILURE",
                "Authentication failed",
            )),
        }
    }

    /// A refusal is a 200, too.
    fn token(&self, request: &Request, origin: &str) -> Response {
        let tokens = &self.services.tokens;
        let form: HashMap<String, String> = request.form().into_iter().collect();
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        let refused = |error: &str| Response::json(200, &json!({"error": error}));
        if !tokens.client_known(field("client_id"), Some(field("client_secret"))) {
            return refused("invalid_client");
        }
        if field("grant_type") != "refresh_token" || !tokens.refresh_known(field("refresh_token")) {
            return refused("invalid_code");
        }
        let issued = tokens.issue(None, self.services.clock.now());
        Response::json(
            200,
            &json!({
                "access_token": issued.access,
                "api_domain": origin,
                "token_type": "Bearer",
                "expires_in": issued.lifetime_s.unwrap_or(3600),
            }),
        )
    }

    fn with_credits(&self, response: Response) -> Response {
        let meter = self.services.budget.meter();
        match meter.daily_used * 2 > meter.daily_limit {
            true => response.with("X-API-CREDITS-REMAINING", meter.daily_left().to_string()),
            false => response,
        }
    }
}

fn limited() -> ZohoError {
    ZohoError::new(
        429,
        "TOO_MANY_REQUESTS",
        "You have exceeded the limit of requests",
    )
}

impl Vendor for Zoho {
    fn name(&self) -> &'static str {
        "zoho"
    }

    fn services(&self) -> &Services {
        &self.services
    }

    fn store(&self) -> &Mutex<Store> {
        &self.store
    }

    fn answer(&self, call: &Call<'_>) -> Response {
        let answer = self.route(call);
        self.with_credits(answer.unwrap_or_else(|error| error.response()))
    }

    fn failure(&self, status: u16) -> Response {
        let error = match status {
            401 => ZohoError::new(401, "INVALID_TOKEN", "invalid oauth token"),
            403 => ZohoError::new(403, "NO_PERMISSION", "permission denied"),
            404 => ZohoError::no_path(),
            412 => ZohoError::new(412, "ALREADY_MODIFIED", "the record was modified already"),
            429 => limited(),
            400..500 => ZohoError::new(status, "INVALID_DATA", "invalid data"),
            502..=504 => {
                let page = format!("<html><head><title>{status}</title></head></html>");
                return Response::bytes(status, "text/html", page);
            }
            _ => ZohoError::new(status, "INTERNAL_ERROR", "Internal Server Error"),
        };
        error.response()
    }

    fn blank_object(&self, name: &str) -> ObjectDef {
        org::blank(name)
    }

    fn define(&self, def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), SchemaError> {
        org::define(def, spec)
    }

    fn reset(&self) {
        *self.jobs.lock() = Default::default();
        *self.store.lock() = org::built_in();
    }

    fn id(&self, object: &Object, slot: u32) -> String {
        record_id(object, slot)
    }

    fn slot(&self, object: &Object, id: &str) -> Option<u32> {
        org::slot(object, id)
    }

    fn show(&self, object: &Object, slot: u32) -> Map<String, Json> {
        let own = object.def.visible().filter(|(_, field)| field.writable());
        let held = own.map(|(at, field)| (field.name().to_owned(), org::held(object, slot, at)));
        held.filter(|(_, value)| !value.is_null()).collect()
    }

    fn merges(&self, _: &Object) -> bool {
        false
    }

    fn events(&self, object: &Object, note: &Note, _: &dyn Fn() -> u64) -> Vec<Json> {
        let operation = match &note.event {
            Event::Created => "insert",
            Event::Deleted => "delete",
            Event::Updated(_) | Event::Restored | Event::Merged(_) => "update",
        };
        vec![json!({
            "server_time": note.at,
            "module": object.def.name,
            "ids": [record_id(object, note.slot)],
            "operation": operation,
            "channel_id": "1105250000000000001",
            "affected_fields": [],
            "query_params": {},
            "resource_uri": format!("https://www.zohoapis.com/crm/v2/{}", object.def.name),
        })]
    }

    fn one_event_a_post(&self) -> bool {
        true
    }

    /// The token stands in the body.
    fn seal(&self, secret: &str, event: &mut Json) {
        event["token"] = secret.into();
    }

    fn signature(&self, _: &str, _: &str, _: &str, _: i64) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn edit(&self, object: &Object, fields: &Map<String, Json>, _: bool) -> Result<Change, String> {
        let unknown = fields.keys().find(|name| object.def.field(name).is_none());
        if let Some(name) = unknown {
            return Err(format!("there is no field {name}"));
        }
        save::change_of(object, fields).map_err(|error| error.shown().to_string())
    }

    fn keeps_history(&self) -> bool {
        true
    }
}
