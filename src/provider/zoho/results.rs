//! The result file of a bulk write job: the first columns of the upload, and `STATUS`,
//! `RECORD_ID` and `ERRORS` ("Download Bulk Write Result").

use std::collections::HashMap;

use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::errors;
use super::loads::{key_column, leaves_out};
use crate::outcomes::{Outcome, Outcomes};
use crate::result_table::ResultTable;
use crate::{WriteBatch, WriteKind, Written};

/// Codes that say what is wrong with a record. Others, such as `RESOURCE_NOT_FOUND`, may speak of
/// anything.
const TELLING: [&str; 5] = [
    "MANDATORY_NOT_FOUND",
    "INVALID_DATA",
    "DUPLICATE_DATA",
    "NOT_APPROVED",
    "LIMIT_EXCEEDED",
];

/// Settles the records that the file names, and returns those with which the job has not done all,
/// or of which the file does not say enough. A row that names no record of ours settles nothing:
/// whoever is left has no result.
pub(super) fn read(
    body: &[u8],
    batch: &WriteBatch,
    load: &[usize],
    outcomes: &mut Outcomes,
) -> Vec<usize> {
    let Some(mut table) = ResultTable::new(body) else {
        return Vec::new();
    };
    let (status, id, error) = (
        table.column("STATUS"),
        table.column("RECORD_ID"),
        table.column("ERRORS"),
    );
    // The key is the first column of the upload, whatever the result calls it.
    let key = table.column(key_column(batch)).unwrap_or_default();
    let places: HashMap<&[u8], usize> = load
        .iter()
        .map(|&index| (batch.key(index).as_bytes(), index))
        .collect();
    let mut unfinished = Vec::new();
    while table.next() {
        let Some(&index) = table.cell(key).and_then(|key| places.get(key)) else {
            continue;
        };
        let row = Row {
            status: &table.text(status).to_ascii_uppercase(),
            id: &table.text(id),
            errors: &table.text(error),
        };
        match row.outcome(batch.kind, batch.key(index)) {
            // It was there already, with values perhaps that its row left alone.
            Some(Ok(written)) if !written.created && leaves_out(batch, &batch.records[index]) => {
                unfinished.push(index)
            }
            Some(outcome) => outcomes.set(index, outcome),
            None => unfinished.push(index),
        }
    }
    unfinished
}

struct Row<'a> {
    status: &'a str,
    id: &'a str,
    errors: &'a str,
}

impl Row<'_> {
    /// `None`: it does not say enough.
    fn outcome(&self, kind: WriteKind, key: &str) -> Option<Outcome> {
        match self.status {
            "ADDED" | "UPDATED" | "UNCHANGED" => self.written(kind, key),
            "UNPROCESSED" => Some(Err(Failure::record(
                ErrorClass::Transient,
                "unprocessed",
                "the bulk job ended before this record",
            ))),
            _ => refusal(self.errors).map(Err),
        }
    }

    fn written(&self, kind: WriteKind, key: &str) -> Option<Outcome> {
        let crm_id = match (kind, self.id) {
            (WriteKind::Upsert, "") => return None,
            (WriteKind::Upsert, id) => id,
            (_, id) if id.is_empty() || id == key => key,
            _ => {
                let message = "the bulk job's result has another record in place of this one";
                let code = "mismatched_result";
                return Some(Err(Failure::record(ErrorClass::Transient, code, message)));
            }
        };
        Some(Ok(Written::saved(
            crm_id.to_owned(),
            self.status == "ADDED",
        )))
    }
}

/// The failure of `CODE-Column,Column:CODE-Column`, by the first code that says something.
fn refusal(errors: &str) -> Option<Failure> {
    let mut parts = errors.split(':').map(|part| {
        let (code, columns) = part.split_once('-').unwrap_or((part, ""));
        (code.trim(), columns.trim())
    });
    let (code, columns) = parts.find(|(code, _)| TELLING.contains(code))?;
    let column = match columns.split(',').next().map(str::trim) {
        Some(name) if !name.is_empty() => json!({ "api_name": name }),
        _ => Json::Null,
    };
    let item = json!({ "code": code, "message": format!("the bulk job skipped it: {errors}"), "details": column });
    Some(errors::of_record(&item))
}
