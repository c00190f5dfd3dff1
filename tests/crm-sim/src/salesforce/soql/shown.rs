//! Records whose columns lead to other records, as JSON and as rows of CSV.

use super::super::org;
use super::path::{Hop, Path};
use crate::store::Store;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    Field(Path),
    Children(Children),
}

/// Records that refer to each record found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Children {
    pub name: String,
    pub object: usize,
    pub columns: Vec<Column>,
    /// By the slot of the parent.
    pub slots: HashMap<u32, Vec<u32>>,
}

/// A record with its `attributes`, parents nested and children listed.
pub fn record(store: &Store, at: usize, slot: u32, columns: &[Column], version: &str) -> Json {
    let mut shown = attributes(store, at, slot, version);
    for column in columns {
        match column {
            Column::Field(path) => put(store, (at, slot), &path.via, path, &mut shown, version),
            Column::Children(children) => {
                let slots = children.slots.get(&slot).map_or(&[][..], Vec::as_slice);
                let records = slots
                    .iter()
                    .map(|slot| record(store, children.object, *slot, &children.columns, version));
                let records: Vec<Json> = records.collect();
                let list = match records.len() {
                    0 => Json::Null,
                    total => json!({"totalSize": total, "done": true, "records": records}),
                };
                shown.insert(children.name.clone(), list);
            }
        }
    }
    shown.into()
}

fn put(
    store: &Store,
    (at, slot): (usize, u32),
    via: &[Hop],
    path: &Path,
    shown: &mut Map<String, Json>,
    version: &str,
) {
    let Some((hop, rest)) = via.split_first() else {
        let object = &store.objects[at];
        let field = &object.def.fields[path.at as usize];
        let cell = org::Cell(org::read(object, slot, path.at), field.kind);
        let cell = serde_json::to_value(cell).expect("a cell serialises");
        shown.insert(field.name().to_owned(), cell);
        return;
    };
    match hop.follow(store, at, slot) {
        None => drop(shown.insert(hop.name.clone(), Json::Null)),
        Some(parent) => {
            let nested = shown
                .entry(hop.name.clone())
                .or_insert_with(|| attributes(store, hop.object, parent, version).into());
            if let Json::Object(nested) = nested {
                put(store, (hop.object, parent), rest, path, nested, version);
            }
        }
    }
}

fn attributes(store: &Store, at: usize, slot: u32, version: &str) -> Map<String, Json> {
    let object = &store.objects[at];
    let name = &object.def.name;
    let id = org::record_id(object, slot);
    let url = format!("/services/data/{version}/sobjects/{name}/{id}");
    Map::from_iter([("attributes".to_owned(), json!({"type": name, "url": url}))])
}

/// What a column is called in CSV: `Account.Name`.
pub fn header(store: &Store, path: &Path) -> String {
    let mut name: String = path
        .via
        .iter()
        .map(|hop| format!("{}.", hop.name))
        .collect();
    name.push_str(path.field(store).name());
    name
}
