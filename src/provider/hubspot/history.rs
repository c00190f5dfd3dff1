//! Looking back at writes: HubSpot writes unconditionally, but keeps every value that a property had,
//! with its time and source. A value that lies between what we read and what we wrote is one that
//! somebody else set in that gap, and that our write replaced.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{errors, object_path};
use crate::errors::{refused, unreadable};
use crate::{
    DoneBatch, DoneField, DoneRecord, Method, Operation, Overwritten, Request, Response, Step, wire,
};

/// Inputs in one batch read that asks for histories: half of what it takes otherwise.
const LIMIT: usize = 50;

/// Times of one change are up to a millisecond apart from property to property.
const SLACK: i64 = 1;

pub(super) struct LookBack {
    batch: Arc<DoneBatch>,
    /// Where the records of the request under way begin.
    at: usize,
    found: Vec<Vec<Overwritten>>,
}

/// The histories of one record, by property; newest first.
type Histories = HashMap<String, Option<Vec<Entry>>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
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

#[derive(Deserialize)]
struct Answer {
    results: Vec<Found>,
    errors: Option<Vec<Json>>,
}

impl LookBack {
    pub fn new(batch: Arc<DoneBatch>) -> LookBack {
        LookBack {
            found: Vec::with_capacity(batch.records.len()),
            at: 0,
            batch,
        }
    }

    fn slice(&self) -> &[DoneRecord] {
        let records = &self.batch.records;
        &records[self.at..records.len().min(self.at + LIMIT)]
    }

    fn next(&mut self) -> Step<Vec<Vec<Overwritten>>> {
        let records = self.slice();
        if records.is_empty() {
            return Step::Done(Ok(std::mem::take(&mut self.found)));
        }
        let ids: BTreeSet<&str> = records.iter().map(|r| r.crm_id.as_str()).collect();
        let inputs: Vec<Json> = ids.into_iter().map(|id| json!({ "id": id })).collect();
        let names: BTreeSet<&str> = records
            .iter()
            .flat_map(|record| &record.fields)
            .map(|done| done.field.name.as_str())
            .collect();
        let path = format!("{}/batch/read", object_path(&self.batch.object));
        Step::Send(
            Request::new(Method::Post, path)
                .json(
                    &json!({ "inputs": inputs, "properties": [], "propertiesWithHistory": names }),
                )
                .repeatable(),
        )
    }

    fn take(&mut self, response: &Response) -> Result<(), Failure> {
        if let Some(failure) = errors::of_response(response) {
            return Err(refused(failure));
        }
        let answer: Answer =
            serde_json::from_slice(&response.body).map_err(|_| unreadable(response))?;
        // A record that is gone has lost more than a value, and another path tells that.
        let failures = answer.errors.iter().flatten().map(errors::of_records);
        if let Some(failure) = failures
            .into_iter()
            .find(|failure| failure.class != ErrorClass::NotFound)
        {
            return Err(failure);
        }
        let histories: HashMap<String, Histories> = answer
            .results
            .into_iter()
            .filter_map(|found| Some((found.id, found.properties_with_history?)))
            .collect();
        let records = self.slice();
        let found: Vec<Vec<Overwritten>> = records
            .iter()
            .map(|record| match histories.get(&record.crm_id) {
                Some(histories) => of_record(record, histories),
                None => Vec::new(),
            })
            .collect();
        self.at += found.len();
        self.found.extend(found);
        Ok(())
    }
}

impl Operation<Vec<Vec<Overwritten>>> for LookBack {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Vec<Overwritten>>> {
        match answer.map_or(Ok(()), |response| self.take(&response)) {
            Ok(()) => self.next(),
            Err(failure) => Step::Done(Err(failure)),
        }
    }
}

fn of_record(record: &DoneRecord, histories: &Histories) -> Vec<Overwritten> {
    let of_field = |done: &DoneField| {
        let entry = replaced(
            done,
            record.modified_at,
            histories.get(&done.field.name)?.as_ref()?,
        )?;
        Some(Overwritten {
            field: done.field.clone(),
            value: entry.value.clone(),
            modified_at: wire::moment(&entry.timestamp),
            source: entry.source(),
        })
    };
    record.fields.iter().filter_map(of_field).collect()
}

/// The foreign value that our write replaced, if it was one that we had not read. `read_at` is the
/// modification time of the record as it was read.
///
/// Our own entry is the newest that holds what we wrote. There is none if the property held that
/// value already, since what does not change makes no history; so whatever was there when we read
/// ends the search. The entry before ours is what we replaced.
fn replaced<'a>(done: &DoneField, read_at: Option<i64>, history: &'a [Entry]) -> Option<&'a Entry> {
    let holds = |entry: &Entry, value: &Value| entry.canonical(done).as_ref() == Some(value);
    let was_read = |entry: &Entry| {
        let at = wire::moment(&entry.timestamp);
        at.zip(read_at).is_some_and(|(at, read)| at + SLACK < read)
    };
    let knows_time = |entry: &Entry| read_at.is_some() && !entry.timestamp.is_null();
    // Without times, what we read can only be told by its value.
    let since_read = history
        .iter()
        .take_while(|entry| !was_read(entry) && (knows_time(entry) || !holds(entry, &done.read)));
    let ours: Vec<usize> = since_read
        .enumerate()
        .filter(|(_, entry)| holds(entry, &done.written))
        .map(|(at, _)| at)
        .collect();
    // A person who set the same value later, or before, is not us.
    let by_us = ours
        .iter()
        .copied()
        .find(|&at| history[at].is_by_a_program());
    let at = by_us.or_else(|| ours.first().copied())?;
    let before = history.get(at + 1)?;
    (!was_read(before) && !holds(before, &done.read)).then_some(before)
}

impl Entry {
    fn canonical(&self, done: &DoneField) -> Option<Value> {
        wire::read(done.field.data_type, &self.value).ok()
    }

    /// What an app writes is an `INTEGRATION`'s; the list of sources is open.
    fn is_by_a_program(&self) -> bool {
        let source = self.source_type.as_deref();
        source.is_none_or(|source| matches!(source, "INTEGRATION" | "API"))
    }

    fn source(&self) -> Option<String> {
        let parts = [&self.source_type, &self.source_id];
        let parts: Vec<&str> = parts.into_iter().filter_map(Option::as_deref).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }
}
