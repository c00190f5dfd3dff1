//! Bulk write jobs, from the upload of a file to its results.
//!
//! Guarantees: every record ends with the outcome that its job's result gives it, told by our key;
//! one that no row mentions fails as transient. What jobs cannot carry, do not finish or leave open
//! goes by calls of 100 records in the same operation, and so does everything where jobs are not to
//! be had: for want of a scope, of the edition, or of a host that `pg_crm.allowed_hosts` admits.
//!
//! A job whose creation was not answered may run all the same. The batch fails as transient then,
//! and goes again, perhaps by another job: updates by id and upserts by key do the same when done
//! twice.

use std::collections::VecDeque;
use std::sync::Arc;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::api::{ORG_OPTION, option};
use super::loads::{self, LIMITS};
use super::records::{self, Records, TRIGGER_OPTION};
use super::{archive, errors, results};
use crate::calls::Calls;
use crate::errors::unreadable;
use crate::job::{Job, JobWrite, PollTimer};
use crate::outcomes::{Outcome, Plan};
use crate::request::{encode, fits_header};
use crate::success::zoho as success;
use crate::{
    BoxOperation, Method, Operation, Request, Response, Settings, Step, WriteBatch, WriteKind, wire,
};

const FILE: &str = "records.csv";

/// Whether so many records are work for jobs. Which automation starts a job does not ask, so where
/// the connection says which, calls it is.
pub(super) fn takes(settings: &Settings, kind: WriteKind, count: usize) -> bool {
    kind != WriteKind::Delete
        && count > settings.bulk_threshold.max(1)
        && !settings.options.contains_key(TRIGGER_OPTION)
}

/// Starts a bulk write. The first round goes by jobs; keys that come again go after it.
pub(super) fn write(
    settings: &Settings,
    batch: Arc<WriteBatch>,
    mut plan: Plan,
) -> BoxOperation<Vec<Outcome>> {
    if plan.rounds.is_empty() {
        plan.rounds.push(Vec::new());
    }
    let (loads, others) = loads::part(&batch, &plan.rounds[0], settings.bulk_threshold, LIMITS);
    plan.rounds[0] = others;
    let records = Records::new(settings, batch.clone());
    if loads.is_empty() {
        return Box::new(Calls::new(records, plan, records::LIMIT));
    }
    Box::new(JobWrite(Bulk {
        org: option(settings, ORG_OPTION),
        batch,
        loads: loads.into(),
        load: Vec::new(),
        stage: Stage::Next,
        told: String::new(),
        timer: PollTimer::default(),
        plan,
        records,
        rest: None,
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The next load, or the rest.
    Next,
    Org,
    Upload,
    Create,
    Poll,
    Fetch,
}

struct Bulk {
    batch: Arc<WriteBatch>,
    /// What an upload has to name.
    org: Option<String>,
    loads: VecDeque<Vec<usize>>,
    /// The records of the job that is on.
    load: Vec<usize>,
    stage: Stage,
    /// What the last stage was told: the file's id, the job's id, where its result is.
    told: String,
    timer: PollTimer,
    /// Its rounds go by calls afterwards.
    plan: Plan,
    records: Records,
    rest: Option<Calls<Records>>,
}

impl Job for Bulk {
    type Rest = Records;

    fn rest(&mut self) -> Option<&mut Calls<Records>> {
        self.rest.as_mut()
    }

    fn send(&mut self) -> Step<Vec<Outcome>> {
        Step::Send(match self.stage {
            Stage::Next => return self.next(),
            Stage::Org => Request::new(Method::Get, "/crm/v8/org"),
            Stage::Upload => {
                let zip = archive::pack(FILE, &loads::csv(&self.batch, &self.load));
                Request::file(Method::Post, "/crm/v8/upload")
                    .header("feature", "bulk-write")
                    .header("x-crm-org", self.org.clone().unwrap_or_default())
                    .form_file("records.zip", "application/zip", &zip)
            }
            Stage::Create => Request::new(Method::Post, "/crm/bulk/v8/write")
                .json(&self.description())
                .success(success::JOB_CREATE),
            Stage::Poll => Request::new(
                Method::Get,
                format!("/crm/bulk/v8/write/{}", encode(&self.told)),
            ),
            Stage::Fetch => Request::file(Method::Get, self.told.as_str()),
        })
    }

    fn take(&mut self, response: &Response) -> Step<Vec<Outcome>> {
        if let Some(failure) = errors::of_response(response) {
            return self.failed(failure);
        }
        let body = response.json().unwrap_or_default();
        match self.stage {
            Stage::Org => {
                match wire::scalar_text(&body["org"][0]["zgid"]).filter(|org| fits_header(org)) {
                    Some(org) => {
                        self.org = Some(org);
                        self.enter(Stage::Upload)
                    }
                    None => self.failed(unreadable(response)),
                }
            }
            Stage::Upload => self.told(
                wire::scalar_text(&body["details"]["file_id"]),
                Stage::Create,
                response,
            ),
            Stage::Create => self.told(
                wire::scalar_text(&body["details"]["id"]),
                Stage::Poll,
                response,
            ),
            Stage::Poll => self.polled(&body, response),
            Stage::Fetch => match archive::unpack(&response.body) {
                Some(file) => {
                    let load = std::mem::take(&mut self.load);
                    let unfinished =
                        results::read(&file, &self.batch, &load, &mut self.plan.outcomes);
                    self.plan.rounds[0].extend(unfinished);
                    self.enter(Stage::Next)
                }
                None => self.failed(passing(unreadable(response))),
            },
            Stage::Next => self.enter(Stage::Next),
        }
    }

    /// A request failed, by its answer or for want of one.
    fn failed(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        match self.stage {
            Stage::Poll | Stage::Fetch => match self.timer.wait_after(&failure) {
                Some(wait) => Step::Wait(wait),
                // The job has ended, and its result is not to be had.
                None if self.stage == Stage::Fetch && !is_passing(&failure) => self.by_calls(),
                None => self.give_up(passing(failure)),
            },
            _ if is_passing(&failure) => self.give_up(failure),
            _ if failure.class == ErrorClass::Auth && !is_about_jobs(&failure) => {
                self.give_up(failure)
            }
            // Jobs are not to be had.
            _ => {
                while let Some(load) = self.loads.pop_front() {
                    self.plan.rounds[0].extend(load);
                }
                self.by_calls()
            }
        }
    }
}

impl Bulk {
    fn description(&self) -> Json {
        let columns = loads::columns(&self.batch, &self.load);
        let mappings = columns.iter().enumerate();
        let mappings: Vec<Json> = mappings
            .map(|(index, name)| json!({ "api_name": name, "index": index }))
            .collect();
        json!({
            "operation": self.batch.kind.name(),
            "character_encoding": "UTF-8",
            "resource": [{
                "type": "data",
                "module": { "api_name": self.batch.object },
                "file_id": self.told,
                "file_names": [FILE],
                "find_by": columns[0],
                "field_mappings": mappings,
            }],
        })
    }

    fn next(&mut self) -> Step<Vec<Outcome>> {
        match self.loads.pop_front() {
            Some(load) => {
                self.load = load;
                self.timer = PollTimer::default();
                self.enter(match self.org {
                    Some(_) => Stage::Upload,
                    None => Stage::Org,
                })
            }
            None => self.go_on(),
        }
    }

    fn enter(&mut self, stage: Stage) -> Step<Vec<Outcome>> {
        self.stage = stage;
        self.timer.reset();
        self.send()
    }

    fn told(
        &mut self,
        told: Option<String>,
        next: Stage,
        response: &Response,
    ) -> Step<Vec<Outcome>> {
        match told {
            Some(told) => {
                self.told = told;
                self.enter(next)
            }
            None => self.failed(unreadable(response)),
        }
    }

    fn polled(&mut self, body: &Json, response: &Response) -> Step<Vec<Outcome>> {
        let job = match &body["data"][0] {
            Json::Null => body,
            wrapped => wrapped,
        };
        // `INPROGRESS` in one document, `IN PROGRESS` in another.
        let status = job["status"].as_str().unwrap_or_default();
        let status = status.replace([' ', '_'], "").to_ascii_uppercase();
        match status.as_str() {
            "ADDED" | "QUEUED" | "INPROGRESS" => {
                self.timer.reset();
                Step::Wait(self.timer.next_wait())
            }
            "COMPLETED" | "FAILED" | "FAILURE" | "SKIPPED" => {
                match job["result"]["download_url"].as_str() {
                    Some(url) if !url.is_empty() => {
                        self.told = url.to_owned();
                        self.enter(Stage::Fetch)
                    }
                    // It has ended without a word of any row: each call tells why.
                    _ => self.by_calls(),
                }
            }
            _ => self.failed(passing(unreadable(response))),
        }
    }

    /// This job's records go by calls.
    fn by_calls(&mut self) -> Step<Vec<Outcome>> {
        self.plan.rounds[0].append(&mut self.load);
        self.enter(Stage::Next)
    }

    /// What became of this job's records is not known.
    fn give_up(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        if !self.plan.outcomes.any() {
            return Step::Done(Err(failure));
        }
        self.plan.outcomes.fail_all(self.load.drain(..), &failure);
        self.enter(Stage::Next)
    }

    /// The jobs are done.
    fn go_on(&mut self) -> Step<Vec<Outcome>> {
        self.plan.rounds[0].sort_unstable();
        let plan = std::mem::take(&mut self.plan);
        let calls = Calls::new(self.records.clone(), plan, records::LIMIT);
        self.rest.insert(calls).step(None)
    }
}

fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.class,
        ErrorClass::Transient | ErrorClass::RateLimited
    )
}

/// Whether the token or the settings leave out jobs, and nothing else.
fn is_about_jobs(failure: &Failure) -> bool {
    [errors::NO_SCOPE, "url_not_allowed"].contains(&failure.code.as_str())
}

/// What is no refusal of any record passes, as far as records go.
fn passing(failure: Failure) -> Failure {
    match failure.scope {
        Scope::Connection => failure,
        Scope::Records => Failure {
            class: ErrorClass::Transient,
            ..failure
        },
    }
}
