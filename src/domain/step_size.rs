//! How many records one step of bulk work takes, so that callers, who are served between steps, do
//! not wait long.
//!
//! Guarantees: a step whose records take as long as those before takes no longer than it should,
//! but has at least [`LEAST`] records, so that work goes on whatever a record takes.

use std::time::Duration;

/// How long a step may take.
pub const CALM: Duration = Duration::from_millis(50);
/// The same while callers are about.
pub const BUSY: Duration = Duration::from_millis(5);

/// Records of a step at least. Fewer cost hardly less, and say nothing of what a record takes.
pub const LEAST: usize = 100;
/// Records of the first step, of which nothing is known.
const FIRST: usize = 500;

/// What is known of the steps of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepSize {
    per_record: Option<Duration>,
}

impl StepSize {
    /// How many of `most` records the next step takes, which may take so long.
    pub fn records(&self, target: Duration, most: usize) -> usize {
        let room = match self.per_record {
            Some(time) => target.as_nanos() / time.as_nanos().max(1),
            None => FIRST as u128,
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        room.max(LEAST).min(most)
    }

    /// Notes how long a step took. One that took long by chance is soon forgotten.
    pub fn note(&mut self, records: usize, took: Duration) {
        if records < LEAST {
            return;
        }
        let now = took / u32::try_from(records).unwrap_or(u32::MAX);
        self.per_record = Some(self.per_record.map_or(now, |before| (before + now) / 2));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn steps_come_to_take_what_they_may(micros in 1u64..1000, overhead in 0u64..2000) {
            let mut size = StepSize::default();
            let takes = |records: usize| Duration::from_micros(overhead + micros * records as u64);
            for _ in 0..30 {
                let records = size.records(CALM, 1_000_000);
                size.note(records, takes(records));
            }
            let records = size.records(CALM, 1_000_000);
            prop_assert!(records == LEAST || takes(records) <= CALM * 11 / 10, "{records}");
            prop_assert!(takes(records) >= CALM * 9 / 10, "{records}");
        }

        #[test]
        fn steps_have_some_records_but_no_more_than_there_are(nanos in any::<u32>(), most in 0usize..10_000) {
            let mut size = StepSize::default();
            size.note(LEAST, Duration::from_nanos(nanos.into()));
            let records = size.records(BUSY, most);
            prop_assert!(records <= most && records >= most.min(LEAST));
        }
    }

    #[test]
    fn a_step_that_took_long_by_chance_is_forgotten() {
        let mut size = StepSize::default();
        let usual = Duration::from_micros(20);
        size.note(1000, usual * 1000);
        let before = size.records(CALM, 1_000_000);
        size.note(1000, Duration::from_secs(1));
        assert!(size.records(CALM, 1_000_000) < before / 10);
        for _ in 0..10 {
            size.note(1000, usual * 1000);
        }
        assert!(size.records(CALM, 1_000_000) > before * 9 / 10);
    }

    #[test]
    fn the_last_few_records_say_nothing_of_the_others() {
        let mut size = StepSize::default();
        size.note(1, Duration::from_millis(5));
        assert_eq!(size.records(CALM, 1_000_000), FIRST);
    }
}
