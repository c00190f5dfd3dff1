//! Works through a file, and writes down what became of its rows.

use super::super::error::ZohoError;
use super::super::org::is_list;
use super::super::save::{self, Writer};
use super::Shared;
use super::order::Plan;
use crate::clock::Clock;
use crate::faults::RecordFaults;
use crate::store::{Actor, Object, Stamp, Store};
use crate::value::Kind;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json};
use std::io::{Cursor, Write};
use std::sync::Arc;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Rows under one lock, so that other requests get their turn.
const CHUNK: usize = 200;
/// Columns of the upload that the result repeats.
const REPEATED: usize = 3;
/// A record fault with this code fails the job, and what follows stays unprocessed.
const JOB_FAILED: &str = "JOB_FAILED";

pub struct Load {
    pub id: String,
    pub plan: Plan,
    pub jobs: Shared,
    pub store: Arc<Mutex<Store>>,
    pub clock: Arc<Clock>,
    pub records: RecordFaults,
}

/// A line of the result after the columns of the upload: status, id, errors.
type Outcome = (&'static str, String, String);

impl Load {
    pub fn run(&self) {
        self.change(|job| job.status = "INPROGRESS");
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .from_reader(&self.plan.csv[..]);
        let header = reader.headers().cloned().unwrap_or_default();
        let rows: Vec<csv::StringRecord> = reader.records().map_while(Result::ok).collect();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(rows.len());
        let mut failed = false;
        for chunk in rows.chunks(CHUNK) {
            // A reset forgets the job first, and then waits for the store.
            let mut store = self.store.lock();
            if !self.jobs.lock().jobs.contains_key(&self.id) {
                return;
            }
            let Some(object) = store.object_mut(&self.plan.module) else {
                return;
            };
            for row in chunk {
                let outcome = match failed {
                    true => None,
                    false => Some(self.apply(object, outcomes.len(), row)),
                };
                failed |= matches!(&outcome, Some(Err(error)) if error.code == JOB_FAILED);
                outcomes.push(match outcome {
                    _ if failed => ("UNPROCESSED", String::new(), String::new()),
                    Some(Ok((status, id))) => (status, id, String::new()),
                    Some(Err(error)) => ("SKIPPED", String::new(), spelled(&error)),
                    None => continue,
                });
            }
        }
        let count = |status: &str| outcomes.iter().filter(|(told, ..)| *told == status).count();
        let (added, updated) = (count("ADDED"), count("UPDATED"));
        let skipped = outcomes.len() - added - updated;
        let result = self.result(&header, &rows, &outcomes);
        self.change(|job| {
            (job.added, job.updated, job.skipped) = (added, updated, skipped);
            job.result = Some(result);
            job.status = if failed { "FAILED" } else { "COMPLETED" };
        });
    }

    fn change(&self, change: impl FnOnce(&mut super::Job)) {
        if let Some(job) = self.jobs.lock().jobs.get_mut(&self.id) {
            change(job);
        }
    }

    fn apply(
        &self,
        object: &mut Object,
        index: usize,
        row: &csv::StringRecord,
    ) -> Result<(&'static str, String), ZohoError> {
        let mut item = Map::new();
        for (column, name) in &self.plan.columns {
            let cell = row.get(*column).unwrap_or_default();
            if cell.is_empty() && self.plan.ignore_empty {
                continue;
            }
            item.insert(name.clone(), value_of(object, name, cell)?);
        }
        let stamp = Stamp {
            at: self.clock.now(),
            by: Actor::Integration,
        };
        let writer = Writer {
            stamp,
            records: &self.records,
        };
        let saved = save::save(
            object,
            self.plan.verb,
            index,
            &item.into(),
            &self.plan.keys,
            &writer,
        )?;
        let status = match saved["action"] == "insert" {
            true => "ADDED",
            false => "UPDATED",
        };
        Ok((
            status,
            saved["details"]["id"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        ))
    }

    fn result(
        &self,
        header: &csv::StringRecord,
        rows: &[csv::StringRecord],
        outcomes: &[Outcome],
    ) -> Vec<u8> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        fastrand::Rng::with_seed(rows.len() as u64).shuffle(&mut order);
        let mut csv = csv::WriterBuilder::new()
            .flexible(true)
            .from_writer(Vec::new());
        let told = ["STATUS", "RECORD_ID", "ERRORS"];
        let _ = csv.write_record(header.iter().take(REPEATED).chain(told));
        for at in order {
            let (status, id, errors) = &outcomes[at];
            let told = [status, id.as_str(), errors.as_str()];
            let _ = csv.write_record(rows[at].iter().take(REPEATED).chain(told));
        }
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let name = format!("{}-{}.csv", self.plan.module, self.id);
        let _ = zip.start_file(name, SimpleFileOptions::default());
        let _ = zip.write_all(&csv.into_inner().unwrap_or_default());
        zip.finish().map(Cursor::into_inner).unwrap_or_default()
    }
}

/// A cell in the form that calls have it.
fn value_of(object: &Object, name: &str, cell: &str) -> Result<Json, ZohoError> {
    let field = match object.def.field(name) {
        _ if cell.is_empty() => return Ok(Json::Null),
        Some((_, field)) if field.name() == name => field,
        _ => return Ok(cell.into()),
    };
    let wrong = || ZohoError::field("INVALID_DATA", name, Json::Null);
    Ok(match field.kind {
        _ if is_list(field) => cell.split(';').collect(),
        Kind::Bool => cell.parse::<bool>().map_err(|_| wrong())?.into(),
        Kind::Int | Kind::Number => Json::Number(serde_json::from_str(cell).map_err(|_| wrong())?),
        _ => cell.into(),
    })
}

/// `CODE-Column`
fn spelled(error: &ZohoError) -> String {
    match error.details["api_name"].as_str() {
        Some(name) => format!("{}-{name}", error.code),
        None => error.code.clone(),
    }
}
