//! Works through an uploaded file.
//!
//! Guarantees: rows are applied in the order of the file, 200 under one lock, so other requests get
//! their turn; a bad row fails alone; an unknown column fails the job before the first row.

use super::super::error::SfError;
use super::super::save::{self, Target, Writer};
use super::super::{Org, org, reference};
use super::columns::{Column, Plan, check_line_end, columns, well_quoted};
use super::{Job, Operation, Outcome, Row, Shared, State};
use crate::faults::RecordFaults;
use crate::store::{Actor, Change, Stamp, Store};
use crate::value::Raw;
use csv::{ByteRecord, ReaderBuilder};
use std::time::{Duration, Instant};

const CHUNK: usize = 200;
/// A record fault with this code fails the job, and what follows stays unprocessed.
const JOB_FAILED: &str = "JOB_FAILED";

pub fn run(org: &Org, job: &Shared<Job>, records: &RecordFaults) {
    let latency = Duration::from_millis(org.services.settings.read().bulk_latency_ms);
    if !wait(job, latency) {
        return leave_unprocessed(job);
    }
    let plan = {
        let job = job.lock();
        let object = org.store.lock().position(&job.object);
        object.map(|object| Plan {
            data: job.data.clone().unwrap_or_default(),
            object,
            operation: job.operation,
            key: job.key.clone(),
            delimiter: job.delimiter,
            crlf: job.crlf,
        })
    };
    let result = plan
        .ok_or_else(|| "InvalidJob : the object is gone".to_owned())
        .and_then(|plan| load(org, job, &plan, records));
    let mut job = job.lock();
    job.changed = org.services.clock.now();
    match (job.state, result) {
        (State::Aborted, _) => {}
        (_, Ok(())) => job.state = State::JobComplete,
        (_, Err(error)) => {
            job.state = State::Failed;
            job.error = Some(error);
        }
    }
}

/// Stays in progress for the configured time; false when aborted meanwhile.
fn wait(job: &Shared<Job>, latency: Duration) -> bool {
    {
        let mut job = job.lock();
        if job.state != State::UploadComplete {
            return false;
        }
        job.state = State::InProgress;
    }
    let until = Instant::now() + latency;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::sleep(left.min(Duration::from_millis(10)));
        if job.lock().state != State::InProgress {
            return false;
        }
    }
    true
}

fn load(org: &Org, job: &Shared<Job>, plan: &Plan, records: &RecordFaults) -> Result<(), String> {
    let mut reader = ReaderBuilder::new()
        .delimiter(plan.delimiter)
        .flexible(true)
        .from_reader(&*plan.data);
    let header = reader
        .byte_headers()
        .map_err(|error| error.to_string())?
        .clone();
    check_line_end(plan)?;
    let columns = columns(&org.store.lock().objects[plan.object], &header, plan)?;
    job.lock().header_end = reader.position().byte() as u32;
    let mut row = ByteRecord::new();
    let mut failed_job = None;
    loop {
        let mut chunk: Vec<Row> = Vec::with_capacity(CHUNK);
        let stamp = Stamp {
            at: org.services.clock.now(),
            by: Actor::Integration,
        };
        let writer = Writer {
            stamp,
            records,
            // Jobs cannot insist.
            duplicates: false,
        };
        let mut store = org.store.lock();
        // Asked under the store's lock: a reset aborts first and then waits for that lock.
        if job.lock().state == State::Aborted && failed_job.is_none() {
            failed_job = Some("aborted".into());
        }
        while chunk.len() < CHUNK {
            let start = reader.position().byte() as u32;
            match reader.read_byte_record(&mut row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(format!("InvalidBatch : {error}")),
            }
            let end = reader.position().byte() as u32;
            let raw = &plan.data[start as usize..end as usize];
            let outcome = match failed_job.is_some() {
                true => Outcome::Unprocessed,
                false if !well_quoted(raw, plan.delimiter) => Outcome::Failed {
                    id: String::new(),
                    error: "INVALID_CSV_ROW:There is something between a quote and a separator: --"
                        .into(),
                },
                false => apply(&mut store, plan, &columns, header.len(), &row, &writer),
            };
            let outcome = match outcome {
                Outcome::Failed { error, .. } if error.starts_with(JOB_FAILED) => {
                    failed_job = Some(error);
                    Outcome::Unprocessed
                }
                outcome => outcome,
            };
            chunk.push(Row {
                start,
                end,
                outcome,
            });
        }
        drop(store);
        let mut job = job.lock();
        let counted =
            |wanted: fn(&Outcome) -> bool| chunk.iter().filter(|row| wanted(&row.outcome)).count();
        job.processed += counted(|outcome| !matches!(outcome, Outcome::Unprocessed));
        job.failed += counted(|outcome| matches!(outcome, Outcome::Failed { .. }));
        let last = chunk.len() < CHUNK;
        job.rows.append(&mut chunk);
        if last {
            break;
        }
    }
    failed_job.map_or(Ok(()), Err)
}

/// After an abort nothing is applied, but the rows can still be fetched.
fn leave_unprocessed(job: &Shared<Job>) {
    let mut job = job.lock();
    let data = job.data.clone().unwrap_or_default();
    let mut reader = ReaderBuilder::new()
        .delimiter(job.delimiter)
        .flexible(true)
        .from_reader(&*data);
    if reader.byte_headers().is_err() {
        return;
    }
    job.header_end = reader.position().byte() as u32;
    let mut row = ByteRecord::new();
    loop {
        let start = reader.position().byte() as u32;
        if !reader.read_byte_record(&mut row).unwrap_or(false) {
            return;
        }
        let end = reader.position().byte() as u32;
        let outcome = Outcome::Unprocessed;
        job.rows.push(Row {
            start,
            end,
            outcome,
        });
    }
}

fn apply(
    store: &mut Store,
    plan: &Plan,
    columns: &[Column],
    width: usize,
    row: &ByteRecord,
    writer: &Writer<'_>,
) -> Outcome {
    let mut id = String::new();
    let result = apply_row(store, plan, columns, width, row, writer, &mut id);
    result.unwrap_or_else(|error| Outcome::Failed {
        id,
        error: error.cell(),
    })
}

fn apply_row(
    store: &mut Store,
    plan: &Plan,
    columns: &[Column],
    width: usize,
    row: &ByteRecord,
    writer: &Writer<'_>,
    id: &mut String,
) -> Result<Outcome, SfError> {
    if row.len() != width {
        let message = format!("The row has {} columns, the header {width}", row.len());
        return Err(SfError::new(400, "INVALID_CSV_ROW", message));
    }
    let object = &store.objects[plan.object];
    let mut key = None;
    let mut change = Change::with_capacity(columns.len());
    for (column, cell) in columns.iter().zip(row.iter()) {
        let text = std::str::from_utf8(cell)
            .map_err(|_| SfError::new(400, "INVALID_CSV_ROW", "The row is not UTF-8"))?;
        match column {
            Column::Id => text.clone_into(id),
            Column::Key => key = Some(text),
            // Nothing between the separators means: leave the field alone.
            _ if text.is_empty() => {}
            Column::Field(name) => {
                let raw = if text == "#N/A" {
                    Raw::Null
                } else {
                    Raw::Text(text)
                };
                let creating = plan.operation == Operation::Insert;
                let cell = save::cell(store, object, name, raw, creating);
                change.push(cell.map_err(|error| of_csv(error, name, text))?);
            }
            Column::Related(path) => {
                let value = if text == "#N/A" { "" } else { text };
                change.push(reference::related_by(store, object, path, value)?);
            }
        }
    }
    let live = |id: &str| {
        let slot = org::live_slot(object, id).map(Target::Slot);
        slot.ok_or_else(|| match id.is_empty() {
            true => SfError::of_field(
                "MISSING_ARGUMENT",
                "Id not specified in an update call",
                "Id",
            ),
            false => save::missing_id(object, id),
        })
    };
    let target = match plan.operation {
        Operation::Insert => Target::New,
        Operation::Update => live(id)?,
        Operation::Delete | Operation::HardDelete => {
            let slot = save::delete(&mut store.objects[plan.object], id, writer)?;
            return Ok(Outcome::Saved {
                slot,
                created: false,
            });
        }
        Operation::Upsert => match (key, plan.key.as_deref()) {
            (None, _) if id.is_empty() => Target::New,
            (None, _) => live(id)?,
            (Some(""), Some(name)) => {
                let message = format!("Missing value for the external ID field {name}");
                return Err(SfError::of_field("MISSING_ARGUMENT", message, name));
            }
            (Some(value), name) => {
                let name = name.unwrap_or_default();
                let target = save::resolve(object, name, value)?;
                if target == Target::New {
                    change.push(save::cell(store, object, name, Raw::Text(value), true)?);
                }
                target
            }
        },
    };
    let saved = save::save(&mut store.objects[plan.object], target, change, writer)?;
    let (slot, created) = (saved.slot, saved.created);
    Ok(Outcome::Saved { slot, created })
}

/// A type error has another name here than in JSON.
fn of_csv(error: SfError, name: &str, text: &str) -> SfError {
    match error.spoils_request() {
        true => {
            let message = format!("{name}: value not of required type: {text}");
            SfError::of_field("INVALID_TYPE_ON_FIELD_IN_RECORD", message, name)
        }
        false => error,
    }
}
