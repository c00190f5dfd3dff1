//! Salesforce: REST API, Collections, Bulk API 2.0 and OAuth, versions 50 to 67.
//!
//! Guarantees: every answer but the list of versions needs a valid token and counts against the
//! daily budget, and says so in `Sforce-Limit-Info`.

mod bulk;
mod collections;
mod composite;
mod describe;
mod duplicates;
mod error;
mod form;
mod gate;
mod id;
mod limits;
mod oauth;
mod org;
mod query;
mod reference;
mod retrieve;
mod rows;
mod save;
mod soql;

use crate::budget::{Budget, Verdict};
use crate::clock::Clock;
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError, Source};
use crate::store::{Actor, Change, Event, Note, Object, Stamp, Store};
use crate::tokens::{Defaults, Standing};
use crate::value::Raw;
use crate::vendor::{Call, Services, Vendor};
use crate::webhooks::hmac_sha256;
use error::SfError;
use parking_lot::Mutex;
use rows::Rows;
use save::Writer;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

const VERSIONS: std::ops::RangeInclusive<u32> = 50..=67;

type Answer = Result<Response, SfError>;

/// What outlives a request: the bulk jobs' threads hold on to it.
pub struct Org {
    services: Services,
    store: Mutex<Store>,
    jobs: bulk::Jobs,
    cursors: query::Cursors,
}

pub struct Salesforce(Arc<Org>);

impl Salesforce {
    pub fn new(clock: Arc<Clock>) -> Self {
        let defaults = Defaults {
            access: "sf-token",
            refresh: "sf-refresh",
            client_id: "sf-client",
            client_secret: "sf-secret",
            lifetime_s: None,
        };
        let budget = Budget::new(10_000_000, u64::MAX, 1000);
        Self(Arc::new(Org {
            services: Services::new("salesforce", clock, defaults, budget),
            store: Mutex::new(org::built_in()),
            jobs: bulk::Jobs::default(),
            cursors: query::Cursors::default(),
        }))
    }

    fn route(&self, call: &Call<'_>) -> Answer {
        let request = call.request;
        let segments = request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        match parts[..] {
            ["services", "oauth2", "token"] => {
                return Ok(oauth::token(&self.0.services, request, call.origin));
            }
            ["services", "data"] => return Ok(versions()),
            _ => {}
        }
        self.admit(request)?;
        gate::check_size(request)?;
        gate::check_type(request)?;
        if let ["id", _, user] = parts[..] {
            return Ok(describe::identity(user, call.origin));
        }
        let ["services", "data", version, ref path @ ..] = parts[..] else {
            return Err(SfError::not_found());
        };
        if !known_version(version) {
            return Err(SfError::not_found());
        }
        if path.is_empty() {
            return Ok(describe::resources(version, call.origin));
        }
        self.resource(request, version, path, call.records)
            .map(|response| response.with("Sforce-Limit-Info", self.limit_info()))
    }

    /// One resource of one version; Composite comes in here with its subrequests.
    fn resource(
        &self,
        request: &Request,
        version: &str,
        path: &[&str],
        records: &RecordFaults,
    ) -> Answer {
        let writer = Writer {
            stamp: Stamp {
                at: self.0.services.clock.now(),
                by: Actor::Integration,
            },
            records,
            duplicates: duplicates::allowed(request),
        };
        match path {
            ["limits"] => Ok(self.limits()),
            ["limits", "recordCount"] => Ok(self.record_count(request)),
            ["query" | "queryAll", ..] => query::answer(&self.0, request, version, path),
            ["jobs", "ingest", path @ ..] => bulk::ingest(&self.0, request, version, path, records),
            ["jobs", "query", path @ ..] => bulk::query(&self.0, request, version, path),
            ["composite", ..] if path.get(1) != Some(&"sobjects") => {
                self.composite(request, path, &writer)
            }
            ["composite", "sobjects", path @ ..] => {
                let mut store = self.0.store.lock();
                collections::answer(&mut store, request, path, version, &writer)
            }
            ["sobjects", path @ ..] => self.sobjects(request, version, path, writer),
            _ => Err(SfError::not_found()),
        }
    }

    fn composite(&self, request: &Request, path: &[&str], writer: &Writer<'_>) -> Answer {
        if request.method != "POST" {
            return Err(SfError::method(request.method.as_str(), "POST"));
        }
        match path {
            ["composite"] => composite::answer(self, request, writer.records),
            ["composite", "graph"] => composite::graph(self, request, writer.records),
            ["composite", "batch"] => composite::batch(self, request, writer.records),
            ["composite", "tree", name] => {
                composite::tree(&mut self.0.store.lock(), request, name, writer)
            }
            _ => Err(SfError::not_found()),
        }
    }

    fn sobjects(
        &self,
        request: &Request,
        version: &str,
        path: &[&str],
        writer: Writer<'_>,
    ) -> Answer {
        let mut store = self.0.store.lock();
        let [name, rest @ ..] = path else {
            return Ok(describe::global(&store, request, version));
        };
        let at = store.position(name).ok_or_else(SfError::not_found)?;
        let rows = Rows {
            request,
            version,
            writer,
        };
        match (request.method.as_str(), rest) {
            ("GET", []) => Ok(describe::basic(&store.objects[at], version)),
            ("POST", []) => rows.create(&mut store, at),
            (method, []) => Err(SfError::method(method, "HEAD,GET,POST")),
            ("GET", ["describe"]) => Ok(describe::object(&store, at, request, version)),
            ("GET", ["updated" | "deleted"]) => {
                query::replicated(&store.objects[at], request, rest[0] == "deleted")
            }
            (_, [id]) if *id == "Id" => rows.by_external_id(&mut store, at, "Id", ""),
            (_, [id]) => rows.by_id(&mut store, at, id),
            (_, [key, value]) => rows.by_external_id(&mut store, at, key, value),
            _ => Err(SfError::not_found()),
        }
    }

    fn admit(&self, request: &Request) -> Result<(), SfError> {
        let services = &self.0.services;
        let now = services.clock.now();
        let standing = request
            .bearer()
            .map(|token| services.tokens.standing(token, now));
        if standing != Some(Standing::Valid) {
            return Err(expired());
        }
        match services.budget.charge(now, 1) {
            Verdict::Granted => Ok(()),
            Verdict::DaySpent | Verdict::IntervalSpent { .. } => Err(limit_exceeded()),
        }
    }

    fn snapshot(&self) -> Store {
        self.0.store.lock().clone()
    }

    fn restore(&self, store: Store) {
        *self.0.store.lock() = store;
    }
}

impl Vendor for Salesforce {
    fn name(&self) -> &'static str {
        "salesforce"
    }

    fn services(&self) -> &Services {
        &self.0.services
    }

    fn store(&self) -> &Mutex<Store> {
        &self.0.store
    }

    fn answer(&self, call: &Call<'_>) -> Response {
        self.route(call).unwrap_or_else(|error| {
            let response = error.response();
            match error.status {
                401 => response,
                _ => response.with("Sforce-Limit-Info", self.limit_info()),
            }
        })
    }

    fn failure(&self, status: u16) -> Response {
        let error = match status {
            401 => expired(),
            403 => limit_exceeded(),
            404 => SfError::not_found(),
            400 => SfError::new(
                400,
                "UNABLE_TO_LOCK_ROW",
                "unable to obtain exclusive access to this record or 1 records",
            ),
            503 => SfError::new(503, "SERVER_UNAVAILABLE", "The server is too busy"),
            _ => SfError::new(status, "UNKNOWN_EXCEPTION", "An unexpected error occurred"),
        };
        error.response()
    }

    fn blank_object(&self, name: &str) -> ObjectDef {
        org::blank(name)
    }

    fn define(&self, def: &mut ObjectDef, spec: &ObjectSpec) -> Result<(), SchemaError> {
        def.define(spec, &org::Types)
    }

    fn reset(&self) {
        self.0.jobs.reset();
        self.0.cursors.reset();
        *self.0.store.lock() = org::built_in();
    }

    fn id(&self, object: &Object, slot: u32) -> String {
        org::record_id(object, slot)
    }

    fn slot(&self, object: &Object, id: &str) -> Option<u32> {
        org::slot(object, id)
    }

    fn show(&self, object: &Object, slot: u32) -> Map<String, Json> {
        let mut shown = Map::new();
        for (at, field) in object.def.visible() {
            let value = org::read(object, slot, at);
            if value.is_some() && field.source != Source::Id {
                let cell = org::Cell(value, field.kind);
                let cell = serde_json::to_value(cell).expect("a cell serialises");
                shown.insert(field.name().to_owned(), cell);
            }
        }
        shown
    }

    fn merges(&self, object: &Object) -> bool {
        org::mergeable(&object.def.name)
    }

    /// Salesforce sends none itself: this is what a relay of its change events posts.
    fn events(&self, object: &Object, note: &Note, number: &dyn Fn() -> u64) -> Vec<Json> {
        let event = |slot: u32, kind: &str| {
            json!({
                "eventId": format!("e{}", number()),
                "object": object.def.name,
                "id": org::record_id(object, slot),
                "changeType": kind,
                "occurredAt": crate::clock::iso(note.at),
            })
        };
        match &note.event {
            Event::Created => vec![event(note.slot, "CREATE")],
            Event::Updated(_) => vec![event(note.slot, "UPDATE")],
            Event::Deleted => vec![event(note.slot, "DELETE")],
            Event::Restored => vec![event(note.slot, "UNDELETE")],
            Event::Merged(from) => {
                let losers = from.iter().map(|slot| event(*slot, "MERGE"));
                losers.chain([event(note.slot, "UPDATE")]).collect()
            }
        }
    }

    fn signature(
        &self,
        secret: &str,
        _url: &str,
        body: &str,
        now: i64,
    ) -> Vec<(&'static str, String)> {
        let signature = hmac_sha256(secret, &format!("{now}.{body}"));
        vec![
            ("X-PgCrm-Timestamp", now.to_string()),
            (
                "X-PgCrm-Signature",
                format!("sha256={}", hex::encode(signature)),
            ),
        ]
    }

    fn edit(
        &self,
        object: &Object,
        fields: &Map<String, Json>,
        creating: bool,
    ) -> Result<Change, String> {
        // The store is locked by the caller, so references are taken on trust.
        let store = Store::default();
        let mut change = Change::new();
        for (name, value) in fields {
            let raw = Raw::from(value);
            let cell = save::cell(&store, object, name, raw, creating);
            change.push(cell.map_err(|error| error.to_string())?);
        }
        Ok(change)
    }
}

fn versions() -> Response {
    let list: Vec<_> = VERSIONS
        .map(|version| {
            json!({
                "label": format!("Release {version}"),
                "url": format!("/services/data/v{version}.0"),
                "version": format!("{version}.0"),
            })
        })
        .collect();
    Response::json(200, &list)
}

fn known_version(text: &str) -> bool {
    let number = text
        .strip_prefix('v')
        .and_then(|text| text.strip_suffix(".0"));
    let number = number.and_then(|text| text.parse().ok());
    number.is_some_and(|number| VERSIONS.contains(&number))
}

fn expired() -> SfError {
    SfError::new(401, "INVALID_SESSION_ID", "Session expired or invalid")
}

fn limit_exceeded() -> SfError {
    SfError::new(
        403,
        "REQUEST_LIMIT_EXCEEDED",
        "TotalRequests Limit exceeded.",
    )
}
