//! `/composite/sobjects/{Type}`: many records by id.
//!
//! Guarantees: the answer stands in the order of the ids, null for those that are not there.

use super::error::SfError;
use super::rows::body_map;
use super::{Answer, org};
use crate::http::{Request, Response};
use crate::store::Store;
use serde_json::Value as Json;

const MAX_RETRIEVE: usize = 2000;

pub fn answer(store: &Store, request: &Request, name: &str, version: &str) -> Answer {
    let object = store.object(name).ok_or_else(SfError::not_found)?;
    let (ids, names, limit) = match request.method.as_str() {
        "GET" => (request.list("ids"), request.list("fields"), 800),
        _ => {
            let body = body_map(request)?;
            let list = |key: &str| -> Vec<String> {
                let list = body.get(key).and_then(Json::as_array);
                let texts = list.into_iter().flatten().filter_map(Json::as_str);
                texts.map(str::to_owned).collect()
            };
            (list("ids"), list("fields"), MAX_RETRIEVE)
        }
    };
    if ids.len() > limit {
        let message = format!("The number of ids exceeds the limit of {limit}.");
        return Err(SfError::new(400, "EXCEEDED_ID_LIMIT", message));
    }
    if names.is_empty() {
        return Err(SfError::new(
            400,
            "MISSING_ARGUMENT",
            "The fields property is missing",
        ));
    }
    let mut fields = org::select(&object.def, &names)
        .map_err(|name| SfError::unknown_field(&name, &object.def.name))?;
    // The id always comes along.
    if !fields.contains(&0) {
        fields.push(0);
    }
    let rows: Vec<_> = ids
        .iter()
        .map(|id| {
            org::live_slot(object, id).map(|slot| org::Row {
                object,
                slot,
                fields: &fields,
                version,
            })
        })
        .collect();
    Ok(Response::json(200, &rows))
}
