//! Request budgets of one vendor: per day and per short interval.
//!
//! Guarantees: a refused request costs nothing; what the headers say is what the next request
//! finds.

use crate::clock::DAY_MS;
use parking_lot::Mutex;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    DaySpent,
    IntervalSpent { wait_ms: i64 },
}

#[derive(Debug, Clone, Serialize)]
pub struct Meter {
    pub daily_limit: u64,
    pub daily_used: u64,
    pub interval_limit: u64,
    pub interval_ms: i64,
    pub interval_used: u64,
    #[serde(skip)]
    day: i64,
    #[serde(skip)]
    interval: i64,
}

#[derive(Debug)]
pub struct Budget {
    defaults: Meter,
    meter: Mutex<Meter>,
}

impl Budget {
    pub fn new(daily_limit: u64, interval_limit: u64, interval_ms: i64) -> Self {
        let defaults = Meter {
            daily_limit,
            daily_used: 0,
            interval_limit,
            interval_ms,
            interval_used: 0,
            day: 0,
            interval: 0,
        };
        Self {
            meter: Mutex::new(defaults.clone()),
            defaults,
        }
    }

    pub fn reset(&self) {
        *self.meter.lock() = self.defaults.clone();
    }

    /// Charges one request, which costs so much of the day's budget.
    pub fn charge(&self, now: i64, cost: u64) -> Verdict {
        let mut meter = self.meter.lock();
        meter.roll(now);
        if meter.daily_used >= meter.daily_limit {
            Verdict::DaySpent
        } else if meter.interval_used >= meter.interval_limit {
            let wait_ms = meter.interval_ms - now.rem_euclid(meter.interval_ms);
            Verdict::IntervalSpent { wait_ms }
        } else {
            meter.daily_used += cost;
            meter.interval_used += 1;
            Verdict::Granted
        }
    }

    pub fn meter(&self) -> Meter {
        self.meter.lock().clone()
    }

    pub fn set(&self, change: impl FnOnce(&mut Meter)) {
        change(&mut self.meter.lock());
    }
}

impl Meter {
    pub fn daily_left(&self) -> u64 {
        self.daily_limit.saturating_sub(self.daily_used)
    }

    pub fn interval_left(&self) -> u64 {
        self.interval_limit.saturating_sub(self.interval_used)
    }

    fn roll(&mut self, now: i64) {
        let (day, interval) = (
            now.div_euclid(DAY_MS),
            now.div_euclid(self.interval_ms.max(1)),
        );
        // The first request only learns what day it is; an admin may have set `daily_used` before
        // it.
        if self.day != 0 && self.day != day {
            self.daily_used = 0;
        }
        if self.interval != interval {
            self.interval_used = 0;
        }
        (self.day, self.interval) = (day, interval);
    }
}
