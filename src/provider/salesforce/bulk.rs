//! A Bulk API 2.0 ingest job, from its creation to its removal.
//!
//! Guarantees: every record ends with the outcome that the job's result files give it, told by our
//! key; one that no file mentions fails as transient; what a job cannot carry goes by collections
//! in the same operation. Once the upload is complete the job is seen through: trouble on the way
//! to its results is waited out, because giving up would leave a job that still writes.

use std::sync::Arc;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::api::{Api, named};
use super::collections::{Collection, WRITE_LIMIT};
use super::csv_rows::{self, LIMITS, Upload, key_column};
use super::errors;
use super::results::{self, ResultFile};
use crate::calls::Calls;
use crate::errors::{refused, unreadable};
use crate::job::{Job, JobWrite, PollTimer};
use crate::outcomes::{Outcome, Plan};
use crate::request::encode;
use crate::success::salesforce as success;
use crate::{BoxOperation, Method, Operation, Request, Response, Step, WriteBatch, WriteKind};

/// Starts a bulk write. The first round goes by the job; keys that come again go after it.
pub(super) fn write(
    api: Api,
    batch: Arc<WriteBatch>,
    mut plan: Plan,
) -> BoxOperation<Vec<Outcome>> {
    let Some(first) = plan.rounds.first_mut() else {
        return Box::new(Calls::new(Collection { api, batch }, plan, WRITE_LIMIT));
    };
    let Upload {
        body,
        carried,
        others,
    } = csv_rows::build(&batch, first, LIMITS);
    *first = others;
    if carried.is_empty() {
        return Box::new(Calls::new(Collection { api, batch }, plan, WRITE_LIMIT));
    }
    Box::new(JobWrite(Bulk {
        api,
        batch,
        carried,
        body,
        plan,
        job: String::new(),
        stage: Stage::Create,
        timer: PollTimer::default(),
        broken: None,
        refusal: None,
        rest: None,
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Create,
    Upload,
    Close,
    Poll,
    Fetch(ResultFile),
    Abort,
    Remove,
    /// What the job could not carry.
    Rest,
}

struct Bulk {
    api: Api,
    batch: Arc<WriteBatch>,
    carried: Vec<usize>,
    body: Vec<u8>,
    /// Its rounds go by collections afterwards.
    plan: Plan,
    job: String,
    stage: Stage,
    timer: PollTimer,
    /// Why the job did not end well, if it did not.
    broken: Option<Failure>,
    /// The refusal of the whole batch, to be told when the job is removed.
    refusal: Option<Failure>,
    rest: Option<Calls<Collection>>,
}

impl Job for Bulk {
    type Rest = Collection;

    fn rest(&mut self) -> Option<&mut Calls<Collection>> {
        self.rest.as_mut()
    }

    fn send(&mut self) -> Step<Vec<Outcome>> {
        let request = match self.stage {
            Stage::Create => self
                .api
                .request(Method::Post, "/jobs/ingest")
                .json(&self.description()),
            Stage::Upload => {
                let body = std::mem::take(&mut self.body);
                self.at(Method::Put, "/batches")
                    .body("text/csv", body)
                    .success(success::JOB_UPLOAD)
            }
            Stage::Close => self
                .at(Method::Patch, "")
                .json(&json!({ "state": "UploadComplete" }))
                .repeatable(),
            Stage::Poll => self.at(Method::Get, ""),
            Stage::Fetch(file) => self
                .at(Method::Get, &format!("/{}/", file.path()))
                .header("accept", "text/csv"),
            Stage::Abort => self
                .at(Method::Patch, "")
                .json(&json!({ "state": "Aborted" })),
            Stage::Remove => self.at(Method::Delete, "").success(success::JOB_DELETE),
            Stage::Rest => return self.go_on(),
        };
        Step::Send(named(request))
    }

    fn take(&mut self, response: &Response) -> Step<Vec<Outcome>> {
        if let Some(failure) = errors::of_response(response) {
            return self.failed(failure);
        }
        match self.stage {
            Stage::Create => match response.json().as_ref().and_then(|job| job["id"].as_str()) {
                Some(id) => {
                    self.job = id.to_owned();
                    self.enter(Stage::Upload)
                }
                None => Step::Done(Err(unreadable(response))),
            },
            Stage::Upload => self.enter(Stage::Close),
            Stage::Close => self.poll_later(),
            Stage::Poll => self.polled(response),
            Stage::Fetch(file) => {
                self.fetched(file, &response.body);
                match file.next() {
                    Some(file) => self.enter(Stage::Fetch(file)),
                    None => self.conclude(),
                }
            }
            Stage::Abort => self.enter(Stage::Remove),
            Stage::Remove | Stage::Rest => self.enter(Stage::Rest),
        }
    }

    /// A request failed, by its answer or for want of one.
    fn failed(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        match self.stage {
            Stage::Create => Step::Done(Err(refused(failure))),
            // The job stays open and empty; Salesforce drops it after a day.
            Stage::Upload if failure.scope == Scope::Connection => Step::Done(Err(failure)),
            Stage::Upload => self.abandon(failure),
            Stage::Close | Stage::Poll | Stage::Fetch(_) => {
                match (self.timer.wait_after(&failure), self.stage) {
                    (Some(wait), stage) => {
                        // Whether the closing arrived, the job itself can tell.
                        if stage == Stage::Close {
                            self.stage = Stage::Poll;
                        }
                        Step::Wait(wait)
                    }
                    (None, Stage::Close) => self.abandon(failure),
                    (None, _) => self.give_up(failure),
                }
            }
            Stage::Abort => self.enter(Stage::Remove),
            // Salesforce removes finished jobs by itself after a week.
            Stage::Remove | Stage::Rest => self.enter(Stage::Rest),
        }
    }
}

impl Bulk {
    fn description(&self) -> Json {
        let mut job = json!({
            "object": self.batch.object,
            "operation": self.batch.kind.name(),
            "contentType": "CSV",
            "lineEnding": "LF",
            "columnDelimiter": "COMMA",
        });
        if self.batch.kind == WriteKind::Upsert {
            job["externalIdFieldName"] = key_column(&self.batch).into();
        }
        job
    }

    /// A request about the job.
    fn at(&self, method: Method, below: &str) -> Request {
        self.api.request(
            method,
            format_args!("/jobs/ingest/{}{below}", encode(&self.job)),
        )
    }

    fn enter(&mut self, stage: Stage) -> Step<Vec<Outcome>> {
        self.stage = stage;
        self.timer.reset();
        self.send()
    }

    fn poll_later(&mut self) -> Step<Vec<Outcome>> {
        self.stage = Stage::Poll;
        Step::Wait(self.timer.next_wait())
    }

    fn polled(&mut self, response: &Response) -> Step<Vec<Outcome>> {
        let job = response.json().unwrap_or_default();
        let state = job["state"].as_str().unwrap_or_default();
        match state {
            // The answer to the closing was lost, and the closing too.
            "Open" if self.timer.try_again() => {
                self.stage = Stage::Close;
                self.send()
            }
            "UploadComplete" | "InProgress" => {
                self.timer.reset();
                self.poll_later()
            }
            "JobComplete" => self.enter(Stage::Fetch(ResultFile::Successful)),
            "Failed" | "Aborted" => {
                self.broken = Some(errors::of_job(
                    state,
                    job["errorMessage"].as_str().unwrap_or_default(),
                ));
                self.enter(Stage::Fetch(ResultFile::Successful))
            }
            _ => self.failed(Failure {
                class: ErrorClass::Transient,
                ..unreadable(response)
            }),
        }
    }

    fn fetched(&mut self, file: ResultFile, body: &[u8]) {
        let unprocessed = results::read(
            file,
            body,
            &self.batch,
            &self.carried,
            &mut self.plan.outcomes,
        );
        if self.broken.is_none() || self.has_results() {
            let why = self
                .broken
                .as_ref()
                .map_or("the bulk job ended before this record", |f| &f.message);
            self.plan.outcomes.fail_all(
                unprocessed,
                &Failure::record(ErrorClass::Transient, "unprocessed", why),
            );
        }
    }

    fn has_results(&self) -> bool {
        self.carried
            .iter()
            .any(|&index| self.plan.outcomes.is_known(index))
    }

    /// The files are read. A job that failed before its first record refused the batch as a whole;
    /// of a job that failed later, the records without a result may go again.
    fn conclude(&mut self) -> Step<Vec<Outcome>> {
        if let Some(failure) = self.broken.take() {
            if !self.has_results() {
                self.refusal = Some(failure);
            } else if failure.scope == Scope::Connection {
                self.plan
                    .outcomes
                    .fail_all(self.carried.iter().copied(), &failure);
            }
        }
        self.enter(Stage::Remove)
    }

    /// Nothing was written: undo the job and refuse the batch.
    fn abandon(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        self.refusal = Some(refused(failure));
        self.enter(Stage::Abort)
    }

    /// The job's results cannot be had: what they would have told is unknown.
    fn give_up(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        let failure = match failure.scope {
            Scope::Connection => failure,
            Scope::Records => Failure {
                class: ErrorClass::Transient,
                ..failure
            },
        };
        if !self.has_results() {
            return Step::Done(Err(self.broken.take().unwrap_or(failure)));
        }
        self.plan
            .outcomes
            .fail_all(self.carried.iter().copied(), &failure);
        self.enter(Stage::Remove)
    }

    /// The job is removed, or has been tried to be.
    fn go_on(&mut self) -> Step<Vec<Outcome>> {
        self.stage = Stage::Rest;
        if let Some(refusal) = self.refusal.take() {
            return Step::Done(Err(refusal));
        }
        let plan = std::mem::take(&mut self.plan);
        let collection = Collection {
            api: self.api.clone(),
            batch: self.batch.clone(),
        };
        self.rest
            .insert(Calls::new(collection, plan, WRITE_LIMIT))
            .step(None)
    }
}
