//! `/composite/tree/{Type}`: new records with their children.
//!
//! Guarantees: all records are created or none; if none, the answer names those that are to blame.

use super::super::error::SfError;
use super::super::save::{self, Target, Writer};
use super::super::{Answer, org, reference, rows};
use super::limit;
use crate::http::{Request, Response};
use crate::store::Store;
use crate::value::Value;
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeSet, HashSet};

const MAX_RECORDS: usize = 200;
const MAX_TYPES: usize = 5;
const MAX_LEVELS: usize = 5;

/// A record of the tree, its parent among those before it.
struct Node<'a> {
    reference: &'a str,
    at: usize,
    fields: Map<String, Json>,
    /// Where the parent stands in the list, and the field that refers to it.
    parent: Option<(usize, u16)>,
    level: usize,
}

pub fn answer(store: &mut Store, request: &Request, name: &str, writer: &Writer<'_>) -> Answer {
    let root = store.position(name).ok_or_else(SfError::not_found)?;
    let body = Json::Object(rows::body_map(request)?);
    let mut nodes = Vec::new();
    read(store, root, &body["records"], None, &mut nodes)?;
    check(&nodes)?;
    // The slots of those created, in the order of the nodes.
    let mut slots: Vec<Option<u32>> = Vec::with_capacity(nodes.len());
    let mut failures = Vec::new();
    for node in &nodes {
        let parent = node.parent.map(|(parent, field)| {
            let slot = slots[parent]?;
            let id = org::record_id(&store.objects[nodes[parent].at], slot);
            Some((field, Some(Value::text(id))))
        });
        // Of a parent that failed there can be no children.
        let slot = match parent {
            Some(None) => None,
            parent => {
                let created = create(store, node, parent.flatten(), writer);
                created
                    .map_err(|error| failures.push((node.reference, error)))
                    .ok()
            }
        };
        slots.push(slot);
    }
    if failures.is_empty() {
        let results = nodes.iter().zip(&slots).map(|(node, slot)| {
            let id = slot.map(|slot| org::record_id(&store.objects[node.at], slot));
            json!({"referenceId": node.reference, "id": id})
        });
        let results: Vec<Json> = results.collect();
        let body = json!({"hasErrors": false, "results": results});
        return Ok(Response::json(201, &body));
    }
    for (node, slot) in nodes.iter().zip(slots).rev() {
        if let Some(slot) = slot {
            store.objects[node.at].restore(slot, None);
        }
    }
    let results = failures
        .iter()
        .map(|(reference, error)| json!({"referenceId": reference, "errors": [error.entry()]}));
    let results: Vec<Json> = results.collect();
    let body = json!({"hasErrors": true, "results": results});
    Ok(Response::json(400, &body))
}

fn create(
    store: &mut Store,
    node: &Node<'_>,
    parent: Option<(u16, Option<Value>)>,
    writer: &Writer<'_>,
) -> Result<u32, SfError> {
    let object = &store.objects[node.at];
    let mut change = save::change_of(store, object, &node.fields, &["attributes"], true)?;
    change.extend(parent);
    let object = &mut store.objects[node.at];
    Ok(save::save(object, Target::New, change, writer)?.slot)
}

/// Lists the records of one level, each followed by what is below it.
fn read<'a>(
    store: &Store,
    at: usize,
    list: &'a Json,
    parent: Option<(usize, u16)>,
    nodes: &mut Vec<Node<'a>>,
) -> Result<(), SfError> {
    let list = list.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| SfError::unparsable("records is missing or empty"))?;
    for record in list {
        let text = |key: &str| record["attributes"][key].as_str().unwrap_or_default();
        let (kind, reference) = (text("type"), text("referenceId"));
        if store.position(kind) != Some(at) {
            let expected = &store.objects[at].def.name;
            let message = format!("Include {expected} as the type of the record, not '{kind}'");
            return Err(SfError::new(400, "INVALID_INPUT", message));
        }
        if reference.is_empty() {
            let message = "Include a reference ID for each record in the request.";
            return Err(SfError::new(400, "INVALID_INPUT", message));
        }
        let children: Vec<_> = reference::children(store, at).collect();
        let below = |name: &str| {
            let mut children = children.iter();
            children.find(|(_, _, relation)| relation.eq_ignore_ascii_case(name))
        };
        let here = nodes.len();
        let level = parent.map_or(1, |(parent, _)| nodes[parent].level + 1);
        let fields = record.as_object().into_iter().flatten();
        let (lists, fields): (Vec<_>, Vec<_>) =
            fields.partition(|(name, value)| below(name).is_some() && value["records"].is_array());
        nodes.push(Node {
            reference,
            at,
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            parent,
            level,
        });
        for (name, value) in lists {
            if let Some((at, field, _)) = below(name) {
                read(store, *at, &value["records"], Some((here, *field)), nodes)?;
            }
        }
    }
    Ok(())
}

fn check(nodes: &[Node<'_>]) -> Result<(), SfError> {
    if nodes.len() > MAX_RECORDS {
        return Err(limit(format!(
            "A tree can have up to {MAX_RECORDS} records"
        )));
    }
    if nodes.iter().any(|node| node.level > MAX_LEVELS) {
        return Err(limit(format!(
            "A tree can be up to {MAX_LEVELS} levels deep"
        )));
    }
    let types: BTreeSet<usize> = nodes.iter().map(|node| node.at).collect();
    if types.len() > MAX_TYPES {
        return Err(limit(format!("A tree can have up to {MAX_TYPES} types")));
    }
    let mut seen = HashSet::new();
    match nodes.iter().find(|node| !seen.insert(node.reference)) {
        None => Ok(()),
        Some(node) => {
            let message = format!(
                "Duplicate ReferenceId provided in the request: {}",
                node.reference
            );
            Err(SfError::new(400, "INVALID_INPUT", message))
        }
    }
}
