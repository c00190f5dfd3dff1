//! The history of writes: HubSpot writes unconditionally, but keeps every value that a property
//! had, with its time and source.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::api::object_path;
use super::errors;
use crate::body::Listed;
use crate::errors::{refused, unreadable};
use crate::history::{Entry, overwritten};
use crate::operation::Exchange;
use crate::success::hubspot as success;
use crate::{BoxOperation, DoneBatch, DoneRecord, Method, Overwritten, Request, Response, wire};

/// Inputs in one batch read that asks for histories: half of what it takes otherwise.
pub(super) const LIMIT: usize = 50;

/// The histories of one record, by property; newest first.
type Histories = HashMap<String, Option<Vec<Held>>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    #[serde(default)]
    value: Json,
    #[serde(default)]
    timestamp: Json,
    #[serde(default)]
    source_type: Option<String>,
    #[serde(default)]
    source_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    id: String,
    properties_with_history: Option<Histories>,
}

pub(super) fn read_history(batch: Arc<DoneBatch>) -> BoxOperation<Vec<Vec<Overwritten>>> {
    let records = &batch.records;
    let ids: BTreeSet<&str> = records.iter().map(|r| r.crm_id.as_str()).collect();
    let inputs: Vec<Json> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    let names: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| &record.fields)
        .map(|done| done.field.name.as_str())
        .collect();
    let path = format!("{}/batch/read", object_path(&batch.object));
    let request = Request::new(Method::Post, path)
        .json(&json!({ "inputs": inputs, "properties": [], "propertiesWithHistory": names }))
        .success(success::BATCH_READ)
        .repeatable();
    Box::new(Exchange::new(request, move |response| {
        replaced(&batch, &response)
    }))
}

fn replaced(batch: &DoneBatch, response: &Response) -> Result<Vec<Vec<Overwritten>>, Failure> {
    errors::check(response).map_err(refused)?;
    let listed = response.list("results");
    let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
    // A record that is gone has lost more than a value, and another path tells that.
    let mut failures = rest["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(errors::of_records);
    if let Some(failure) = failures.find(|failure| failure.class != ErrorClass::NotFound) {
        return Err(failure);
    }
    // What cannot be read tells nothing.
    let readable = items.into_iter().filter(|item| item.damage.is_none());
    let found = readable.filter_map(|item| serde_json::from_value::<Found>(item.json).ok());
    let histories: HashMap<String, HashMap<String, Vec<Entry>>> = found
        .filter_map(|found| Some((found.id, entries(found.properties_with_history?))))
        .collect();
    let of_record = |record: &DoneRecord| {
        let held = histories.get(&record.crm_id)?;
        let history = |name: &str| held.get(name).map(Vec::as_slice);
        Some(overwritten(record, history, wire::read))
    };
    let records = batch.records.iter();
    Ok(records
        .map(|record| of_record(record).unwrap_or_default())
        .collect())
}

fn entries(histories: Histories) -> HashMap<String, Vec<Entry>> {
    let known = histories
        .into_iter()
        .filter_map(|(name, held)| Some((name, held?)));
    known
        .map(|(name, held)| (name, held.into_iter().map(Held::entry).collect()))
        .collect()
}

impl Held {
    fn entry(self) -> Entry {
        let source = self.source_type.as_deref();
        // What an app writes is an `INTEGRATION`'s; the list of sources is open.
        let is_by_a_program = source.is_none_or(|source| matches!(source, "INTEGRATION" | "API"));
        let parts = [&self.source_type, &self.source_id];
        let parts: Vec<&str> = parts.into_iter().filter_map(Option::as_deref).collect();
        Entry {
            source: (!parts.is_empty()).then(|| parts.join(" ")),
            at: wire::moment(&self.timestamp),
            value: self.value,
            is_by_a_program,
        }
    }
}
