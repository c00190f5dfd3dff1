//! Result files of an ingest job.
//!
//! Guarantees: every row of the upload is in exactly one of the three files, as it was written; the
//! order is shuffled, the same way each time a job's file is fetched.

use super::super::error::SfError;
use super::super::{Answer, org};
use super::{Job, Outcome, Row};
use crate::http::Response;
use crate::store::Store;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Successful,
    Failed,
    Unprocessed,
}

impl Kind {
    pub fn named(name: &str) -> Option<Self> {
        [
            ("successfulResults", Self::Successful),
            ("failedResults", Self::Failed),
            ("unprocessedrecords", Self::Unprocessed),
        ]
        .into_iter()
        .find_map(|(known, kind)| known.eq_ignore_ascii_case(name).then_some(kind))
    }

    fn holds(self, row: &Row) -> bool {
        matches!(
            (self, &row.outcome),
            (Self::Successful, Outcome::Saved { .. })
                | (Self::Failed, Outcome::Failed { .. })
                | (Self::Unprocessed, Outcome::Unprocessed)
        )
    }
}

pub fn answer(store: &Store, job: &Job, kind: Kind) -> Answer {
    if !job.state.ended() {
        let message = format!(
            "Results are not there while the job is {}",
            job.state.name()
        );
        return Err(SfError::new(400, "INVALIDJOBSTATE", message));
    }
    let data = job.data.clone().unwrap_or_default();
    let delimiter = char::from(job.delimiter);
    let line_end = if job.crlf { "\r\n" } else { "\n" };
    let mut rows: Vec<&Row> = job.rows.iter().filter(|row| kind.holds(row)).collect();
    let seed = job
        .id
        .bytes()
        .fold(7u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    fastrand::Rng::with_seed(seed).shuffle(&mut rows);
    let mut out = Vec::with_capacity(data.len() + rows.len() * 32 + 64);
    out.extend_from_slice(match kind {
        Kind::Successful => b"\"sf__Id\"\x00\"sf__Created\"\x00",
        Kind::Failed => b"\"sf__Id\"\x00\"sf__Error\"\x00",
        Kind::Unprocessed => b"",
    });
    out.iter_mut()
        .filter(|byte| **byte == 0)
        .for_each(|byte| *byte = job.delimiter);
    out.extend_from_slice(trimmed(&data[..job.header_end as usize]));
    out.extend_from_slice(line_end.as_bytes());
    let object = store.object(&job.object);
    for row in rows {
        let lead = match &row.outcome {
            Outcome::Saved { slot, created } => {
                let id = object.map_or(String::new(), |object| org::record_id(object, *slot));
                format!("\"{id}\"{delimiter}\"{created}\"{delimiter}")
            }
            Outcome::Failed { id, error } => {
                let error = error.replace('"', "\"\"");
                format!("\"{id}\"{delimiter}\"{error}\"{delimiter}")
            }
            Outcome::Unprocessed => String::new(),
        };
        out.extend_from_slice(lead.as_bytes());
        out.extend_from_slice(trimmed(&data[row.start as usize..row.end as usize]));
        out.extend_from_slice(line_end.as_bytes());
    }
    Ok(Response::bytes(200, "text/csv", out))
}

/// A row without the line ends around it.
fn trimmed(mut row: &[u8]) -> &[u8] {
    while let [b'\r' | b'\n', rest @ ..] | [rest @ .., b'\r' | b'\n'] = row {
        row = rest;
    }
    row
}
