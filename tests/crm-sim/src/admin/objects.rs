//! `/objects/{vendor}/{object}[/{id}]`: records as a CRM user sees and edits them.
//!
//! Guarantees: edits obey the object's own rules, move version and modified time, and are marked as
//! a human's unless the request says otherwise; a list of edits is applied as a whole or not at
//! all.

use super::{AdminError, Answer, body, input, no_route, object_of, ok, shown};
use crate::clock;
use crate::faults::EditSpec;
use crate::http::{Request, Response, pairs};
use crate::store::{Actor, Life, Object, Record, Stamp};
use crate::vendor::Vendor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Edit {
    /// Only in a list of edits.
    id: Option<String>,
    fields: Map<String, Value>,
    /// Added to what the fields hold, read and written at one moment.
    add: BTreeMap<String, i64>,
    by: By,
    /// ISO 8601; default now.
    modified_at: Option<String>,
    deleted: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    #[default]
    Human,
    Integration,
}

impl By {
    fn actor(self) -> Actor {
        match self {
            Self::Integration => Actor::Integration,
            Self::Human => Actor::Human,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Edits {
    Many(Vec<Value>),
    One(Value),
}

pub fn answer(vendor: &dyn Vendor, object: &str, id: Option<&str>, request: &Request) -> Answer {
    let mut store = vendor.store().lock();
    let at = object_of(vendor, &store, object)?;
    let object = &mut store.objects[at];
    match (request.method.as_str(), id) {
        ("GET", None) => list(vendor, object, request),
        ("GET", Some(id)) => {
            let slot = slot_of(vendor, object, id)?;
            ok(&shown(vendor, object, slot))
        }
        ("POST", None) => edit(vendor, object, request, Target::New),
        ("PATCH", None) => edit(vendor, object, request, Target::Named),
        ("PATCH", Some(id)) => {
            let slot = slot_of(vendor, object, id)?;
            edit(vendor, object, request, Target::Slot(slot))
        }
        ("DELETE", Some(id)) => {
            let slot = slot_of(vendor, object, id)?;
            let stamp = Stamp {
                at: vendor.services().clock.now(),
                by: Actor::Human,
            };
            // Deleting frees values; it cannot collide.
            let _ = object.set_life(slot, Life::Deleted, stamp);
            Ok(Response::empty(204))
        }
        ("DELETE", None) => {
            object.purge_all();
            Ok(Response::empty(204))
        }
        _ => Err(no_route(request)),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Merge {
    into: String,
    from: Vec<String>,
    #[serde(default)]
    by: By,
}

pub fn merge(vendor: &dyn Vendor, object: &str, request: &Request) -> Answer {
    let merge: Merge = body(request)?;
    let mut store = vendor.store().lock();
    let at = object_of(vendor, &store, object)?;
    let object = &mut store.objects[at];
    if !vendor.merges(object) {
        return Err(input(format!(
            "records of {} cannot be merged",
            object.def.name
        )));
    }
    let live = |id: &String| {
        let slot = slot_of(vendor, object, id)?;
        let gone = || input(format!("record {id} is deleted"));
        object.live(slot).map(|_| slot).ok_or_else(gone)
    };
    let into = live(&merge.into)?;
    let from: Vec<u32> = merge.from.iter().map(live).collect::<Result<_, _>>()?;
    let mut distinct = from.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if from.is_empty() || distinct.len() < from.len() || from.contains(&into) {
        return Err(input("from lists other records than into, each once"));
    }
    let stamp = Stamp {
        at: vendor.services().clock.now(),
        by: merge.by.actor(),
    };
    object.merge(into, &from, stamp);
    ok(&shown(vendor, object, into))
}

/// Applies the edit of a fault.
pub fn intrude(vendor: &dyn Vendor, spec: &EditSpec) -> Result<(), AdminError> {
    let mut store = vendor.store().lock();
    let at = object_of(vendor, &store, &spec.object)?;
    let object = &mut store.objects[at];
    let target = Target::Slot(slot_of(vendor, object, &spec.id)?);
    let edit = Edit {
        fields: spec.fields.clone(),
        by: spec.by,
        deleted: spec.deleted,
        ..Edit::default()
    };
    let mut undo = Vec::new();
    let applied = apply(vendor, object, edit, &target, &mut undo);
    if applied.is_err() {
        for (slot, before) in undo.into_iter().rev() {
            object.restore(slot, before);
        }
    }
    applied.map(|_| ())
}

/// Parameters: `limit`, `offset`, `deleted` (`true` for deleted ones too), else a field to compare.
fn list(vendor: &dyn Vendor, object: &Object, request: &Request) -> Answer {
    let (mut limit, mut offset, mut deleted) = (usize::MAX, 0, false);
    let mut wanted = Vec::new();
    for (name, value) in pairs(&request.query) {
        let number = |text: &str| {
            text.parse()
                .map_err(|_| input("limit and offset are numbers"))
        };
        match name.as_str() {
            "limit" => limit = number(&value)?,
            "offset" => offset = number(&value)?,
            "deleted" => deleted = value == "true",
            _ if object.def.field(&name).is_some() => wanted.push((name, value)),
            _ => {
                let known = "limit, offset, deleted, or the name of a field";
                return Err(AdminError::Param { name, known });
            }
        }
    }
    let mut total = 0;
    let mut records = Vec::new();
    for slot in 0..object.records.len() as u32 {
        let Some(record) = object.record(slot) else {
            continue;
        };
        if !deleted && !record.live() {
            continue;
        }
        if !wanted.is_empty() {
            let fields = vendor.show(object, slot);
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let held = |name: &str| {
                let (_, field) = object.def.field(name)?;
                fields.get(field.name()).map(text)
            };
            if !(wanted.iter()).all(|(name, value)| held(name).as_ref() == Some(value)) {
                continue;
            }
        }
        total += 1;
        if total > offset && records.len() < limit {
            records.extend(shown(vendor, object, slot));
        }
    }
    ok(&json!({"total": total, "records": records}))
}

enum Target {
    New,
    Slot(u32),
    /// Each edit names its record.
    Named,
}

fn edit(vendor: &dyn Vendor, object: &mut Object, request: &Request, target: Target) -> Answer {
    let (edits, single) = match body::<Edits>(request)? {
        Edits::One(edit) => (vec![edit], true),
        Edits::Many(edits) => (edits, false),
    };
    let mut undo: Vec<(u32, Option<Record>)> = Vec::new();
    let mut slots = Vec::with_capacity(edits.len());
    for value in edits {
        let slot = serde_json::from_value(value)
            .map_err(AdminError::from)
            .and_then(|edit| apply(vendor, object, edit, &target, &mut undo));
        match slot {
            Ok(slot) => slots.push(slot),
            Err(error) => {
                for (slot, before) in undo.into_iter().rev() {
                    object.restore(slot, before);
                }
                return Err(error);
            }
        }
    }
    let status = if matches!(target, Target::New) {
        201
    } else {
        200
    };
    match single {
        true => Ok(Response::json(status, &shown(vendor, object, slots[0]))),
        // The caller knows what it sent; ids are what it cannot know.
        false => {
            let ids: Vec<_> = slots.iter().map(|slot| vendor.id(object, *slot)).collect();
            Ok(Response::json(status, &json!({"ids": ids})))
        }
    }
}

fn apply(
    vendor: &dyn Vendor,
    object: &mut Object,
    edit: Edit,
    target: &Target,
    undo: &mut Vec<(u32, Option<Record>)>,
) -> Result<u32, AdminError> {
    let at = match &edit.modified_at {
        None => vendor.services().clock.now(),
        Some(text) => clock::parse_time(text)
            .ok_or_else(|| input("modified_at must be a time such as 2026-01-02T03:04:05.678Z"))?,
    };
    let by = edit.by.actor();
    let stamp = Stamp { at, by };
    let slot = match (target, &edit.id) {
        (Target::New, None) => None,
        (Target::Slot(slot), None) => Some(*slot),
        (Target::Named, Some(id)) => Some(slot_of(vendor, object, id)?),
        (Target::Named, None) => return Err(input("each edit of the list needs an \"id\"")),
        (_, Some(_)) => {
            return Err(input(
                "\"id\" only belongs into PATCH without an id in the path",
            ));
        }
    };
    let mut fields = edit.fields;
    if !edit.add.is_empty() {
        let slot = slot.ok_or_else(|| input("a new record has nothing to add to"))?;
        let held = vendor.show(object, slot);
        for (name, n) in edit.add {
            let sum = match held.get(&name) {
                Some(Value::String(text)) => {
                    text.parse().ok().map(|m: i64| json!((m + n).to_string()))
                }
                Some(Value::Number(number)) => number.as_i64().map(|m| json!(m + n)),
                _ => None,
            };
            let sum = sum.ok_or_else(|| input(format!("{name} holds no whole number")))?;
            fields.insert(name, sum);
        }
    }
    let change = vendor
        .edit(object, &fields, slot.is_none())
        .map_err(AdminError::Input)?;
    let taken = |object: &Object, taken: crate::store::Taken| {
        let field = object.def.fields[taken.field as usize].name();
        let holder = vendor.id(object, taken.by);
        input(format!("{field}: the value is taken by record {holder}"))
    };
    let slot = match slot {
        None => {
            let slot = object.insert(change, stamp).map_err(|t| taken(object, t))?;
            undo.push((slot, None));
            slot
        }
        Some(slot) => {
            undo.push((slot, object.record(slot).cloned()));
            // A pure restore or delete has nothing to set, and counts as one change.
            if !change.is_empty() || edit.deleted.is_none() {
                object
                    .update(slot, change, stamp)
                    .map_err(|t| taken(object, t))?;
            }
            slot
        }
    };
    if let Some(deleted) = edit.deleted {
        let life = if deleted { Life::Deleted } else { Life::Live };
        object
            .set_life(slot, life, stamp)
            .map_err(|t| taken(object, t))?;
    }
    Ok(slot)
}

fn slot_of(vendor: &dyn Vendor, object: &Object, id: &str) -> Result<u32, AdminError> {
    vendor
        .slot(object, id)
        .filter(|slot| object.record(*slot).is_some())
        .ok_or_else(|| AdminError::Record {
            vendor: vendor.name(),
            object: object.def.name.clone(),
            id: id.to_owned(),
        })
}
