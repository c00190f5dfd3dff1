//! What the workers did in each of the last minutes, by map: for the page's charts.
//!
//! Guarantee: a day of minutes at most, and in each only maps that did something.

use std::collections::{BTreeMap, VecDeque};

use crm_domain::{AuditResult, Path};
use serde_json::{Value as Json, json};

use crate::counters::Counter;

const MINUTES: usize = 24 * 60;

/// Records of a map in one minute.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    written: u64,
    ingested: u64,
    failed: u64,
}

impl Counts {
    fn since(self, before: Counts) -> Counts {
        Counts {
            written: self.written.saturating_sub(before.written),
            ingested: self.ingested.saturating_sub(before.ingested),
            failed: self.failed.saturating_sub(before.failed),
        }
    }
}

#[derive(Default)]
pub struct History {
    /// As counted when the last minute ended.
    totals: BTreeMap<i32, Counts>,
    /// When each minute ended, in seconds since 1970, and what was counted in it.
    minutes: VecDeque<(i64, BTreeMap<i32, Counts>)>,
}

impl History {
    /// Begins with what is counted already, which belongs to no minute.
    pub fn starting_with(counted: &[(Counter, u64)]) -> History {
        History {
            totals: totals(counted),
            minutes: VecDeque::new(),
        }
    }

    /// A minute ended.
    pub fn add(&mut self, at: i64, counted: &[(Counter, u64)]) {
        let totals = totals(counted);
        let before = std::mem::replace(&mut self.totals, totals);
        let changed = self.totals.iter().filter_map(|(map_id, counts)| {
            let counts = counts.since(before.get(map_id).copied().unwrap_or_default());
            (counts != Counts::default()).then_some((*map_id, counts))
        });
        self.minutes.push_back((at, changed.collect()));
        if self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }

    /// `[[end of the minute, {map: [written, ingested, failed]}], …]`, oldest first.
    pub fn to_json(&self) -> Json {
        let minute = |(at, maps): &(i64, BTreeMap<i32, Counts>)| {
            let maps = maps.iter().map(|(map_id, counts)| {
                let Counts {
                    written,
                    ingested,
                    failed,
                } = counts;
                (map_id.to_string(), json!([written, ingested, failed]))
            });
            json!([at, maps.collect::<serde_json::Map<_, _>>()])
        };
        self.minutes.iter().map(minute).collect()
    }
}

fn totals(counted: &[(Counter, u64)]) -> BTreeMap<i32, Counts> {
    let mut totals: BTreeMap<i32, Counts> = BTreeMap::new();
    for (counter, count) in counted {
        let Counter::Records {
            map_id,
            path,
            result,
            ..
        } = counter
        else {
            continue;
        };
        let counts = totals.entry(*map_id).or_default();
        match (result, path) {
            (AuditResult::Retry | AuditResult::Dead, _) => counts.failed += count,
            (AuditResult::Applied | AuditResult::Raced, Path::Ingest) => counts.ingested += count,
            (AuditResult::Applied | AuditResult::Raced, _) => counts.written += count,
            _ => {}
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(map_id: i32, path: Path, result: AuditResult, count: u64) -> (Counter, u64) {
        let counter = Counter::Records {
            map_id,
            path,
            result,
            class: None,
        };
        (counter, count)
    }

    #[test]
    fn a_minute_has_what_was_counted_in_it() {
        let applied = |count| records(1, Path::Batch, AuditResult::Applied, count);
        let mut history = History::starting_with(&[applied(5)]);
        let failed = records(1, Path::RealTime, AuditResult::Retry, 1);
        let read = records(2, Path::Ingest, AuditResult::Applied, 3);
        history.add(60, &[applied(7), failed, read]);
        history.add(120, &[applied(7), failed, read]);
        // The counters were set back: another database had them.
        history.add(180, &[applied(2)]);
        let expected = json!([[60, {"1": [2, 0, 1], "2": [0, 3, 0]}], [120, {}], [180, {}]]);
        assert_eq!(history.to_json(), expected);
    }

    #[test]
    fn no_more_than_a_day_is_kept() {
        let mut history = History::default();
        for minute in 0..2 * MINUTES as i64 {
            history.add(minute, &[]);
        }
        assert_eq!(history.minutes.len(), MINUTES);
        assert_eq!(history.minutes[0].0, MINUTES as i64);
    }
}
