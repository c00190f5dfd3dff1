//! The admin address: what tests and people see and do behind the vendors' backs.
//!
//! Guarantees: never delayed, never faulted, never in the request log; bad input is a 400 that says
//! what is known.

mod controls;
mod objects;

pub use objects::{By, intrude};

use crate::faults::FaultSpec;
use crate::http::{Request, Response};
use crate::log::Filter;
use crate::schema::ObjectSpec;
use crate::store::Object;
use crate::vendor::{Services, Sim, Vendor};
use crate::webhooks::{self, Subscription};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum AdminError {
    #[error("there is no {method} {path} here; see crm-sim --help")]
    Route { method: String, path: String },
    #[error("vendor \"{name}\" is unknown; known vendors: {known}")]
    Vendor { name: String, known: String },
    #[error("{vendor} has no object \"{name}\"; known objects: {known}")]
    Object {
        vendor: &'static str,
        name: String,
        known: String,
    },
    #[error("{vendor} {object} has no record \"{id}\"")]
    Record {
        vendor: &'static str,
        object: String,
        id: String,
    },
    #[error("the body is not what is expected here: {0}")]
    Body(#[from] serde_json::Error),
    #[error("query parameter \"{name}\" is unknown here; known: {known}")]
    Param { name: String, known: &'static str },
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    Fault(#[from] crate::faults::FaultError),
    #[error(transparent)]
    Schema(#[from] crate::schema::SchemaError),
}

impl AdminError {
    fn status(&self) -> u16 {
        match self {
            Self::Route { .. } | Self::Object { .. } | Self::Record { .. } => 404,
            _ => 400,
        }
    }
}

type Answer = Result<Response, AdminError>;

pub fn answer(sim: &Sim, request: &Request) -> Response {
    let parts = request.segments();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    route(sim, request, &parts).unwrap_or_else(|error| {
        Response::json(error.status(), &json!({"error": error.to_string()}))
    })
}

fn route(sim: &Sim, request: &Request, parts: &[&str]) -> Answer {
    match (request.method.as_str(), parts) {
        ("GET", ["requests"]) => requests(sim, request),
        ("GET", ["requests", "stats"]) => ok(&sim.log.counts()),
        ("DELETE", ["requests"]) => {
            sim.log.clear();
            ok(&json!({}))
        }
        (_, ["objects", vendor, object, id @ ..]) if id.len() < 2 => objects::answer(
            vendor_of(sim, vendor)?.as_ref(),
            object,
            id.first().copied(),
            request,
        ),
        ("POST", ["merge", vendor, object]) => {
            objects::merge(vendor_of(sim, vendor)?.as_ref(), object, request)
        }
        (_, ["webhooks", vendor]) => webhooks(sim, vendor_of(sim, vendor)?, request),
        ("GET", ["faults"]) => ok(&json!({"faults": sim.faults.list()})),
        ("POST", ["faults"]) => {
            let spec: FaultSpec = body(request)?;
            if let Some(name) = &spec.vendor {
                services_of(sim, name)?;
                // The record may come to be later; its object is there from the start.
                if let Some(edit) = &spec.edit {
                    let vendor = vendor_of(sim, name)?.as_ref();
                    object_of(vendor, &vendor.store().lock(), &edit.object)?;
                }
            }
            ok(&sim.faults.add(spec)?)
        }
        ("DELETE", ["faults"]) => ok(&json!({"removed": sim.faults.clear(None)})),
        ("DELETE", ["faults", id]) => {
            let id = id.parse().map_err(|_| input("a fault's id is a number"))?;
            ok(&json!({"removed": sim.faults.clear(Some(id))}))
        }
        ("GET", ["schema", vendor]) => {
            let store = vendor_of(sim, vendor)?.store().lock();
            let names: Vec<_> = store.objects.iter().map(|o| o.def.name.clone()).collect();
            ok(&json!({"objects": names}))
        }
        ("GET", ["schema", vendor, object]) => show_schema(vendor_of(sim, vendor)?, object),
        ("POST", ["schema", vendor, object]) => define(vendor_of(sim, vendor)?, object, request),
        (_, ["tokens"]) => controls::tokens(sim, request),
        (_, ["accounts", id @ ..]) if id.len() < 2 => {
            controls::accounts(sim, id.first().copied(), request)
        }
        (_, ["clock"]) => controls::clock(sim, request),
        (_, ["config"]) => controls::config(sim, request),
        ("POST", ["reset"]) => {
            sim.reset();
            ok(&json!({}))
        }
        _ => Err(no_route(request)),
    }
}

fn requests(sim: &Sim, request: &Request) -> Answer {
    let known = "vendor, since, method, path, status, limit";
    let mut filter = Filter::default();
    for (name, value) in crate::http::pairs(&request.query) {
        let number = || {
            let wrong = format!("query parameter {name} must be a number, not \"{value}\"");
            value.parse::<u64>().map_err(|_| AdminError::Input(wrong))
        };
        match name.as_str() {
            "vendor" => {
                services_of(sim, &value)?;
                filter.vendor = Some(value);
            }
            "since" => filter.since = number()?,
            "method" => filter.method = Some(value),
            "path" => filter.path = Some(value),
            "status" => filter.status = Some(number()? as u16),
            "limit" => filter.limit = Some(number()? as usize),
            _ => return Err(AdminError::Param { name, known }),
        }
    }
    let (entries, last) = sim.log.list(&filter);
    let under_way = sim.log.under_way();
    ok(&json!({"requests": entries, "last": last, "under_way": under_way}))
}

fn webhooks(sim: &Sim, vendor: &Arc<dyn Vendor>, request: &Request) -> Answer {
    match request.method.as_str() {
        "GET" => {}
        "POST" => {
            let subscription: Subscription = body(request)?;
            if !subscription.url.starts_with("http://") {
                return Err(input("url must begin with http://"));
            }
            webhooks::subscribe(sim, vendor, subscription);
        }
        "DELETE" => sim.hooks.clear(Some(vendor.name())),
        _ => return Err(no_route(request)),
    }
    ok(&sim.hooks.show(vendor.name()))
}

fn show_schema(vendor: &Arc<dyn Vendor>, name: &str) -> Answer {
    let store = vendor.store().lock();
    let object = object_of(vendor.as_ref(), &store, name)?;
    let object = &store.objects[object];
    let fields: Vec<_> = object.def.visible().map(|(_, field)| &field.spec).collect();
    ok(&json!({"name": object.def.name, "label": object.def.label(), "fields": fields}))
}

fn define(vendor: &Arc<dyn Vendor>, name: &str, request: &Request) -> Answer {
    let spec: ObjectSpec = body(request)?;
    let now = vendor.services().clock.now();
    {
        let mut store = vendor.store().lock();
        match store.object_mut(name) {
            Some(object) => {
                vendor.define(&mut object.def, &spec)?;
                object.def.changed = now;
                object.reindex();
            }
            None => {
                let mut def = vendor.blank_object(name);
                vendor.define(&mut def, &spec)?;
                def.changed = now;
                store.add(Object::new(def, vendor.keeps_history()));
            }
        }
    }
    show_schema(vendor, name)
}

fn vendor_of<'a>(sim: &'a Sim, name: &str) -> Result<&'a Arc<dyn Vendor>, AdminError> {
    sim.vendor(name).ok_or_else(|| {
        let known: Vec<_> = sim.vendors.iter().map(|vendor| vendor.name()).collect();
        AdminError::Vendor {
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// What a vendor, or the broker, has of services.
fn services_of<'a>(sim: &'a Sim, name: &str) -> Result<&'a Services, AdminError> {
    let found = sim.services().find(|(known, _)| *known == name);
    found.map(|(_, services)| services).ok_or_else(|| {
        let known: Vec<_> = sim.services().map(|(name, _)| name).collect();
        AdminError::Vendor {
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

fn object_of(
    vendor: &dyn Vendor,
    store: &crate::store::Store,
    name: &str,
) -> Result<usize, AdminError> {
    store.position(name).ok_or_else(|| {
        let known: Vec<_> = store.objects.iter().map(|o| o.def.name.as_str()).collect();
        AdminError::Object {
            vendor: vendor.name(),
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// Reads the body; serde's own message names the unknown key and lists the known ones.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T, AdminError> {
    Ok(serde_json::from_slice(&request.body)?)
}

fn ok(value: &impl serde::Serialize) -> Answer {
    Ok(Response::json(200, value))
}

fn input(text: impl Into<String>) -> AdminError {
    AdminError::Input(text.into())
}

fn no_route(request: &Request) -> AdminError {
    AdminError::Route {
        method: request.method.to_string(),
        path: request.path.clone(),
    }
}

/// What `GET /objects` shows of one record.
fn shown(vendor: &dyn Vendor, object: &Object, slot: u32) -> Option<Value> {
    let record = object.record(slot)?;
    Some(json!({
        "id": vendor.id(object, slot),
        "version": record.version,
        "created_at": crate::clock::iso(record.created),
        "modified_at": crate::clock::iso(record.modified),
        "modified_by": record.modified_by.name(),
        "deleted": !record.live(),
        "fields": vendor.show(object, slot),
    }))
}
