//! Zoho CRM, version 8: records, bulk write jobs, COQL, deleted records, timelines, and OAuth whose refusals are 200s.
//!
//! Guarantees: every call but the token endpoint needs a token in Zoho's own scheme and costs credits; what
//! is left of them is told once half are spent.

mod bulk;
mod coql;
mod error;
mod org;
mod save;
mod settings;

use crate::budget::{Budget, Verdict};
use crate::clock::{self, Clock};
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError};
use crate::store::{Actor, Change, Event, Note, Object, Stamp, Store};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Call, Services, Vendor};
use error::ZohoError;
use org::{floor, moment, record_id};
use parking_lot::Mutex;
use save::{Verb, Writer};
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;

const BATCH: usize = 100;
const PAGE: usize = 200;
const FIELDS: usize = 50;

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
            ("POST", ["coql"]) => return query(&store, request),
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
        let object = store.object_mut(name).ok_or_else(ZohoError::no_module)?;
        let writer = Writer {
            stamp: Stamp {
                at: self.services.clock.now(),
                by: Actor::Integration,
            },
            records: call.records,
        };
        match (request.method.as_str(), rest) {
            ("GET", []) => list(object, request),
            ("POST", []) => write(object, request, Verb::Insert, &writer),
            ("PUT", []) => write(object, request, Verb::Update, &writer),
            ("POST", ["upsert"]) => write(object, request, Verb::Upsert, &writer),
            ("DELETE", []) => delete(object, request, &writer),
            ("GET", ["actions", "count"]) => {
                let live =
                    (0..object.records.len() as u32).filter(|slot| object.live(*slot).is_some());
                Ok(Response::json(200, &json!({"count": live.count()})))
            }
            ("GET", ["deleted"]) => deleted(object, request),
            ("GET", [id, "__timeline"]) => timeline(object, id),
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

/// The record of that id that is not deleted.
fn live(object: &Object, id: &str) -> Option<u32> {
    org::slot(object, id).filter(|slot| object.live(*slot).is_some())
}

fn limited() -> ZohoError {
    ZohoError::new(
        429,
        "TOO_MANY_REQUESTS",
        "You have exceeded the limit of requests",
    )
}

fn number(request: &Request, name: &str, most: usize) -> Result<usize, ZohoError> {
    let Some(text) = request.param(name) else {
        return Ok(if name == "page" { 1 } else { PAGE });
    };
    let told = text.parse().ok().filter(|n| (1..=most).contains(n));
    let wrong = || ZohoError::new(400, "INVALID_DATA", "the value given seems to be invalid");
    told.ok_or_else(|| wrong().with(json!({"param_name": name})))
}

/// Records in a page of answers; none at all is an answer without a body.
fn paged(mut records: Vec<Json>, page: usize, per_page: usize) -> Response {
    let start = (page - 1) * per_page;
    let more = records.len() > start + per_page;
    let shown: Vec<Json> = records.drain(..).skip(start).take(per_page).collect();
    match shown.len() {
        0 => Response::empty(204),
        count => Response::json(
            200,
            &json!({"data": shown, "info": {"per_page": per_page, "count": count, "page": page, "more_records": more}}),
        ),
    }
}

fn list(object: &Object, request: &Request) -> Answer {
    let names = request.list("fields");
    if names.is_empty() {
        let missing = ZohoError::new(
            400,
            "REQUIRED_PARAM_MISSING",
            "One of the expected parameter is missing",
        );
        return Err(missing.with(json!({"param_name": "fields"})));
    }
    let ids = request.list("ids");
    if names.len() > FIELDS || ids.len() > BATCH {
        return Err(ZohoError::new(
            400,
            "LIMIT_EXCEEDED",
            "too many fields or ids",
        ));
    }
    let slots = (0..object.records.len() as u32).filter(|slot| {
        object.live(*slot).is_some() && (ids.is_empty() || ids.contains(&record_id(object, *slot)))
    });
    let records = slots.map(|slot| org::show(object, slot, &names)).collect();
    Ok(paged(
        records,
        number(request, "page", 10)?,
        number(request, "per_page", PAGE)?,
    ))
}

fn query(store: &Store, request: &Request) -> Answer {
    let body: Json = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = body["select_query"].as_str().unwrap_or_default();
    let query = coql::parse(text)?;
    let found = query.run(store)?;
    let object = store
        .object(&query.module)
        .ok_or_else(ZohoError::no_module)?;
    let records = found
        .iter()
        .map(|slot| org::show(object, *slot, &query.columns))
        .collect();
    Ok(paged(records, 1, query.limit))
}

fn write(object: &mut Object, request: &Request, verb: Verb, writer: &Writer<'_>) -> Answer {
    let body: Json = serde_json::from_slice(&request.body)
        .map_err(|_| ZohoError::new(400, "INVALID_DATA", "invalid data"))?;
    let Some(items) = body["data"].as_array().filter(|items| !items.is_empty()) else {
        let missing = ZohoError::new(400, "MANDATORY_NOT_FOUND", "required field not found");
        return Err(missing.with(json!({"api_name": "data"})));
    };
    if items.len() > BATCH {
        let error = ZohoError::new(400, "INVALID_DATA", "invalid data");
        return Err(error.with(json!({"api_name": "data", "maximum_length": BATCH})));
    }
    if let (Some(text), [item]) = (request.header("if-unmodified-since"), &items[..]) {
        let since = clock::parse_time(text);
        let slot = save::id_of(item).and_then(|id| live(object, &id));
        let changed = slot.map(|slot| floor(object.records[slot as usize].modified));
        if changed
            .zip(since)
            .is_some_and(|(changed, since)| changed > since)
        {
            return Err(ZohoError::new(
                412,
                "ALREADY_MODIFIED",
                "the record was modified already",
            ));
        }
    }
    let keys: Vec<String> =
        serde_json::from_value(body["duplicate_check_fields"].clone()).unwrap_or_default();
    let told = items
        .iter()
        .enumerate()
        .map(|(index, item)| save::save(object, verb, index, item, &keys, writer));
    Ok(outcomes(told.collect()))
}

fn delete(object: &mut Object, request: &Request, writer: &Writer<'_>) -> Answer {
    let ids = request.list("ids");
    if ids.is_empty() || ids.len() > BATCH {
        return Err(ZohoError::new(400, "REQUIRED_PARAM_MISSING", "ids"));
    }
    let told = ids
        .iter()
        .enumerate()
        .map(|(index, id)| save::delete(object, index, id, writer));
    Ok(outcomes(told.collect()))
}

/// The status is as little to be relied upon as Zoho's.
fn outcomes(told: Vec<Result<Json, ZohoError>>) -> Response {
    let good = told.iter().filter(|outcome| outcome.is_ok()).count();
    let status = match (good, told.len()) {
        (0, _) => 202,
        (good, all) if good == all => 200,
        _ => 207,
    };
    let shown: Vec<Json> = told
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|error| error.shown()))
        .collect();
    Response::json(status, &json!({"data": shown}))
}

fn deleted(object: &Object, request: &Request) -> Answer {
    let since = request
        .header("if-modified-since")
        .and_then(clock::parse_time);
    let slots = object
        .deleted_since(since.unwrap_or(0))
        .map(|(_, slot)| slot);
    let records = slots.map(|slot| {
        let record = &object.records[slot as usize];
        json!({
            "id": record_id(object, slot), "type": "recycle", "display_name": "x",
            "deleted_by": org::user(record.modified_by), "deleted_time": moment(record.modified),
        })
    });
    let (page, per_page) = (
        number(request, "page", 1000)?,
        number(request, "per_page", PAGE)?,
    );
    Ok(paged(records.collect(), page, per_page))
}

/// Each change of a record, newest first.
fn timeline(object: &Object, id: &str) -> Answer {
    let invalid = || {
        ZohoError::new(
            400,
            "INVALID_DATA",
            "the related id given seems to be invalid",
        )
    };
    let slot = live(object, id).ok_or_else(invalid)?;
    let history = &object.records[slot as usize].history;
    let mut entries: Vec<Json> = Vec::new();
    for (n, past) in history.iter().enumerate() {
        let field = &object.def.fields[past.field as usize];
        let before = history[..n]
            .iter()
            .rev()
            .find(|held| held.field == past.field);
        let text = |value: Option<&crate::value::Value>| match value
            .map(|value| org::spelled(field, value))
        {
            None => Json::Null,
            Some(Json::String(text)) => text.into(),
            Some(other) => other.to_string().into(),
        };
        let source = match past.by {
            Actor::Integration => "crm_api",
            Actor::Human => "crm_ui",
        };
        entries.push(json!({
            "audited_time": moment(past.at), "action": "updated", "source": source,
            "done_by": org::user(past.by),
            "field_history": [{"api_name": field.name(), "data_type": field.spec.native, "_value": {
                "old": text(before.and_then(|held| held.value.as_ref())), "new": text(past.value.as_ref()),
            }}],
        }));
    }
    entries.reverse();
    entries.truncate(PAGE);
    match entries.is_empty() {
        true => Ok(Response::empty(204)),
        false => Ok(Response::json(
            200,
            &json!({"__timeline": entries, "info": {"more_records": false}}),
        )),
    }
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
