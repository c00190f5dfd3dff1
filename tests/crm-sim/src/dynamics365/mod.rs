//! Microsoft Dynamics 365: the Dataverse Web API, version 9.2.
//!
//! Guarantees: every call but the token endpoint needs a bearer token; each row shows a tag that
//! any change of it replaces; what is not simulated is refused and never passed over.

mod address;
mod annotations;
mod attributes;
mod batch;
mod definitions;
mod error;
mod expand;
mod filter;
mod multipart;
mod oauth;
mod order;
mod org;
mod parts;
mod rows;
mod save;
mod track;

use crate::budget::{Budget, Verdict};
use crate::clock::Clock;
use crate::http::{Request, Response};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError};
use crate::store::{Actor, Change, Event, Note, Object, Stamp, Store};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Call, Services, Vendor};
use address::Address;
use error::DataverseError;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

const ROOT: &str = "/api/data/v9.2";

type Answer = Result<Response, DataverseError>;

pub struct Dynamics365 {
    services: Services,
    store: Mutex<Store>,
}

impl Dynamics365 {
    pub fn new(clock: Arc<Clock>) -> Self {
        let defaults = Defaults {
            access: "d365-token",
            refresh: "d365-refresh",
            client_id: "d365-client",
            client_secret: "d365-secret",
            lifetime_s: Some(3599),
        };
        let budget = Budget::new(10_000_000, 1_000_000, 300_000);
        Self {
            services: Services::new("dynamics365", clock, defaults, budget),
            store: Mutex::new(org::built_in()),
        }
    }

    fn route(&self, call: &Call<'_>) -> Answer {
        let request = call.request;
        let segments = request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let [tenant, "oauth2", "v2.0", "token"] = parts[..] {
            return Ok(oauth::token(&self.services, request, tenant));
        }
        self.admit(request)?;
        let now = self.services.clock.now();
        match self.services.budget.charge(now, 1) {
            Verdict::Granted => {}
            Verdict::DaySpent => return Err(DataverseError::limited(300)),
            Verdict::IntervalSpent { wait_ms } => {
                return Err(DataverseError::limited((wait_ms + 999) / 1000));
            }
        }
        match parts[..] {
            ["api", "data", "v9.2", "$batch"] if request.method == "POST" => {
                let mut store = self.store.lock();
                batch::run(&mut store, request, |store, part| {
                    let part = Call {
                        request: part,
                        ..*call
                    };
                    let answer = self.resource(store, &part);
                    answer.unwrap_or_else(|error| error.response())
                })
            }
            _ => self.resource(&mut self.store.lock(), call),
        }
    }

    /// What may be asked by itself, and as a part of a batch.
    fn resource(&self, store: &mut Store, call: &Call<'_>) -> Answer {
        let segments = call.request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        let ["api", "data", "v9.2", path @ ..] = &parts[..] else {
            return Err(DataverseError::no_segment(&call.request.path));
        };
        let method = call.request.method.as_str();
        let (segment, path) = match (method, path) {
            ("GET", ["WhoAmI" | "WhoAmI()"]) => return Ok(who_am_i(call)),
            ("GET", ["EntityDefinitions"]) => return definitions::list(store, call),
            ("GET", [table, path @ ..]) if table.starts_with("EntityDefinitions(") => {
                return attributes::list(store, call, table, path);
            }
            (_, [segment, path @ ..]) => (segment, path),
            _ => return Err(DataverseError::no_segment("")),
        };
        let address = Address::parse(segment)?;
        let at = store.position(address.set());
        // Names of sets tell case.
        let at = at.filter(|at| store.objects[*at].def.name == address.set());
        let at = at.ok_or_else(|| DataverseError::no_segment(address.set()))?;
        let stamp = Stamp {
            at: self.services.clock.now(),
            by: Actor::Integration,
        };
        match (method, &address) {
            _ if !path.is_empty() => parts::answer(store, at, call, &address, path, stamp),
            ("GET", Address::Set(_)) => track::list(store, at, call, stamp.at),
            ("GET", _) => rows::read(store, at, call, &address),
            ("POST", Address::Set(_)) => rows::write(store, at, call, &address, stamp),
            ("PATCH", Address::Row { .. } | Address::Keyed { .. }) => {
                rows::write(store, at, call, &address, stamp)
            }
            ("DELETE", _) => rows::delete(&mut store.objects[at], call, &address, stamp),
            _ => Err(DataverseError::new(
                405,
                "0x80060888",
                "The requested resource does not support this method.",
            )),
        }
    }

    fn admit(&self, request: &Request) -> Result<(), DataverseError> {
        let now = self.services.clock.now();
        let token = request.bearer();
        match token.map(|token| self.services.tokens.standing(token, now)) {
            Some(Standing::Valid) => Ok(()),
            _ => Err(unauthorised()),
        }
    }
}

fn unauthorised() -> DataverseError {
    DataverseError::new(
        401,
        "",
        "The token is missing, expired or not for this environment.",
    )
}

fn who_am_i(call: &Call<'_>) -> Response {
    let context = format!(
        "{}{ROOT}/$metadata#Microsoft.Dynamics.CRM.WhoAmIResponse",
        call.origin
    );
    Response::json(
        200,
        &json!({
            "@odata.context": context,
            "BusinessUnitId": "0b000000-0000-4000-8000-000000000001",
            "UserId": org::user(Actor::Integration),
            "OrganizationId": "00000000-0000-4000-8000-000000000001",
        }),
    )
}

impl Vendor for Dynamics365 {
    fn name(&self) -> &'static str {
        "dynamics365"
    }

    fn services(&self) -> &Services {
        &self.services
    }

    fn store(&self) -> &Mutex<Store> {
        &self.store
    }

    fn answer(&self, call: &Call<'_>) -> Response {
        let answer = self.route(call);
        let answer = answer.unwrap_or_else(|error| error.response());
        answer.with("OData-Version", "4.0")
    }

    fn failure(&self, status: u16) -> Response {
        let error = match status {
            401 => unauthorised(),
            403 => DataverseError::new(403, "0x80040220", "The user lacks a privilege."),
            404 => DataverseError::new(404, "0x80040217", "The record Does Not Exist"),
            412 => DataverseError::stale(),
            429 => DataverseError::limited(1),
            400..500 => DataverseError::new(status, "0x80040203", "Invalid argument."),
            502..=504 => {
                let page = format!("<html><head><title>{status}</title></head></html>");
                return Response::bytes(status, "text/html", page);
            }
            _ => DataverseError::new(status, "0x80040216", "An unexpected error occurred."),
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
        *self.store.lock() = org::built_in();
    }

    fn id(&self, object: &Object, slot: u32) -> String {
        org::row_id(object, slot)
    }

    fn slot(&self, object: &Object, id: &str) -> Option<u32> {
        org::slot(object, id)
    }

    fn show(&self, object: &Object, slot: u32) -> Map<String, Json> {
        let own = object.def.visible().filter(|(_, field)| field.writable());
        let held = own.map(|(at, field)| (field.name().to_owned(), org::held(object, slot, at)));
        held.filter(|(_, value)| !value.is_null()).collect()
    }

    /// A row that another took in stays, as an inactive one.
    fn merges(&self, _: &Object) -> bool {
        false
    }

    fn events(&self, object: &Object, note: &Note, number: &dyn Fn() -> u64) -> Vec<Json> {
        let message = match &note.event {
            Event::Created => "Create",
            Event::Deleted => "Delete",
            Event::Updated(_) | Event::Restored | Event::Merged(_) => "Update",
        };
        let (table, id) = (org::table(&object.def.name), org::row_id(object, note.slot));
        vec![json!({
            "MessageName": message,
            "PrimaryEntityName": table,
            "PrimaryEntityId": id,
            "Depth": 1,
            "UserId": org::user(note.by),
            "InitiatingUserId": org::user(note.by),
            "CorrelationId": format!("c0000000-0000-4000-8000-{:012x}", number()),
            "OperationCreatedOn": format!("/Date({}+0000)/", note.at),
            "Stage": 40,
            "Mode": 1,
            "InputParameters": [{"key": "Target", "value": {"Attributes": [], "Id": id, "LogicalName": table}}],
            "PreEntityImages": [],
            "PostEntityImages": [],
            "SharedVariables": [],
        })]
    }

    fn one_event_a_post(&self) -> bool {
        true
    }

    /// `HttpHeader`: the header that was registered with the endpoint.
    fn signature(&self, secret: &str, _: &str, _: &str, _: i64) -> Vec<(&'static str, String)> {
        vec![("x-pgcrm-secret", secret.to_owned())]
    }

    fn edit(&self, object: &Object, fields: &Map<String, Json>, _: bool) -> Result<Change, String> {
        save::entered(object, fields).map_err(|error| error.message)
    }
}
