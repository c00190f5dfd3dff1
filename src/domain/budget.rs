//! How many requests may go to a CRM, and whose go first.
//!
//! Bounds that hold at once: a token bucket and a day's count by the admin's terms, the vendor's short window and the vendor's
//! day as its last answer told them. A part of each is kept for writes that somebody waits for.
//!
//! Guarantees: whatever a CRM tells and whatever a clock does, nobody is told to wait longer than [`LONGEST`]; who waits as
//! long as told and is alone gets a request; what is kept for real time goes to nobody else, as long as the CRM's last word
//! is not older than [`STALE`].

/// Whose requests wait for whom, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Somebody waits.
    RealTime,
    Reconcile,
    Batch,
    Ingest,
    /// Both sides are compared at large: a pass over every record.
    Drift,
}

impl Lane {
    pub const COUNT: usize = Lane::Drift as usize + 1;
}

/// Who tells of a short window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    Crm,
    /// Who carries requests to it.
    Broker,
}

/// The longest wait for a window or a token, in ms. Vendors' windows are 1 to 60 s.
pub const LONGEST: i64 = 60_000;
/// How long a vendor's word on its day stands, in ms. Days end when the vendor says, which none tells: after this time a
/// request finds out.
pub const STALE: i64 = 15 * 60_000;
/// Of each budget, the part that is kept for real time.
pub const RESERVE: f64 = 0.2;

/// What the admin allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// So many requests in so many ms; `None`: as many as the CRM takes.
    pub rate: Option<(u32, i64)>,
    /// So many requests in a day; `None`: as many as the CRM takes.
    pub day: Option<u64>,
    /// 0.0 to 0.9.
    pub reserve: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            rate: None,
            day: None,
            reserve: RESERVE,
        }
    }
}

/// A budget as the vendor told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub remaining: u64,
    /// `None`: it did not say of how many.
    pub limit: Option<u64>,
    /// When, in ms.
    pub at: i64,
}

impl Told {
    /// What is left for a lane; a remainder above the limit is a lie.
    fn left(&self, reserve: f64, lane: Lane) -> f64 {
        let remaining = self.limit.map_or(self.remaining, |l| self.remaining.min(l));
        let kept = match lane {
            Lane::RealTime => 0.0,
            _ => self.limit.unwrap_or_default() as f64 * reserve,
        };
        remaining as f64 - kept
    }

    /// Of a day: how many ms work that nobody waits for has to leave the rest of it to real time.
    pub fn day_wait(&self, reserve: f64, now: i64) -> Option<i64> {
        let since = now - self.at;
        let spent = self.left(reserve, Lane::Batch) < 1.0;
        ((0..STALE).contains(&since) && spent).then_some(STALE - since)
    }
}

/// Requests of a day, which begins at midnight UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Since 1970.
    pub day: i64,
    pub requests: u64,
}

const DAY: i64 = 86_400_000;

impl Spent {
    fn on(self, now: i64) -> Spent {
        let day = now.div_euclid(DAY);
        match self.day == day {
            true => self,
            false => Spent { day, requests: 0 },
        }
    }
}

/// Why a request may not go yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ask again in so many ms.
    Wait(i64),
    /// The day's are spent, and the next day begins in so many ms.
    DaySpent(i64),
}

#[derive(Debug)]
pub struct Budget {
    terms: Terms,
    spent: Spent,
    /// Of the bucket, and when they were counted.
    tokens: f64,
    at: i64,
    /// The short windows by [`Teller`], each with its length in ms.
    windows: [Option<(Told, i64)>; 2],
}

impl Budget {
    /// `spent`: what is known of the day so far.
    pub fn new(terms: Terms, spent: Spent) -> Self {
        Budget {
            terms,
            spent,
            tokens: terms.rate.map_or(0.0, |(requests, _)| requests.into()),
            at: i64::MIN,
            windows: [None; 2],
        }
    }

    pub fn told_window(&mut self, teller: Teller, told: Told, length_ms: i64) {
        self.windows[teller as usize] = Some((told, length_ms.clamp(0, LONGEST)));
    }

    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// What the admin's terms leave of the day, if they bound it.
    pub fn day(&self, now: i64) -> Option<Told> {
        let limit = self.terms.day?;
        Some(Told {
            remaining: limit.saturating_sub(self.spent.on(now).requests),
            limit: Some(limit),
            at: now,
        })
    }

    /// Takes a request. Of the day nothing is kept from what has begun: see [`Told::day_wait`].
    pub fn take(&mut self, now: i64, lane: Lane) -> Result<(), Refusal> {
        if self.day(now).is_some_and(|day| day.remaining == 0) {
            return Err(Refusal::DaySpent(DAY - now.rem_euclid(DAY)));
        }
        let reserve = self.terms.reserve;
        for (told, length) in self.windows.iter().flatten() {
            let since = now - told.at;
            // A clock that was set back ends the window too.
            if (0..*length).contains(&since) && told.left(reserve, lane) < 1.0 {
                return Err(Refusal::Wait(length - since));
            }
        }
        if let Some((requests, window)) = self.terms.rate {
            let (most, window) = (f64::from(requests), window.max(1) as f64);
            if self.at != i64::MIN {
                let passed = now.saturating_sub(self.at).max(0) as f64;
                self.tokens = (self.tokens + most * passed / window).min(most);
            }
            self.at = now;
            let kept = match lane {
                Lane::RealTime => 0.0,
                // One request must be possible at all.
                _ => (most * reserve).min(most - 1.0),
            };
            let missing = kept + 1.0 - self.tokens;
            if missing > 0.0 {
                let wait = (missing * window / most).ceil() as i64;
                return Err(Refusal::Wait(wait.clamp(1, LONGEST)));
            }
            self.tokens -= 1.0;
        }
        self.spent = self.spent.on(now);
        self.spent.requests += 1;
        for (told, _) in self.windows.iter_mut().flatten() {
            told.remaining = told.remaining.saturating_sub(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Refusal::{DaySpent, Wait};
    use super::*;

    const LANES: [Lane; Lane::COUNT] = [
        Lane::RealTime,
        Lane::Reconcile,
        Lane::Batch,
        Lane::Ingest,
        Lane::Drift,
    ];

    fn ms(refusal: Refusal) -> i64 {
        match refusal {
            Wait(ms) | DaySpent(ms) => ms,
        }
    }

    fn rate(requests: u32, window: i64) -> Budget {
        let terms = Terms {
            rate: Some((requests, window)),
            ..Terms::default()
        };
        Budget::new(terms, Spent::default())
    }

    #[test]
    fn a_part_is_kept_for_real_time() {
        let mut budget = rate(10, 1000);
        let taken = (0..20).filter(|_| budget.take(0, Lane::Batch).is_ok());
        assert_eq!(taken.count(), 8);
        let taken = (0..20).filter(|_| budget.take(0, Lane::RealTime).is_ok());
        assert_eq!(taken.count(), 2);
        assert_eq!(budget.take(0, Lane::RealTime), Err(Wait(100)));
        assert_eq!(budget.take(0, Lane::Ingest), Err(Wait(300)));
        assert_eq!(budget.take(300, Lane::Ingest), Ok(()));
    }

    #[test]
    fn the_vendors_window_is_waited_for() {
        let mut budget = Budget::new(Terms::default(), Spent::default());
        let told = |remaining, limit| Told {
            remaining,
            limit,
            at: 1000,
        };
        budget.told_window(Teller::Crm, told(2, Some(10)), 10_000);
        assert_eq!(budget.take(1500, Lane::Batch), Err(Wait(9500)));
        assert_eq!(budget.take(1500, Lane::RealTime), Ok(()));
        assert_eq!(budget.take(1500, Lane::RealTime), Ok(()));
        assert_eq!(budget.take(1500, Lane::RealTime), Err(Wait(9500)));
        assert_eq!(budget.take(11_000, Lane::Batch), Ok(()));
        // Of how many it did not say: nothing can be kept.
        budget.told_window(Teller::Crm, told(1, None), 10_000);
        assert_eq!(budget.take(1500, Lane::Batch), Ok(()));
        assert_eq!(budget.take(1500, Lane::Batch), Err(Wait(9500)));
        // More than there are.
        budget.told_window(Teller::Crm, told(1_000_000, Some(0)), i64::MAX);
        assert_eq!(budget.take(1500, Lane::RealTime), Err(Wait(LONGEST - 500)));
    }

    #[test]
    fn the_brokers_window_holds_beside_the_crms() {
        let mut budget = Budget::new(Terms::default(), Spent::default());
        let told = |remaining| Told {
            remaining,
            limit: None,
            at: 0,
        };
        budget.told_window(Teller::Crm, told(9), 10_000);
        budget.told_window(Teller::Broker, told(1), 600_000);
        assert_eq!(budget.take(0, Lane::Batch), Ok(()));
        assert_eq!(budget.take(0, Lane::RealTime), Err(Wait(LONGEST)));
        budget.told_window(Teller::Broker, told(100), 600_000);
        let taken = (0..20).filter(|_| budget.take(1, Lane::Batch).is_ok());
        assert_eq!(taken.count(), 8, "of the CRM's nine one has gone");
        assert_eq!(budget.take(1, Lane::Batch), Err(Wait(9_999)));
    }

    #[test]
    fn a_day_has_its_own_count() {
        let terms = Terms {
            day: Some(3),
            ..Terms::default()
        };
        let spent = Spent {
            day: 1,
            requests: 1,
        };
        let mut budget = Budget::new(terms, spent);
        let now = DAY + 1000;
        assert_eq!(budget.day(now).map(|day| day.remaining), Some(2));
        assert_eq!(budget.take(now, Lane::Batch), Ok(()));
        assert_eq!(budget.take(now, Lane::Ingest), Ok(()));
        for lane in LANES {
            assert_eq!(budget.take(now, lane), Err(DaySpent(DAY - 1000)));
        }
        assert_eq!(budget.spent().requests, 3);
        assert_eq!(budget.take(2 * DAY, Lane::Drift), Ok(()));
        let begun = Spent {
            day: 2,
            requests: 1,
        };
        assert_eq!(budget.spent(), begun);
        // Nobody bounds it: it is counted all the same.
        let mut budget = Budget::new(Terms::default(), begun);
        assert_eq!(budget.day(2 * DAY), None);
        assert_eq!(budget.take(2 * DAY, Lane::Drift), Ok(()));
        assert_eq!(budget.spent().requests, 2);
    }

    #[test]
    fn the_rest_of_the_day_is_for_real_time() {
        let told = |remaining| Told {
            remaining,
            limit: Some(1000),
            at: 0,
        };
        assert_eq!(told(201).day_wait(0.2, 1), None);
        assert_eq!(told(200).day_wait(0.2, 1), Some(STALE - 1));
        assert_eq!(told(200).day_wait(0.1, 1), None);
        assert_eq!(
            told(200).day_wait(0.2, STALE),
            None,
            "somebody has to find out"
        );
    }

    proptest! {
        /// In no window of time go more requests than the bucket holds and gains, and who waits as long as told gets one.
        #[test]
        fn the_rate_holds_and_waits_end(
            requests in 1u32..50,
            window in 1i64..20_000,
            reserve in 0.0f64..0.9,
            steps in prop::collection::vec((0i64..500, 0..Lane::COUNT), 1..200),
        ) {
            let terms = Terms { rate: Some((requests, window)), reserve, day: None };
            let mut budget = Budget::new(terms, Spent::default());
            let (mut now, mut taken) = (0, 0u32);
            for (pass, lane) in steps {
                now += pass;
                let lane = LANES[lane];
                if let Err(wait) = budget.take(now, lane).map_err(ms) {
                    prop_assert!((1..=LONGEST).contains(&wait));
                    // A wait that was cut short is told again.
                    let mut again = 0;
                    let mut wait = wait;
                    loop {
                        now += wait;
                        match budget.take(now, lane).map_err(ms) {
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

        /// Whatever a vendor tells, waits are bounded.
        #[test]
        fn lies_do_no_harm(
            remaining in any::<u64>(),
            limit in prop::option::of(any::<u64>()),
            at in any::<i32>(),
            length in any::<i64>(),
            now in any::<i32>(),
        ) {
            let mut budget = Budget::new(Terms::default(), Spent::default());
            let told = Told { remaining, limit, at: at.into() };
            budget.told_window(Teller::Crm, told, length);
            if let Err(wait) = budget.take(now.into(), Lane::Batch).map_err(ms) {
                prop_assert!((0..=LONGEST).contains(&wait));
            }
            prop_assert!(told.day_wait(0.2, now.into()).is_none_or(|wait| wait <= STALE));
        }
    }
}
