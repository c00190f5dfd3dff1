//! Bulk API 2.0: jobs and their states.
//!
//! Guarantees: a job goes Open -> UploadComplete -> InProgress -> JobComplete (or Failed, or
//! Aborted) and never back; one upload per job; results come in an order that says nothing.

mod columns;
mod ingest;
mod load;
mod query;
mod results;

pub use ingest::answer as ingest;
pub use query::answer as query;

use super::error::SfError;
use super::id;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Finished jobs beyond this many bytes of data are forgotten, oldest first.
const MAX_BYTES: usize = 384 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    UploadComplete,
    InProgress,
    JobComplete,
    Failed,
    Aborted,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::UploadComplete => "UploadComplete",
            Self::InProgress => "InProgress",
            Self::JobComplete => "JobComplete",
            Self::Failed => "Failed",
            Self::Aborted => "Aborted",
        }
    }

    pub fn ended(self) -> bool {
        matches!(self, Self::JobComplete | Self::Failed | Self::Aborted)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    Insert,
    Update,
    Upsert,
    Delete,
    HardDelete,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Upsert => "upsert",
            Self::Delete => "delete",
            Self::HardDelete => "hardDelete",
        }
    }
}

/// What became of one row: where it stands in the upload and its outcome.
#[derive(Debug, Clone)]
pub struct Row {
    pub start: u32,
    pub end: u32,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Saved { slot: u32, created: bool },
    Failed { id: String, error: String },
    Unprocessed,
}

#[derive(Debug)]
pub struct Job {
    pub id: String,
    pub version: String,
    pub object: String,
    pub operation: Operation,
    pub key: Option<String>,
    pub crlf: bool,
    pub delimiter: u8,
    pub delimiter_name: String,
    pub created: i64,
    pub changed: i64,
    pub state: State,
    pub data: Option<Bytes>,
    /// Where the first row begins in the data.
    pub header_end: u32,
    pub rows: Vec<Row>,
    pub processed: usize,
    pub failed: usize,
    pub error: Option<String>,
}

type Shared<T> = Arc<Mutex<T>>;

#[derive(Debug, Default)]
pub struct Jobs {
    number: Mutex<u32>,
    ingest: Mutex<BTreeMap<String, Shared<Job>>>,
    queries: Mutex<BTreeMap<String, Arc<query::QueryJob>>>,
}

impl Jobs {
    pub fn reset(&self) {
        // A thread that still works on a job finds it aborted and stops.
        for job in self.ingest.lock().values() {
            job.lock().state = State::Aborted;
        }
        self.ingest.lock().clear();
        self.queries.lock().clear();
    }

    fn fresh_id(&self) -> String {
        let mut number = self.number.lock();
        *number += 1;
        id::spell("750", *number)
    }

    fn get(&self, id: &str) -> Result<Shared<Job>, SfError> {
        let id = id::canonical(id).unwrap_or_default();
        let job = self.ingest.lock().get(&id).cloned();
        job.ok_or_else(SfError::not_found)
    }

    fn add(&self, job: Job) -> Shared<Job> {
        let mut jobs = self.ingest.lock();
        let id = job.id.clone();
        let job = Arc::new(Mutex::new(job));
        jobs.insert(id, job.clone());
        let size = |job: &Shared<Job>| job.lock().data.as_ref().map_or(0, Bytes::len);
        let mut held: usize = jobs.values().map(size).sum();
        while held > MAX_BYTES {
            let ended = jobs.iter().find(|(_, job)| job.lock().state.ended());
            let Some((id, size)) = ended.map(|(id, job)| (id.clone(), size(job))) else {
                break;
            };
            jobs.remove(&id);
            held -= size;
        }
        job
    }
}
