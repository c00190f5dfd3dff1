//! Waiting for a job that a CRM works on: looks at growing intervals, and patience with trouble on the way.

use std::time::Duration;

use crm_domain::{ErrorClass, Failure};

/// Waits between looks: small jobs are done within a second, large ones take minutes.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often in a row looking may fail: some two minutes of outage.
const PATIENCE: u32 = 30;
/// The longest that a vendor's "come back later" is obeyed while a job is open.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct Watch {
    wait: Duration,
    /// Failures in a row.
    troubles: u32,
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            wait: FIRST_WAIT,
            troubles: 0,
        }
    }
}

impl Watch {
    /// How long to wait before the next look.
    pub fn next(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }

    /// All goes well again.
    pub fn calm(&mut self) {
        self.troubles = 0;
    }

    /// Whether to ask once more.
    pub fn try_again(&mut self) -> bool {
        self.troubles += 1;
        self.troubles <= PATIENCE
    }

    /// How long to wait after a failure. `None`: it does not pass, or has not for long.
    pub fn bear(&mut self, failure: &Failure) -> Option<Duration> {
        let passing = matches!(
            failure.class,
            ErrorClass::Transient | ErrorClass::RateLimited
        );
        (passing && self.try_again()).then(|| {
            let wait = self.next();
            failure
                .retry_after
                .map_or(wait, |told| told.min(LONGEST_PAUSE))
        })
    }
}
