//! Bulk jobs: a batch is sent by one, and whatever it could not carry by ordinary requests. Jobs
//! are polled at growing intervals, and transient failures of a poll are tolerated.

use std::time::Duration;

use crm_domain::{ErrorClass, Failure};

use crate::calls::{Call, Calls};
use crate::outcomes::Outcome;
use crate::{Operation, Response, Step};

/// A vendor's way through a job, stage by stage.
pub(crate) trait Job: Send {
    type Rest: Call;

    /// The calls of what the job could not carry, once it is over.
    fn rest(&mut self) -> Option<&mut Calls<Self::Rest>>;

    /// What the stage sends.
    fn send(&mut self) -> Step<Vec<Outcome>>;

    /// Takes in the answer.
    fn take(&mut self, response: &Response) -> Step<Vec<Outcome>>;

    /// The stage got no answer, or none that it can go on with.
    fn failed(&mut self, failure: Failure) -> Step<Vec<Outcome>>;
}

/// A write by a job.
pub(crate) struct JobWrite<J>(pub J);

impl<J: Job> Operation<Vec<Outcome>> for JobWrite<J> {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        match (self.0.rest(), answer) {
            (Some(rest), answer) => rest.step(answer),
            (None, None) => self.0.send(),
            (None, Some(response)) => self.0.take(&response),
        }
    }

    fn interrupted(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        match self.0.rest() {
            Some(rest) => rest.interrupted(failure),
            None => self.0.failed(failure),
        }
    }
}

/// Waits between looks: small jobs are done within a second, large ones take minutes.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often in a row looking may fail: some two minutes of outage.
const PATIENCE: u32 = 30;
/// The longest that a vendor's "come back later" is obeyed while a job is open.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct PollTimer {
    wait: Duration,
    /// Failures in a row.
    troubles: u32,
}

impl Default for PollTimer {
    fn default() -> Self {
        PollTimer {
            wait: FIRST_WAIT,
            troubles: 0,
        }
    }
}

impl PollTimer {
    /// How long to wait before the next look.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }

    /// All goes well again.
    pub fn reset(&mut self) {
        self.troubles = 0;
    }

    /// Whether to ask once more.
    pub fn try_again(&mut self) -> bool {
        self.troubles += 1;
        self.troubles <= PATIENCE
    }

    /// How long to wait after a failure. `None`: it does not pass, or has not for long.
    pub fn wait_after(&mut self, failure: &Failure) -> Option<Duration> {
        let passing = matches!(
            failure.class,
            // An answer that is none of the CRM's says nothing of the job.
            ErrorClass::Transient | ErrorClass::RateLimited | ErrorClass::Internal
        );
        (passing && self.try_again()).then(|| {
            let wait = self.next_wait();
            failure
                .retry_after
                .map_or(wait, |told| told.min(LONGEST_PAUSE))
        })
    }
}
