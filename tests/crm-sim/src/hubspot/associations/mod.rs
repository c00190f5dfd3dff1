//! Associations, versions 4, 3 and the dated ones: of one record, in batches, and their labels.
//!
//! Guarantees: a type that does not join the two objects fails the request before anything is
//! written; a record that is not there fails alone, with 207.

mod batch;
mod creation;
mod kinds;
mod labels;
mod links;

use super::error::HsError;
use super::objects::Answer;
use super::portal;
use crate::http::{Request, Response};
use crate::store::Store;
pub use creation::{Wanted, connect, shown, wanted};
use kinds::Kind;
pub use links::{End, Links};
use serde_json::{Value as Json, json};

const MAX_PAGE: usize = 500;

/// How a version of the API behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3,
    V4,
    /// From 2026-09 on: no status but 200.
    Dated,
}

/// What an association call works on.
pub struct Calls<'a> {
    pub store: &'a Store,
    pub links: &'a mut Links,
    pub request: &'a Request,
    pub version: Version,
    pub now: i64,
}

impl Calls<'_> {
    /// `/crm/v4/objects/{type}/{id}/associations/...`
    pub fn of_record(&mut self, at: usize, id: &str, path: &[&str]) -> Answer {
        let from = self.end(at, id)?;
        match (self.request.method.as_str(), path) {
            ("GET", [to]) => {
                let to = self.object(to)?;
                self.list(from, to)
            }
            ("PUT", ["default", to, id]) => {
                let to = self.object(to)?;
                let to = self.end(to, id)?;
                let plain = self.links.kinds.plain(from.0, to.0);
                self.links.put(from, to, std::slice::from_ref(&plain));
                Ok(Response::json(
                    200,
                    &self.complete(vec![self.spec(from, to, &plain)]),
                ))
            }
            ("PUT", [to, id]) => {
                let to = self.object(to)?;
                let to = self.end(to, id)?;
                let body: Json = serde_json::from_slice(&self.request.body)
                    .map_err(|error| HsError::validation(format!("Invalid input JSON: {error}")))?;
                let kinds = self.kinds(from.0, to.0, &body)?;
                self.links.put(from, to, &kinds);
                Ok(Response::json(201, &self.labelled(from, to, &kinds)))
            }
            ("PUT", [to, id, name]) => {
                let to = self.object(to)?;
                let to = self.end(to, id)?;
                let kind = self.named(from.0, to.0, name)?;
                self.links.put(from, to, &[kind]);
                Ok(Response::json(200, &json!({"id": id})))
            }
            ("DELETE", [to, id] | [to, id, _]) => {
                let to = self.object(to)?;
                if let Some(slot) = portal::live_slot(&self.store.objects[to], id) {
                    self.links.remove(from, (to, slot));
                }
                Ok(Response::empty(204))
            }
            _ => Err(HsError::method()),
        }
    }

    /// `/crm/v4/associations/{from}/{to}/...`
    pub fn of_pair(&mut self, from: &str, to: &str, path: &[&str]) -> Answer {
        let pair = (self.object(from)?, self.object(to)?);
        match path {
            ["labels", path @ ..] => self.labels(pair, path),
            ["types"] => Ok(Response::json(200, &self.types(pair))),
            ["batch", path @ ..] if self.request.method == "POST" => self.batch(pair, path),
            ["batch", ..] => Err(HsError::method()),
            _ => Err(HsError::no_resource()),
        }
    }

    fn list(&mut self, from: End, to: usize) -> Answer {
        let limit = self.request.param("limit");
        let limit = limit.map_or(Ok(MAX_PAGE), |text| {
            let limit = text.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
            limit.ok_or_else(|| HsError::validation(format!("limit must be from 1 to {MAX_PAGE}")))
        })?;
        let after = self.request.param("after").unwrap_or_default();
        let after = portal::slot(&self.store.objects[to], &after);
        let found = self.links.of(self.store, from, to);
        let rest = found
            .iter()
            .filter(|(slot, _)| after.is_none_or(|after| **slot > after));
        let page: Vec<_> = rest.clone().take(limit).collect();
        let results: Vec<Json> = page
            .iter()
            .map(|(slot, types)| self.found(from.0, (to, **slot), types))
            .collect();
        let mut body = json!({"results": results});
        if let (true, Some((last, _))) = (rest.count() > limit, page.last()) {
            let after = portal::record_id(&self.store.objects[to], **last);
            body["paging"] = json!({"next": {"after": after}});
        }
        Ok(Response::json(200, &body))
    }

    /// One record that another one is associated with.
    fn found(&self, from: usize, to: End, types: &std::collections::BTreeSet<u32>) -> Json {
        let id = portal::record_id(&self.store.objects[to.0], to.1);
        let kinds = types
            .iter()
            .filter_map(|id| self.links.kinds.get(from, *id));
        match self.version {
            Version::V3 => {
                let name = kinds.map(|kind| type_name(self.store, kind)).next_back();
                json!({"id": id, "type": name})
            }
            // A number, whatever the specification says.
            _ => {
                let kinds: Vec<Json> = kinds.map(Kind::shown).collect();
                let id = id.parse::<u64>().unwrap_or_default();
                json!({"toObjectId": id, "associationTypes": kinds})
            }
        }
    }

    fn labelled(&self, from: End, to: End, kinds: &[Kind]) -> Json {
        let labels: Vec<_> = kinds.iter().filter_map(|kind| kind.label.clone()).collect();
        json!({
            "fromObjectTypeId": self.code(from.0),
            "fromObjectId": self.number(from),
            "toObjectTypeId": self.code(to.0),
            "toObjectId": self.number(to),
            "labels": labels,
        })
    }

    fn spec(&self, from: End, to: End, kind: &Kind) -> Json {
        json!({
            "from": {"id": self.id(from)},
            "to": {"id": self.id(to)},
            "associationSpec": {
                "associationCategory": kind.category.name(),
                "associationTypeId": kind.id,
            },
        })
    }

    fn complete(&self, results: Vec<Json>) -> Json {
        let now = crate::clock::iso(self.now);
        json!({"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now})
    }

    fn id(&self, end: End) -> String {
        portal::record_id(&self.store.objects[end.0], end.1)
    }

    fn number(&self, end: End) -> u64 {
        self.id(end).parse().unwrap_or_default()
    }

    fn code(&self, at: usize) -> String {
        portal::code(&self.store.objects[at])
    }

    fn object(&self, name: &str) -> Result<usize, HsError> {
        portal::position(self.store, name).ok_or_else(|| super::unknown_type(name))
    }

    fn end(&self, at: usize, id: &str) -> Result<End, HsError> {
        let slot = portal::live_slot(&self.store.objects[at], id);
        slot.map(|slot| (at, slot)).ok_or_else(|| missing(id))
    }

    /// Types that must join exactly these objects.
    fn kinds(&self, from: usize, to: usize, list: &Json) -> Result<Vec<Kind>, HsError> {
        let kinds = kinds_of(self.links, from, list)?;
        match kinds.iter().find(|kind| kind.to != to) {
            None => Ok(kinds),
            Some(kind) => Err(invalid_type(kind.id)),
        }
    }

    /// `contact_to_company`, or the number of a type.
    fn named(&mut self, from: usize, to: usize, name: &str) -> Result<Kind, HsError> {
        let plain = self.links.kinds.plain(from, to);
        if type_name(self.store, &plain) == name {
            return Ok(plain);
        }
        let mut kinds = self.links.kinds.between(from, to);
        let found =
            kinds.find(|kind| kind.id.to_string() == name || type_name(self.store, kind) == name);
        found.cloned().ok_or_else(|| {
            HsError::validation(format!("{name} is not a type of these associations"))
        })
    }
}

fn kinds_of(links: &Links, from: usize, list: &Json) -> Result<Vec<Kind>, HsError> {
    let list = list.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| {
        HsError::validation("Invalid input JSON: types must be a list of at least one type")
    })?;
    let one = |entry: &Json| {
        let id = entry["associationTypeId"]
            .as_u64()
            .and_then(|id| u32::try_from(id).ok());
        let kind = id.and_then(|id| links.kinds.get(from, id));
        let kind = kind.ok_or_else(|| invalid_type(id.unwrap_or_default()))?;
        match entry["associationCategory"] == kind.category.name() {
            true => Ok(kind.clone()),
            false => Err(invalid_type(kind.id)),
        }
    };
    list.iter().map(one).collect()
}

/// Ids are texts; HubSpot takes numbers too.
fn id_of(end: &Json) -> String {
    match &end["id"] {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

fn type_name(store: &Store, kind: &Kind) -> String {
    let word = |at: usize| {
        let label = store.objects[at].def.label();
        label.to_ascii_lowercase().replace(' ', "_")
    };
    let name = format!("{}_to_{}", word(kind.from), word(kind.to));
    match &kind.label {
        None => name,
        Some(label) => format!("{name}_{}", label.to_ascii_lowercase().replace(' ', "_")),
    }
}

fn invalid_type(id: u32) -> HsError {
    let message = format!("Association type {id} does not join these objects");
    HsError {
        sub_category: Some("crm.associations.INVALID_ASSOCIATION_TYPE"),
        ..HsError::validation(message)
    }
}

fn missing(id: &str) -> HsError {
    HsError::not_found(id)
}
