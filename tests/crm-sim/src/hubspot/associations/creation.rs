//! Associations of a record that is created, and those of a record that is read.

use super::kinds::Kind;
use super::{End, Links, id_of, kinds_of, missing, type_name};
use crate::hubspot::error::HsError;
use crate::hubspot::{portal, unknown_type};
use crate::store::Store;
use serde_json::{Map, Value as Json, json};

/// An association that a creation asks for.
pub struct Wanted {
    to: End,
    kinds: Vec<Kind>,
}

/// Reads `associations` of a creation.
pub fn wanted(
    store: &Store,
    links: &Links,
    at: usize,
    body: &Map<String, Json>,
) -> Result<Vec<Wanted>, HsError> {
    let list = match body.get("associations") {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Array(list)) => list,
        Some(_) => {
            return Err(HsError::validation(
                "Invalid input JSON: associations must be a list",
            ));
        }
    };
    let one = |entry: &Json| {
        let kinds = kinds_of(links, at, &entry["types"])?;
        let to = kinds[0].to;
        if kinds.iter().any(|kind| kind.to != to) {
            return Err(HsError::validation(
                "The types of one association must lead to one object",
            ));
        }
        let id = id_of(&entry["to"]);
        let slot = portal::live_slot(&store.objects[to], &id).ok_or_else(|| missing(&id))?;
        let to = (to, slot);
        Ok(Wanted { to, kinds })
    };
    list.iter().map(one).collect()
}

/// Makes the associations that a creation asked for.
pub fn connect(links: &mut Links, from: End, wanted: &[Wanted]) {
    for Wanted { to, kinds } in wanted {
        links.put(from, *to, kinds);
    }
}

/// `associations` of a record that is read, by the names of the objects asked for.
pub fn shown(store: &Store, links: &Links, from: End, names: &[String]) -> Result<Json, HsError> {
    let mut shown = Map::new();
    for name in names {
        let at = portal::position(store, name).ok_or_else(|| unknown_type(name))?;
        let object = &store.objects[at];
        let kinds = &links.kinds;
        let found = links.of(store, from, at);
        let results: Vec<Json> = found
            .iter()
            .flat_map(|(slot, types)| {
                let id = portal::record_id(object, *slot);
                let types = types.iter().filter_map(|id| kinds.get(from.0, *id));
                let named = types.map(|kind| type_name(store, kind));
                named.map(move |name| json!({"id": id, "type": name}))
            })
            .collect();
        if !results.is_empty() {
            shown.insert(object.def.name.clone(), json!({"results": results}));
        }
    }
    Ok(shown.into())
}
