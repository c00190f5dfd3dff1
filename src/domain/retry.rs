//! How long to wait before trying again: exponential backoff with full jitter.
//!
//! Full jitter (a uniform draw from zero to the bound) spreads the retries of many records that
//! failed together; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound of every wait.
    pub cap: Duration,
}

impl Backoff {
    /// For a record that failed.
    pub const RECORD: Backoff = Backoff {
        base: Duration::from_secs(1),
        cap: Duration::from_secs(900),
    };
    /// For a connection that failed: capped low, so that work goes on soon after an outage ends.
    pub const CONNECTION: Backoff = Backoff {
        base: Duration::from_millis(500),
        cap: Duration::from_secs(30),
    };

    /// The bound of the wait after `attempt` failures (1, 2, …).
    pub fn bound(self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// The wait after `attempt` failures, for `draw` uniform in `0.0..1.0`.
    pub fn delay(self, attempt: u32, draw: f64) -> Duration {
        self.bound(attempt).mul_f64(draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap() {
        let b = Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(10),
        };
        let bounds: Vec<u64> = (0..7).map(|n| b.bound(n).as_secs()).collect();
        assert_eq!(bounds, [1, 1, 2, 4, 8, 10, 10]);
        assert_eq!(b.bound(u32::MAX), b.cap);
    }

    #[test]
    fn jitter_stays_within_the_bound() {
        assert_eq!(Backoff::RECORD.delay(3, 0.0), Duration::ZERO);
        assert_eq!(Backoff::RECORD.delay(3, 0.5), Duration::from_secs(2));
        assert_eq!(Backoff::RECORD.delay(3, 7.0), Duration::from_secs(4));
    }
}
