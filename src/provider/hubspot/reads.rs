//! Reading records by id, 100 in one request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde_json::{Map, Value as Json, json};

use super::api::object_path;
use super::errors;
use crate::body::{Item, Listed};
use crate::errors::{refused, unreadable, unreadable_record};
use crate::operation::Exchange;
use crate::record::in_order;
use crate::success::hubspot as success;
use crate::{BoxOperation, CrmObject, Method, ReadBatch, Request, Response, wire};

/// Inputs in one batch request.
pub(super) const LIMIT: usize = 100;

/// The property that says when a record was last modified: contacts have a name of their own for
/// it.
pub(super) fn modified_property(object: &str) -> &'static str {
    match object.to_ascii_lowercase().as_str() {
        "contacts" | "contact" | "0-1" => "lastmodifieddate",
        _ => "hs_lastmodifieddate",
    }
}

pub(super) fn read(batch: Arc<ReadBatch>) -> BoxOperation<Vec<Option<CrmObject>>> {
    let ids: BTreeSet<&String> = batch.ids.iter().collect();
    let inputs: Vec<Json> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    let mut properties: BTreeSet<&str> = batch
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    properties.insert(modified_property(&batch.object));
    let request = Request::new(
        Method::Post,
        format!("{}/batch/read", object_path(&batch.object)),
    )
    .json(&json!({ "inputs": inputs, "properties": properties, "propertiesWithHistory": [] }))
    .success(success::BATCH_READ)
    .repeatable();
    Box::new(Exchange::new(request, move |response| {
        objects(&batch, &response)
    }))
}

fn objects(batch: &ReadBatch, response: &Response) -> Result<Vec<Option<CrmObject>>, Failure> {
    errors::check(response).map_err(refused)?;
    let listed = response.list("results");
    let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
    for error in rest["errors"].as_array().into_iter().flatten() {
        let failure = errors::of_records(error);
        // Not found is an answer. Anything else leaves open whether the record is there.
        if failure.class != ErrorClass::NotFound {
            return Err(failure);
        }
    }
    let mut found = HashMap::with_capacity(items.len());
    let mut unidentified = 0;
    for item in items {
        match object(batch, item) {
            Some(object) => drop(found.insert(object.crm_id.clone(), object)),
            None => unidentified += 1,
        }
    }
    Ok(in_order(&batch.ids, unidentified, |id| {
        found.get(id).cloned()
    }))
}

/// A record; `None`: it does not say which.
fn object(batch: &ReadBatch, item: Item) -> Option<CrmObject> {
    let Item { mut json, damage } = item;
    let crm_id = wire::id(&json["id"])?;
    let (mut properties, damage) = match wire::member(&mut json, "properties") {
        Json::Object(properties) => (properties, damage),
        _ => (
            Map::new(),
            damage.or_else(|| Some(unreadable_record("it has no properties"))),
        ),
    };
    let modified = properties
        .get(modified_property(&batch.object))
        .filter(|at| !at.is_null());
    let modified = modified.or(json.get("updatedAt"));
    let modified_at = modified.and_then(wire::moment);
    let asked = batch
        .fields
        .iter()
        .filter_map(|field| properties.remove_entry(&field.name));
    let fields: Map<String, Json> = asked.collect();
    // HubSpot has no conditional writes, so nothing that one would need.
    Some(CrmObject {
        crm_id,
        fields,
        modified_at,
        version: None,
        damage,
    })
}
