//! The result files of a bulk job, whose rows come in any order: each is tied to its record by our
//! key.

use std::collections::HashMap;

use crm_domain::{ErrorClass, Failure};

use super::api::id_form;
use super::csv_rows::key_column;
use super::errors;
use crate::outcomes::{Outcome, Outcomes};
use crate::result_table::ResultTable;
use crate::{WriteBatch, WriteKind, Written};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResultFile {
    Successful,
    Failed,
    Unprocessed,
}

impl ResultFile {
    pub fn path(self) -> &'static str {
        match self {
            ResultFile::Successful => "successfulResults",
            ResultFile::Failed => "failedResults",
            ResultFile::Unprocessed => "unprocessedrecords",
        }
    }

    pub fn next(self) -> Option<ResultFile> {
        match self {
            ResultFile::Successful => Some(ResultFile::Failed),
            ResultFile::Failed => Some(ResultFile::Unprocessed),
            ResultFile::Unprocessed => None,
        }
    }
}

/// Settles the records that a file names and returns those that it says were not processed. A row
/// that names no record of ours, or a file that breaks off, settles nothing: whoever is left has no
/// result.
pub(super) fn read(
    file: ResultFile,
    body: &[u8],
    batch: &WriteBatch,
    carried: &[usize],
    outcomes: &mut Outcomes,
) -> Vec<usize> {
    let Some(mut table) = ResultTable::new(body) else {
        return Vec::new();
    };
    let column = |name: &str| table.column(name);
    let (id, created, error) = (column("sf__Id"), column("sf__Created"), column("sf__Error"));
    let by_key = column(key_column(batch));
    let key = match batch.kind {
        WriteKind::Upsert => by_key,
        WriteKind::Update | WriteKind::Delete => by_key.or(id),
    };
    let Some(key) = key else {
        return Vec::new();
    };
    let places: HashMap<&[u8], usize> = carried
        .iter()
        .map(|&index| (key_form(batch.kind, batch.key(index).as_bytes()), index))
        .collect();

    let mut unprocessed = Vec::new();
    while table.next() {
        let Some(&index) = table
            .cell(key)
            .and_then(|key| places.get(key_form(batch.kind, key)))
        else {
            continue;
        };
        let outcome: Outcome = match file {
            ResultFile::Unprocessed => {
                unprocessed.push(index);
                continue;
            }
            ResultFile::Failed => Err(errors::of_row(&table.text(error))),
            ResultFile::Successful => match batch.kind {
                WriteKind::Upsert => written(
                    &table.text(id),
                    table.text(created).eq_ignore_ascii_case("true"),
                ),
                _ => Ok(Written::saved(batch.key(index).to_owned(), false)),
            },
        };
        outcomes.set(index, outcome);
    }
    unprocessed
}

fn written(crm_id: &str, created: bool) -> Outcome {
    if crm_id.is_empty() {
        let message = "the CRM saved the record but did not return its id";
        return Err(Failure::record(ErrorClass::Internal, "missing_id", message));
    }
    Ok(Written::saved(crm_id.to_owned(), created))
}

fn key_form(kind: WriteKind, key: &[u8]) -> &[u8] {
    match kind {
        WriteKind::Upsert => key,
        WriteKind::Update | WriteKind::Delete => {
            str::from_utf8(key).map_or(key, |id| id_form(id).as_bytes())
        }
    }
}
