//! How long a step that failed is left alone: each step of each map, each connection and of the
//! worker as a whole has its own growing wait, which its next success ends. So one table in trouble
//! does not hold up the others. An error is logged once, when it begins or changes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::retry::Backoff;
use pgrx::prelude::*;

use crate::store::config::Map;
use crate::store::{StoreError, map_state, transaction};
use crate::worker::process::complain;

/// What can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The configuration is read.
    Turn,
    /// Tables that were altered are followed.
    Follow,
    /// Rows are compared with the ledger.
    Recapture,
    /// Rows are pushed.
    Push,
    /// Requests to scan tables are read.
    Scans,
    /// A batch is claimed and read.
    Read,
    /// Results of a batch are settled.
    Settle,
    /// Rounds are opened and closed.
    Round,
    /// It is read when a retry is due.
    NextRetry,
    Fold,
    /// Pending writes are claimed and read.
    ReadEdits,
    /// Results of pending writes are recorded.
    RecordEdits,
    /// Intents without callers become the reconciler's.
    Adopt,
    /// The state of ingestion is read.
    IngestState,
    /// A CRM is polled for changes, which are applied.
    Poll,
    /// Events from webhooks are queued for reading.
    Webhooks,
    /// Credentials are read.
    Connect,
    /// Reported request budgets are stored.
    Budgets,
    /// Waiters are answered.
    Flushes,
    Ingests,
    Maintain,
}

/// Whose step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Map(i32),
    Connection(i32),
    Worker,
}

/// For locks of other sessions.
const LOCKED: Backoff = Backoff {
    base: Duration::from_millis(200),
    cap: Duration::from_secs(2),
};
const FAILED: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(60),
};

struct Wait {
    failures: u32,
    until: Instant,
    message: String,
    /// The SQLSTATE, unless it is about a lock of another session.
    code: Option<PgSqlErrorCode>,
}

#[derive(Default)]
pub struct StepBackoff(HashMap<(Owner, Step), Wait>);

impl StepBackoff {
    /// How long the step is still to be left alone.
    pub fn left(&self, owner: Owner, step: Step) -> Option<Duration> {
        self.0
            .get(&(owner, step))?
            .until
            .checked_duration_since(Instant::now())
    }

    /// How often it failed in a row.
    pub fn failures(&self, owner: Owner, step: Step) -> u32 {
        self.0.get(&(owner, step)).map_or(0, |wait| wait.failures)
    }

    /// Does a step unless it is to be left alone. `work` returns when it is due again, and so does
    /// this.
    pub fn attempt(
        &mut self,
        owner: Owner,
        step: Step,
        work: impl FnOnce() -> Result<Duration, StoreError>,
    ) -> Duration {
        if let Some(left) = self.left(owner, step) {
            return left;
        }
        match work() {
            Ok(next) => {
                self.succeeded(owner, step);
                next
            }
            Err(error) => self.failed(owner, step, &error),
        }
    }

    pub fn succeeded(&mut self, owner: Owner, step: Step) {
        if !self.0.is_empty() {
            self.0.remove(&(owner, step));
        }
    }

    /// Notes a failure; returns how long the step is left alone.
    pub fn failed(&mut self, owner: Owner, step: Step, error: &StoreError) -> Duration {
        let (wait, is_news) = self.note(owner, step, error);
        if is_news && !error.is_undefined() {
            let whose = match owner {
                Owner::Map(id) => format!("map {id}"),
                Owner::Connection(id) => format!("connection {id}"),
                Owner::Worker => "the worker".to_owned(),
            };
            complain(error, &format!("pg_crm, {whose}: {error} ({step:?})"));
        }
        wait
    }

    /// The same for a step of a map, whose status reports it.
    pub fn map_failed(
        &mut self,
        map: &Map,
        step: Step,
        error: &StoreError,
        what: &str,
    ) -> Duration {
        let (wait, is_news) = self.note(Owner::Map(map.id), step, error);
        if error.is_undefined() {
            return wait;
        }
        let reason = format!("{what} {}: {}", map.relation, error.message());
        if is_news {
            log!("pg_crm {reason}");
        }
        let stored = transaction(|client| map_state::note_error(client, map.id, &reason));
        if let Err(error) = stored
            && is_news
        {
            let relation = &map.relation;
            complain(
                &error,
                &format!("pg_crm cannot store the last error of {relation}: {error}"),
            );
        }
        wait
    }

    /// Returns the wait, and whether the failure is news.
    fn note(&mut self, owner: Owner, step: Step, error: &StoreError) -> (Duration, bool) {
        let wait = self.0.entry((owner, step)).or_insert_with(|| Wait {
            failures: 0,
            until: Instant::now(),
            message: String::new(),
            code: None,
        });
        wait.failures += 1;
        let backoff = match error.is_transient() {
            true => LOCKED,
            false => FAILED,
        };
        // Half fixed, half jitter.
        let bound = backoff.bound(wait.failures);
        let delay = bound / 2 + (bound / 2).mul_f64(fastrand::f64());
        wait.until = Instant::now() + delay;
        let message = error.message();
        let news = wait.message != message;
        wait.message = message;
        wait.code = error.code().filter(|_| !error.is_transient());
        (delay, news && !error.is_transient())
    }

    /// Why the worker as a whole cannot work, if it cannot.
    pub fn worker_error(&self) -> Option<PgSqlErrorCode> {
        let of_worker = self.0.iter().filter(|((o, _), _)| *o == Owner::Worker);
        of_worker.filter_map(|(_, wait)| wait.code).next()
    }

    /// Forgets what is gone.
    pub fn keep(&mut self, known: impl Fn(Owner) -> bool) {
        self.0.retain(|(owner, _), _| known(*owner));
    }
}
