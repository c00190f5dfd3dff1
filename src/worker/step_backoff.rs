//! How long what failed is left alone: each step of each map (and of the worker as a whole) has its own growing wait, which its
//! next success ends. What is the matter is logged once, when it begins or becomes something else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::retry::Backoff;
use pgrx::PgSqlErrorCode;

use crate::store::StoreError;

/// What can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// What is configured is read.
    Turn,
    /// Tables that were altered are followed.
    Follow,
    /// Rows are compared with the ledger.
    Recapture,
    /// A slice is claimed and read.
    Read,
    /// What came back is written down.
    Settle,
    /// Rounds are opened and closed.
    Round,
    Fold,
    /// Pending writes are claimed and read.
    ReadEdits,
    SettleEdits,
    /// Intents without callers become the reconciler's.
    Adopt,
    /// What is known of looks for changes is read.
    Looks,
    /// A CRM is asked for changes, which are taken in.
    Look,
    /// What webhooks brought is taken up.
    Mail,
    /// Credentials are read.
    Connect,
    /// What CRMs told of their budgets is kept.
    Budgets,
    /// Those who wait are answered.
    Flushes,
    Ingests,
    Maintain,
}

/// Whose step: a map's, a connection's or the worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    Map(i32),
    Connection(i32),
    Worker,
}

/// For locks that somebody holds.
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
    /// The SQLSTATE, unless it is about a lock that somebody holds.
    code: Option<PgSqlErrorCode>,
}

#[derive(Default)]
pub struct Waits(HashMap<(Of, Step), Wait>);

impl Waits {
    /// How long the step is still to be left alone.
    pub fn left(&self, of: Of, step: Step) -> Option<Duration> {
        self.0
            .get(&(of, step))?
            .until
            .checked_duration_since(Instant::now())
    }

    /// How often it failed in a row.
    pub fn failures(&self, of: Of, step: Step) -> u32 {
        self.0.get(&(of, step)).map_or(0, |wait| wait.failures)
    }

    /// Notes a failure; returns the wait, and whether it is news.
    pub fn failed(&mut self, of: Of, step: Step, error: &StoreError) -> (Duration, bool) {
        let wait = self.0.entry((of, step)).or_insert_with(|| Wait {
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
    pub fn trouble_of_worker(&self) -> Option<PgSqlErrorCode> {
        let troubles = self.0.iter().filter(|((of, _), _)| *of == Of::Worker);
        troubles.filter_map(|(_, wait)| wait.code).next()
    }

    pub fn succeeded(&mut self, of: Of, step: Step) {
        if !self.0.is_empty() {
            self.0.remove(&(of, step));
        }
    }

    /// Forgets what is gone.
    pub fn keep(&mut self, known: impl Fn(Of) -> bool) {
        self.0.retain(|(of, _), _| known(*of));
    }
}
