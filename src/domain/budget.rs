//! How many requests may be sent to a CRM, and whose are sent first.
//!
//! Limits that apply together: a token bucket and a daily count set by the admin, the vendor's
//! short window and the vendor's day as its last answer reported them. A part of each is reserved
//! for writes that a caller waits for.
//!
//! Guarantees: whatever a CRM reports and whatever a clock does, no wait is longer than
//! [`MAX_WAIT`]; a request that waits as long as it has to, and is alone, may be sent; what is
//! reserved for real time is used for nothing else while the CRM's last report is not older than
//! [`STALE_AFTER`].

/// Whose requests wait for whom, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits.
    RealTime,
    Reconcile,
    Batch,
    Ingest,
    /// Both sides are compared at large: a pass over every record.
    Drift,
}

impl Priority {
    pub const ALL: [Priority; 5] = [
        Priority::RealTime,
        Priority::Reconcile,
        Priority::Batch,
        Priority::Ingest,
        Priority::Drift,
    ];
    pub const COUNT: usize = Priority::ALL.len();

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Priority::RealTime => "realtime",
            Priority::Reconcile => "reconcile",
            Priority::Batch => "batch",
            Priority::Ingest => "ingest",
            Priority::Drift => "drift",
        }
    }
}

/// Who reports a short window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Crm,
    /// Who carries requests to it.
    Broker,
}

/// The longest wait for a window or a token, in ms. Vendors' windows are 1 to 60 s.
pub const MAX_WAIT: i64 = 60_000;
/// How long a vendor's word on its day stands, in ms. Days end when the vendor says, which none
/// tells: after this time a request finds out.
pub const STALE_AFTER: i64 = 15 * 60_000;
/// Of each budget, the part that is kept for real time.
pub const RESERVE: f64 = 0.2;

/// What the admin allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// So many requests in so many ms; `None`: as many as the CRM takes.
    pub rate: Option<(u32, i64)>,
    /// So many requests in a day; `None`: as many as the CRM takes.
    pub day: Option<u64>,
    /// 0.0 to 0.9.
    pub reserve: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            rate: None,
            day: None,
            reserve: RESERVE,
        }
    }
}

/// A budget as the vendor reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    pub remaining: u64,
    /// `None`: it did not say of how many.
    pub limit: Option<u64>,
    /// When, in ms.
    pub at: i64,
}

impl Reported {
    /// What is left for a priority; a remainder above the limit is not believed.
    fn left(&self, reserve: f64, priority: Priority) -> f64 {
        let remaining = self.limit.map_or(self.remaining, |l| self.remaining.min(l));
        let reserved = match priority {
            Priority::RealTime => 0.0,
            _ => self.limit.unwrap_or_default() as f64 * reserve,
        };
        remaining as f64 - reserved
    }

    /// Of a day: how many ms work that nobody waits for has to leave the rest of it to real time.
    pub fn day_wait(&self, reserve: f64, now: i64) -> Option<i64> {
        let since = now - self.at;
        let used = self.left(reserve, Priority::Batch) < 1.0;
        ((0..STALE_AFTER).contains(&since) && used).then_some(STALE_AFTER - since)
    }
}

/// Requests of a day, which begins at midnight UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Since 1970.
    pub day: i64,
    pub requests: u64,
}

const DAY: i64 = 86_400_000;

impl Used {
    fn on(self, now: i64) -> Used {
        let day = now.div_euclid(DAY);
        match self.day == day {
            true => self,
            false => Used { day, requests: 0 },
        }
    }
}

/// Why a request may not go yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ask again in so many ms.
    Wait(i64),
    /// The day's are spent, and the next day begins in so many ms.
    DayUsedUp(i64),
}

#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    used: Used,
    /// Of the bucket, and when they were counted.
    tokens: f64,
    at: i64,
    /// The short windows by [`Source`], each with its length in ms.
    windows: [Option<(Reported, i64)>; 2],
}

impl Budget {
    /// `used`: what is known of the day so far.
    pub fn new(limits: Limits, used: Used) -> Self {
        Budget {
            limits,
            used,
            tokens: limits.rate.map_or(0.0, |(requests, _)| requests.into()),
            at: i64::MIN,
            windows: [None; 2],
        }
    }

    pub fn report_window(&mut self, source: Source, reported: Reported, length_ms: i64) {
        self.windows[source as usize] = Some((reported, length_ms.clamp(0, MAX_WAIT)));
    }

    pub fn used(&self) -> Used {
        self.used
    }

    /// What the admin's terms leave of the day, if they bound it.
    pub fn day(&self, now: i64) -> Option<Reported> {
        let limit = self.limits.day?;
        Some(Reported {
            remaining: limit.saturating_sub(self.used.on(now).requests),
            limit: Some(limit),
            at: now,
        })
    }

    /// Takes a request. Of the day nothing is kept from what has begun: see [`Reported::day_wait`].
    pub fn acquire(&mut self, now: i64, priority: Priority) -> Result<(), Refusal> {
        if self.day(now).is_some_and(|day| day.remaining == 0) {
            return Err(Refusal::DayUsedUp(DAY - now.rem_euclid(DAY)));
        }
        let reserve = self.limits.reserve;
        for (reported, length) in self.windows.iter().flatten() {
            let since = now - reported.at;
            // A clock that was set back ends the window too.
            if (0..*length).contains(&since) && reported.left(reserve, priority) < 1.0 {
                return Err(Refusal::Wait(length - since));
            }
        }
        if let Some((requests, window)) = self.limits.rate {
            let (most, window) = (f64::from(requests), window.max(1) as f64);
            if self.at != i64::MIN {
                let passed = now.saturating_sub(self.at).max(0) as f64;
                self.tokens = (self.tokens + most * passed / window).min(most);
            }
            self.at = now;
            let reserved = match priority {
                Priority::RealTime => 0.0,
                // One request must be possible at all.
                _ => (most * reserve).min(most - 1.0),
            };
            let missing = reserved + 1.0 - self.tokens;
            if missing > 0.0 {
                let wait = (missing * window / most).ceil() as i64;
                return Err(Refusal::Wait(wait.clamp(1, MAX_WAIT)));
            }
            self.tokens -= 1.0;
        }
        self.used = self.used.on(now);
        self.used.requests += 1;
        for (reported, _) in self.windows.iter_mut().flatten() {
            reported.remaining = reported.remaining.saturating_sub(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Refusal::{DayUsedUp, Wait};
    use super::*;

    fn ms(refusal: Refusal) -> i64 {
        match refusal {
            Wait(ms) | DayUsedUp(ms) => ms,
        }
    }

    fn rate(requests: u32, window: i64) -> Budget {
        let limits = Limits {
            rate: Some((requests, window)),
            ..Limits::default()
        };
        Budget::new(limits, Used::default())
    }

    #[test]
    fn a_part_is_kept_for_real_time() {
        let mut budget = rate(10, 1000);
        let taken = (0..20).filter(|_| budget.acquire(0, Priority::Batch).is_ok());
        assert_eq!(taken.count(), 8);
        let taken = (0..20).filter(|_| budget.acquire(0, Priority::RealTime).is_ok());
        assert_eq!(taken.count(), 2);
        assert_eq!(budget.acquire(0, Priority::RealTime), Err(Wait(100)));
        assert_eq!(budget.acquire(0, Priority::Ingest), Err(Wait(300)));
        assert_eq!(budget.acquire(300, Priority::Ingest), Ok(()));
    }

    #[test]
    fn the_vendors_window_is_waited_for() {
        let mut budget = Budget::new(Limits::default(), Used::default());
        let reported = |remaining, limit| Reported {
            remaining,
            limit,
            at: 1000,
        };
        budget.report_window(Source::Crm, reported(2, Some(10)), 10_000);
        assert_eq!(budget.acquire(1500, Priority::Batch), Err(Wait(9500)));
        assert_eq!(budget.acquire(1500, Priority::RealTime), Ok(()));
        assert_eq!(budget.acquire(1500, Priority::RealTime), Ok(()));
        assert_eq!(budget.acquire(1500, Priority::RealTime), Err(Wait(9500)));
        assert_eq!(budget.acquire(11_000, Priority::Batch), Ok(()));
        // Of how many it did not say: nothing can be kept.
        budget.report_window(Source::Crm, reported(1, None), 10_000);
        assert_eq!(budget.acquire(1500, Priority::Batch), Ok(()));
        assert_eq!(budget.acquire(1500, Priority::Batch), Err(Wait(9500)));
        // More than there are.
        budget.report_window(Source::Crm, reported(1_000_000, Some(0)), i64::MAX);
        assert_eq!(
            budget.acquire(1500, Priority::RealTime),
            Err(Wait(MAX_WAIT - 500))
        );
    }

    #[test]
    fn the_brokers_window_holds_beside_the_crms() {
        let mut budget = Budget::new(Limits::default(), Used::default());
        let reported = |remaining| Reported {
            remaining,
            limit: None,
            at: 0,
        };
        budget.report_window(Source::Crm, reported(9), 10_000);
        budget.report_window(Source::Broker, reported(1), 600_000);
        assert_eq!(budget.acquire(0, Priority::Batch), Ok(()));
        assert_eq!(budget.acquire(0, Priority::RealTime), Err(Wait(MAX_WAIT)));
        budget.report_window(Source::Broker, reported(100), 600_000);
        let taken = (0..20).filter(|_| budget.acquire(1, Priority::Batch).is_ok());
        assert_eq!(taken.count(), 8, "of the CRM's nine one has gone");
        assert_eq!(budget.acquire(1, Priority::Batch), Err(Wait(9_999)));
    }

    #[test]
    fn a_day_has_its_own_count() {
        let limits = Limits {
            day: Some(3),
            ..Limits::default()
        };
        let used = Used {
            day: 1,
            requests: 1,
        };
        let mut budget = Budget::new(limits, used);
        let now = DAY + 1000;
        assert_eq!(budget.day(now).map(|day| day.remaining), Some(2));
        assert_eq!(budget.acquire(now, Priority::Batch), Ok(()));
        assert_eq!(budget.acquire(now, Priority::Ingest), Ok(()));
        for priority in Priority::ALL {
            assert_eq!(budget.acquire(now, priority), Err(DayUsedUp(DAY - 1000)));
        }
        assert_eq!(budget.used().requests, 3);
        assert_eq!(budget.acquire(2 * DAY, Priority::Drift), Ok(()));
        let begun = Used {
            day: 2,
            requests: 1,
        };
        assert_eq!(budget.used(), begun);
        // Nobody bounds it: it is counted all the same.
        let mut budget = Budget::new(Limits::default(), begun);
        assert_eq!(budget.day(2 * DAY), None);
        assert_eq!(budget.acquire(2 * DAY, Priority::Drift), Ok(()));
        assert_eq!(budget.used().requests, 2);
    }

    #[test]
    fn the_rest_of_the_day_is_for_real_time() {
        let reported = |remaining| Reported {
            remaining,
            limit: Some(1000),
            at: 0,
        };
        assert_eq!(reported(201).day_wait(0.2, 1), None);
        assert_eq!(reported(200).day_wait(0.2, 1), Some(STALE_AFTER - 1));
        assert_eq!(reported(200).day_wait(0.1, 1), None);
        assert_eq!(
            reported(200).day_wait(0.2, STALE_AFTER),
            None,
            "somebody has to find out"
        );
    }

    proptest! {
        /// In no window of time go more requests than the bucket holds and gains, and who waits as
        /// long as told gets one.
        #[test]
        fn the_rate_holds_and_waits_end(
            requests in 1u32..50,
            window in 1i64..20_000,
            reserve in 0.0f64..0.9,
            steps in prop::collection::vec((0i64..500, 0..Priority::COUNT), 1..200),
        ) {
            let limits = Limits { rate: Some((requests, window)), reserve, day: None };
            let mut budget = Budget::new(limits, Used::default());
            let (mut now, mut taken) = (0, 0u32);
            for (pass, priority) in steps {
                now += pass;
                let priority = Priority::ALL[priority];
                if let Err(wait) = budget.acquire(now, priority).map_err(ms) {
                    prop_assert!((1..=MAX_WAIT).contains(&wait));
                    // A wait that was cut short is required again.
                    let mut again = 0;
                    let mut wait = wait;
                    loop {
                        now += wait;
                        match budget.acquire(now, priority).map_err(ms) {
                            Ok(()) => break,
                            Err(more) => wait = more,
                        }
                        again += 1;
                        prop_assert!(again < 30);
                    }
                }
                taken += 1;
            }
            let gained = f64::from(requests) * now as f64 / window as f64;
            prop_assert!(f64::from(taken) <= f64::from(requests) + gained + 1e-6);
        }

        /// Whatever a vendor reports, waits are bounded.
        #[test]
        fn lies_do_no_harm(
            remaining in any::<u64>(),
            limit in prop::option::of(any::<u64>()),
            at in any::<i32>(),
            length in any::<i64>(),
            now in any::<i32>(),
        ) {
            let mut budget = Budget::new(Limits::default(), Used::default());
            let reported = Reported { remaining, limit, at: at.into() };
            budget.report_window(Source::Crm, reported, length);
            if let Err(wait) = budget.acquire(now.into(), Priority::Batch).map_err(ms) {
                prop_assert!((0..=MAX_WAIT).contains(&wait));
            }
            prop_assert!(reported.day_wait(0.2, now.into()).is_none_or(|wait| wait <= STALE_AFTER));
        }
    }
}
