//! One row: read, created, changed or deleted, under the conditions of the request.
//!
//! Guarantees: a request that is refused has changed nothing.

use super::address::{self, Address};
use super::error::DataverseError;
use super::expand::{self, Expansion};
use super::{Answer, ROOT, annotations, org, save};
use crate::http::{Request, Response};
use crate::store::{Change, Life, Object, Stamp, Store, Taken};
use crate::value::Value;
use crate::vendor::Call;
use serde_json::{Map, Value as Json, json};

/// The row that an address means, if it is there.
pub fn find(object: &Object, address: &Address) -> Result<Option<u32>, DataverseError> {
    match address {
        Address::Set(_) => Err(DataverseError::new(
            405,
            "0x80060888",
            "The method is not allowed for a set of rows.",
        )),
        Address::Row { id, .. } => {
            Ok(org::slot(object, id).filter(|slot| object.live(*slot).is_some()))
        }
        Address::Keyed { column, key, .. } => {
            let known = object.def.field(column);
            let known = known.filter(|(_, field)| field.name() == column && field.spec.unique);
            let undefined = || {
                let text = format!(
                    "The specified key attributes are not a defined key for the {} entity",
                    org::table(&object.def.name)
                );
                DataverseError::new(400, "0x80060890", text)
            };
            let (at, _) = known.ok_or_else(undefined)?;
            Ok(object.find(at, key).first().copied())
        }
    }
}

pub fn missing(address: &Address) -> DataverseError {
    let table = org::table(address.set());
    match address {
        Address::Row { id, .. } => DataverseError::no_row(&table, id),
        _ => {
            let text =
                format!("A record with the specified key values does not exist in {table} entity");
            DataverseError::new(404, "0x80060891", text)
        }
    }
}

/// Whether the request's conditions let it act on the row.
fn admit(object: &Object, slot: Option<u32>, request: &Request) -> Result<(), DataverseError> {
    match (request.header("if-match"), slot) {
        (Some("*") | None, _) | (_, None) => {}
        (Some(tag), Some(slot)) if tag == org::tag(object, slot) => {}
        _ => return Err(DataverseError::stale()),
    }
    match (request.header("if-none-match"), slot) {
        (Some("*"), Some(_)) => Err(DataverseError::new(
            412,
            "0x80040237",
            "A record with matching key values already exists.",
        )),
        _ => Ok(()),
    }
}

pub fn read(store: &Store, at: usize, call: &Call<'_>, address: &Address) -> Answer {
    let object = &store.objects[at];
    address::only(call.request, &["$select", "$expand"])?;
    let columns = address::columns(object, call.request)?;
    let expansions = expand::of(store, object, call.request)?;
    let slot = find(object, address)?.ok_or_else(|| missing(address))?;
    let tag = org::tag(object, slot);
    // The tag says nothing of other rows, nor of how values are shown.
    let alone = expansions.is_empty() && annotations::wanted(call.request).is_none();
    if alone && call.request.header("if-none-match") == Some(&tag) {
        return Ok(Response::empty(304).with("ETag", tag));
    }
    Ok(shown(
        object,
        slot,
        columns.as_deref(),
        &expansions,
        call,
        200,
    ))
}

fn shown(
    object: &Object,
    slot: u32,
    columns: Option<&[u16]>,
    expansions: &[Expansion<'_>],
    call: &Call<'_>,
    status: u16,
) -> Response {
    let context = format!(
        "{}{ROOT}/$metadata#{}/$entity",
        call.origin, object.def.name
    );
    let mut row = Map::from_iter([("@odata.context".to_owned(), Json::from(context))]);
    row.extend(org::show(object, slot, columns));
    annotations::add(annotations::wanted(call.request), object, &mut row);
    expand::add(expansions, object, slot, &mut row);
    Response::json(status, &row).with("ETag", org::tag(object, slot))
}

/// The fields of a body.
fn fields(request: &Request) -> Result<Map<String, Json>, DataverseError> {
    let is_json = request
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("application/json"));
    if !is_json {
        let text =
            "A missing or empty content type header was found when trying to read a message.";
        return Err(DataverseError::new(400, "", text));
    }
    serde_json::from_slice(&request.body)
        .map_err(|error| DataverseError::payload("", &error.to_string()))
}

/// `PATCH`: changes the row, or makes it unless the conditions forbid that. `POST`: makes it.
pub fn write(
    store: &mut Store,
    at: usize,
    call: &Call<'_>,
    address: &Address,
    stamp: Stamp,
) -> Answer {
    let request = call.request;
    // A tag is for those who are told of the change.
    address::only(request, &["$select", "tag"])?;
    let object = &store.objects[at];
    let columns = address::columns(object, request)?;
    let fields = fields(request)?;
    let mut change = save::change_of(store, object, &fields)?;
    let slot = match address {
        Address::Set(_) => None,
        _ => find(object, address)?,
    };
    admit(object, slot, request)?;
    if slot.is_none() && request.header("if-match").is_some() {
        return Err(missing(address));
    }
    match (address, slot) {
        (Address::Row { id, .. }, None) => change.extend(given(object, id)?),
        (Address::Set(_), None) => {
            let id = fields.get(&org::id_column(object)).and_then(Json::as_str);
            if let Some(id) = id {
                change.extend(given(object, &id.to_ascii_lowercase())?);
            }
        }
        (Address::Keyed { column, key, .. }, _) => {
            let (key_at, _) = object.def.field(column).ok_or_else(|| missing(address))?;
            match slot {
                Some(_) => change.retain(|(at, _)| *at != key_at),
                None if !change.iter().any(|(at, _)| *at == key_at) => {
                    change.push((key_at, Some(Value::text(key.as_str()))));
                }
                None => {}
            }
        }
        _ => {}
    }
    strike(object, slot, &change, call)?;
    detect(object, slot, &change, request)?;
    let object = &mut store.objects[at];
    let saved = match slot {
        None => object.insert(change, stamp),
        Some(slot) => object.update(slot, change, stamp).map(|()| slot),
    };
    let saved = saved.map_err(|taken| duplicate(object, taken))?;
    if address::prefers(request, "return=representation") {
        let status = if slot.is_some() { 200 } else { 201 };
        let answer = shown(object, saved, columns.as_deref(), &[], call, status);
        return Ok(answer.with("Preference-Applied", "return=representation"));
    }
    let named = match address {
        Address::Keyed { set, column, key } => format!("{set}({column}='{key}')"),
        _ => format!("{}({})", object.def.name, org::row_id(object, saved)),
    };
    let link = format!("{}{ROOT}/{named}", call.origin);
    Ok(Response::empty(204).with("OData-EntityId", link))
}

/// Sets one column or lookup of a row.
pub fn set(
    object: &mut Object,
    call: &Call<'_>,
    address: &Address,
    change: Change,
    stamp: Stamp,
) -> Answer {
    address::only(call.request, &["tag"])?;
    let slot = find(object, address)?;
    admit(object, slot, call.request)?;
    let slot = slot.ok_or_else(|| missing(address))?;
    strike(object, Some(slot), &change, call)?;
    detect(object, Some(slot), &change, call.request)?;
    let saved = object.update(slot, change, stamp);
    saved.map_err(|taken| duplicate(object, taken))?;
    Ok(Response::empty(204))
}

/// One column of a row; an empty one is an answer without a body.
pub fn value(object: &Object, call: &Call<'_>, address: &Address, name: &str) -> Answer {
    address::only(call.request, &[])?;
    let at = address::column(object, name)?;
    let slot = find(object, address)?.ok_or_else(|| missing(address))?;
    let set = &object.def.name;
    let id = org::row_id(object, slot);
    let context = format!("{}{ROOT}/$metadata#{set}({id})/{name}", call.origin);
    Ok(match org::held(object, slot, at) {
        Json::Null => Response::empty(204),
        value => Response::json(200, &json!({"@odata.context": context, "value": value})),
    })
}

/// The id that a new row is to have.
fn given(object: &Object, id: &str) -> Result<Change, DataverseError> {
    if !org::is_id(id) {
        let text = format!("Cannot convert the literal '{id}' to the expected type 'Edm.Guid'.");
        return Err(DataverseError::payload(&object.def.name, &text));
    }
    let taken = org::slot(object, id).and_then(|slot| object.live(slot));
    match (taken, org::id_at(object)) {
        (None, Some(at)) => Ok(vec![(at, Some(Value::text(id)))]),
        _ => Err(DataverseError::new(
            412,
            "0x80040237",
            "Cannot insert duplicate key.",
        )),
    }
}

/// Whether the published rules take the row for a duplicate; asked only on request.
fn detect(
    object: &Object,
    slot: Option<u32>,
    change: &Change,
    request: &Request,
) -> Result<(), DataverseError> {
    let suppressed = request.header("mscrm.suppressduplicatedetection");
    if !suppressed.is_some_and(|told| told.eq_ignore_ascii_case("false")) {
        return Ok(());
    }
    let text = |value: Option<&Value>| value.and_then(Value::as_text).map(str::to_lowercase);
    let will_hold = |at: u16| match change.iter().find(|(sent, _)| *sent == at) {
        Some((_, value)) => text(value.as_ref()),
        None => text(slot.and_then(|slot| object.records[slot as usize].get(at))),
    };
    for rule in org::duplicate_rules(&object.def.name) {
        let columns: Option<Vec<u16>> = rule
            .iter()
            .map(|name| object.def.field(name).map(|(at, _)| at))
            .collect();
        let Some(columns) = columns else { continue };
        let touched = change.iter().any(|(at, _)| columns.contains(at));
        let sought: Option<Vec<String>> = columns.iter().map(|at| will_hold(*at)).collect();
        let Some(sought) = sought.filter(|_| touched) else {
            continue;
        };
        let alike = |other: u32| {
            let record = object.live(other).filter(|_| slot != Some(other));
            record.is_some_and(|record| {
                let mut pairs = columns.iter().zip(&sought);
                pairs.all(|(at, sought)| text(record.get(*at)).as_ref() == Some(sought))
            })
        };
        if (0..object.records.len() as u32).any(alike) {
            let text = "A record was not created or updated because a duplicate of the current record already exists.";
            return Err(DataverseError::new(412, "0x80040333", text));
        }
    }
    Ok(())
}

pub fn delete(object: &mut Object, call: &Call<'_>, address: &Address, stamp: Stamp) -> Answer {
    address::only(call.request, &["tag"])?;
    let slot = find(object, address)?;
    admit(object, slot, call.request)?;
    let slot = slot.ok_or_else(|| missing(address))?;
    strike(object, Some(slot), &Change::new(), call)?;
    // Deleting frees values; it cannot collide.
    let _ = object.set_life(slot, Life::Deleted, stamp);
    Ok(Response::empty(204))
}

fn duplicate(object: &Object, taken: Taken) -> DataverseError {
    let name = object.def.fields[taken.field as usize].name();
    let text = format!(
        "Entity Key {name} violated. A record with the same value for {name} already exists. A duplicate record cannot be created. \
         Select one or more unique values and try again."
    );
    DataverseError::new(412, "0x80060892", text)
}

/// Whether a fault wants this row to fail.
fn strike(
    object: &Object,
    slot: Option<u32>,
    change: &Change,
    call: &Call<'_>,
) -> Result<(), DataverseError> {
    if call.records.is_empty() {
        return Ok(());
    }
    let id = slot.map(|slot| org::row_id(object, slot));
    let ids: Vec<&str> = id.as_deref().into_iter().collect();
    match call.records.strike(&ids, &object.keys(slot, change)) {
        None => Ok(()),
        Some(failure) => Err(DataverseError::new(400, &failure.code, failure.message)),
    }
}
