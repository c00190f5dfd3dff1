//! What is addressed below a set or a row: `/$count`, a single column, and the link of a lookup.

use super::address::{self, Address};
use super::error::DataverseError;
use super::{Answer, rows, save, track};
use crate::store::{Stamp, Store};
use crate::vendor::Call;
use serde_json::Value as Json;

pub fn answer(
    store: &mut Store,
    at: usize,
    call: &Call<'_>,
    address: &Address,
    path: &[&str],
    stamp: Stamp,
) -> Answer {
    let object = &store.objects[at];
    let is_set = matches!(address, Address::Set(_));
    let change = match (call.request.method.as_str(), path) {
        ("GET", ["$count"]) if is_set => return track::count(object, call),
        (_, _) if is_set => return Err(DataverseError::no_segment(path[0])),
        ("GET", [name]) => return rows::value(object, call, address, name),
        ("PUT", [navigation, "$ref"]) => {
            let link = &sent(call, "@odata.id")?;
            vec![save::bound(store, object, navigation, link)?]
        }
        ("DELETE", [navigation, "$ref"]) => match save::lookup(object, navigation) {
            Some((at, _)) => vec![(at, None)],
            None => return Err(DataverseError::no_segment(navigation)),
        },
        ("PUT", [name]) => {
            let value = sent(call, "value")?;
            save::column(object, name, &value)?.into_iter().collect()
        }
        ("DELETE", [name]) => {
            address::column(object, name)?;
            let change = save::column(object, name, &Json::Null)?;
            change.into_iter().collect()
        }
        _ => return Err(DataverseError::no_segment(path.last().unwrap_or(&""))),
    };
    rows::set(&mut store.objects[at], call, address, change, stamp)
}

/// The one property that the body has.
fn sent(call: &Call<'_>, name: &str) -> Result<Json, DataverseError> {
    let body: Json = serde_json::from_slice(&call.request.body)
        .map_err(|error| DataverseError::payload("", &error.to_string()))?;
    let value = body.get(name).cloned();
    value.ok_or_else(|| DataverseError::payload("", &format!("The property '{name}' is missing.")))
}
