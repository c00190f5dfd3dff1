//! `/composite/graph`: several independent transactions.
//!
//! Guarantees: a graph is written as a whole or not at all, whatever becomes of the others; after a
//! number of failed graphs the rest is not tried.

use super::super::error::SfError;
use super::super::{Answer, Salesforce, rows};
use super::{Entry, Run, entries, halted, limit, references};
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use serde_json::{Value as Json, json};
use std::collections::{HashMap, HashSet};

const MAX_GRAPHS: usize = 75;
const MAX_NODES: usize = 500;
const MAX_DEPTH: usize = 15;
/// Of version, method and object together.
const MAX_KINDS: usize = 15;
const MAX_FAILURES: usize = 14;

pub fn answer(sf: &Salesforce, request: &Request, records: &RecordFaults) -> Answer {
    let body = Json::Object(rows::body_map(request)?);
    let list = body["graphs"].as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| SfError::unparsable("graphs is missing or empty"))?;
    if list.len() > MAX_GRAPHS {
        return Err(limit(format!(
            "A request can have up to {MAX_GRAPHS} graphs"
        )));
    }
    let mut graphs: Vec<(&str, Vec<Entry<'_>>)> = Vec::with_capacity(list.len());
    for graph in list {
        let id = graph["graphId"].as_str().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| SfError::unparsable("Required field missing: graphId"))?;
        if graphs.iter().any(|(held, _)| *held == id) {
            return Err(SfError::unparsable(format!("Duplicate graphId: {id}")));
        }
        graphs.push((id, entries(&graph["compositeRequest"], request)?));
    }
    check(&graphs)?;
    let run = Run { sf, records };
    let mut failures = 0;
    let shown = graphs.iter().map(|(id, entries)| {
        let (shown, good) = match failures < MAX_FAILURES {
            true => run.all(entries, true),
            false => (entries.iter().map(skipped).collect(), false),
        };
        failures += usize::from(!good);
        json!({
            "graphId": id,
            "graphResponse": {"compositeResponse": shown},
            "isSuccessful": good,
        })
    });
    let shown: Vec<Json> = shown.collect();
    Ok(Response::json(200, &json!({"graphs": shown})))
}

fn skipped(entry: &Entry<'_>) -> Json {
    json!({
        "body": [halted().shown()],
        "httpHeaders": {},
        "httpStatusCode": 400,
        "referenceId": entry.reference,
    })
}

fn check(graphs: &[(&str, Vec<Entry<'_>>)]) -> Result<(), SfError> {
    let nodes = || graphs.iter().flat_map(|(_, entries)| entries);
    if nodes().count() > MAX_NODES {
        return Err(limit(format!("A request can have up to {MAX_NODES} nodes")));
    }
    let mut kinds = HashSet::new();
    for entry in nodes() {
        let mut parts = entry.url.split(['/', '?']).skip(3);
        let (version, resource, object) = (parts.next(), parts.next(), parts.next());
        if resource != Some("sobjects") {
            let message = format!("{} is not allowed in a graph", entry.url);
            return Err(SfError::unparsable(message));
        }
        kinds.insert((version, entry.method.as_str(), object));
    }
    if kinds.len() > MAX_KINDS {
        let message = format!("A request can have up to {MAX_KINDS} different nodes");
        return Err(limit(message));
    }
    match graphs.iter().any(|(_, entries)| depth(entries) > MAX_DEPTH) {
        true => Err(limit(format!(
            "A graph can be up to {MAX_DEPTH} nodes deep"
        ))),
        false => Ok(()),
    }
}

/// The longest chain of references.
fn depth(entries: &[Entry<'_>]) -> usize {
    let mut depths: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        let body = entry.body.to_string();
        let named = references::named(entry.url).chain(references::named(&body));
        let below = named.filter_map(|name| depths.get(name)).max();
        let depth = 1 + below.copied().unwrap_or_default();
        depths.insert(entry.reference, depth);
    }
    depths.into_values().max().unwrap_or_default()
}
