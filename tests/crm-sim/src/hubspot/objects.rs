//! `/crm/v3/objects/{type}`: one record per request, and lists.

use super::associations::{self, Links};
use super::error::HsError;
use super::portal::{self, View};
use super::save::{self, Target, Writer};
use crate::http::{Request, Response};
use crate::store::{Life, Object, Store};
use serde_json::{Map, Value as Json, json};

const MAX_LIST: usize = 100;
const MAX_LIST_WITH_HISTORY: usize = 50;

pub type Answer = Result<Response, HsError>;

/// All that a call on objects works on.
pub struct Calls<'a> {
    pub store: &'a mut Store,
    /// The position of the object.
    pub at: usize,
    pub links: &'a mut Links,
    pub request: &'a Request,
    pub writer: Writer<'a>,
}

impl Calls<'_> {
    pub fn create(&mut self) -> Answer {
        let body = body(self.request)?;
        let wanted = associations::wanted(self.store, self.links, self.at, &body)?;
        let object = &mut self.store.objects[self.at];
        let change = save::change_of(object, properties(&body)?, None)?;
        save::strike(object, Target::New, &change, &self.writer)?;
        let slot = save::save(object, Target::New, change, &self.writer)?;
        associations::connect(self.links, (self.at, slot), &wanted);
        Ok(Response::json(201, &written(object, slot, &body)))
    }

    pub fn read(&self, id: &str) -> Answer {
        let object = &self.store.objects[self.at];
        let archived = self.request.param("archived").as_deref() == Some("true");
        let slot = match archived {
            true => portal::slot(object, id)
                .filter(|slot| object.live(*slot).is_none())
                .ok_or_else(|| HsError::not_found(id))?,
            false => located(object, self.request, id)?,
        };
        Ok(Response::json(200, &self.shown(slot, &self.view())?))
    }

    /// What this request asks to see of records.
    fn view(&self) -> (View, Vec<String>) {
        let view = View {
            properties: self.request.list("properties"),
            history: self.request.list("propertiesWithHistory"),
        };
        (view, self.request.list("associations"))
    }

    fn shown(&self, slot: u32, (view, others): &(View, Vec<String>)) -> Result<Json, HsError> {
        let mut shown = portal::show(&self.store.objects[self.at], slot, view);
        let linked = associations::shown(self.store, self.links, (self.at, slot), others)?;
        if linked.as_object().is_some_and(|linked| !linked.is_empty()) {
            shown["associations"] = linked;
        }
        Ok(shown)
    }

    pub fn list(&self) -> Answer {
        let (object, request) = (&self.store.objects[self.at], self.request);
        let archived = request.param("archived").as_deref() == Some("true");
        let most = match request.list("propertiesWithHistory")[..] {
            [] => MAX_LIST,
            _ => MAX_LIST_WITH_HISTORY,
        };
        let limit = request.param("limit").map_or(Ok(10), |text| {
            let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
            limit.ok_or_else(|| HsError::validation(format!("limit must be from 1 to {most}")))
        })?;
        let after = request.param("after").unwrap_or_default();
        let start = match after.as_str() {
            "" => 0,
            id => portal::slot(object, id)
                .map(|slot| slot + 1)
                .ok_or_else(|| HsError::validation("after is not a valid cursor"))?,
        };
        let slots: Vec<u32> = (start..object.records.len() as u32)
            .filter(|slot| {
                // What was merged is not archived: its id means the record that took it in.
                object
                    .record(*slot)
                    .is_some_and(|record| record.live() != archived && record.master.is_none())
            })
            .take(limit + 1)
            .collect();
        let more = slots.len() > limit;
        let slots = &slots[..slots.len().min(limit)];
        let view = self.view();
        let results = slots.iter().map(|slot| self.shown(*slot, &view));
        let results: Vec<_> = results.collect::<Result<_, _>>()?;
        let mut body = json!({"results": results});
        if let (true, Some(last)) = (more, slots.last()) {
            body["paging"] = json!({"next": {"after": portal::record_id(object, *last)}});
        }
        Ok(Response::json(200, &body))
    }

    /// Nothing of the record is left, and nothing of those that were merged into it.
    pub fn purge(&mut self) -> Answer {
        let body = body(self.request)?;
        let text = |key: &str| body.get(key).and_then(Json::as_str);
        let id = text("objectId").filter(|id| !id.is_empty());
        let id =
            id.ok_or_else(|| HsError::validation("Invalid input JSON: objectId is required"))?;
        let key = text("idProperty");
        let object = &mut self.store.objects[self.at];
        match (save::find(object, id, key)?, key) {
            (Some(slot), _) => {
                save::strike(object, Target::Slot(slot), &Vec::new(), &self.writer)?;
                let merged: Vec<u32> = {
                    let record = &object.records[slot as usize];
                    record.merged.iter().map(|(slot, _)| *slot).collect()
                };
                for slot in merged.into_iter().chain([slot]) {
                    object.purge(slot, self.writer.stamp);
                }
            }
            // An address that nobody has is noted down all the same.
            (None, Some(_)) => {}
            (None, None) => return Err(HsError::not_found(id)),
        }
        Ok(Response::empty(204))
    }
}

pub fn update(object: &mut Object, request: &Request, id: &str, writer: &Writer<'_>) -> Answer {
    let body = body(request)?;
    let slot = located(object, request, id)?;
    let change = save::change_of(object, properties(&body)?, Some(slot))?;
    if change.is_empty() {
        let message = "No properties found to update, please provide at least one.";
        return Err(HsError::validation(message));
    }
    save::strike(object, Target::Slot(slot), &change, writer)?;
    save::save(object, Target::Slot(slot), change, writer)?;
    Ok(Response::json(200, &written(object, slot, &body)))
}

pub fn archive(object: &mut Object, request: &Request, id: &str, writer: &Writer<'_>) -> Answer {
    if let Ok(slot) = located(object, request, id) {
        save::strike(object, Target::Slot(slot), &Vec::new(), writer)?;
        // Archiving frees values; it cannot collide.
        let _ = object.set_life(slot, Life::Deleted, writer.stamp);
    }
    // Gone is gone: archiving twice is no error.
    Ok(Response::empty(204))
}

pub fn merge(object: &mut Object, request: &Request, writer: &Writer<'_>) -> Answer {
    let body = body(request)?;
    let slot = |name: &str| {
        let id = body.get(name).and_then(Json::as_str).unwrap_or_default();
        portal::live_slot(object, id).ok_or_else(|| HsError::not_found(id))
    };
    let (into, from) = (slot("primaryObjectId")?, slot("objectIdToMerge")?);
    if into == from {
        return Err(HsError::validation("Cannot merge an object into itself"));
    }
    object.merge(into, &[from], writer.stamp);
    let shown = portal::show(object, into, &View::default());
    Ok(Response::json(200, &shown))
}

fn located(object: &Object, request: &Request, id: &str) -> Result<u32, HsError> {
    let key = request.param("idProperty");
    save::find(object, id, key.as_deref())?.ok_or_else(|| HsError::not_found(id))
}

/// What a write answers: the usual properties and those that were written.
pub fn written(object: &Object, slot: u32, body: &Map<String, Json>) -> Json {
    let sent = body.get("properties").and_then(Json::as_object);
    let view = View {
        properties: sent
            .into_iter()
            .flat_map(|sent| sent.keys().cloned())
            .collect(),
        history: Vec::new(),
    };
    let mut shown = portal::show(object, slot, &view);
    if let Some(trace) = body.get("objectWriteTraceId") {
        shown["objectWriteTraceId"] = trace.clone();
    }
    shown
}

pub fn properties(body: &Map<String, Json>) -> Result<&Map<String, Json>, HsError> {
    body.get("properties")
        .and_then(Json::as_object)
        .ok_or_else(|| HsError::validation("Invalid input JSON: properties must be an object"))
}

pub fn body(request: &Request) -> Result<Map<String, Json>, HsError> {
    match serde_json::from_slice(&request.body) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) => Err(HsError::validation(
            "Invalid input JSON: an object is expected",
        )),
        Err(error) => Err(HsError::validation(format!(
            "Invalid input JSON on line {}, column {}: {error}",
            error.line(),
            error.column()
        ))),
    }
}
