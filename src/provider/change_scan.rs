//! A scan through the records of a CRM in the order of their last change, second by second: the one
//! mechanism behind polling vendors that tell modification times.
//!
//! A position is a second and, within a second, an id. Seconds, because vendors do not say whether
//! they compare milliseconds: "from this second on" and "within this second" have one meaning
//! whether the CRM stores, shows or compares milliseconds or not. A page that ends within a second
//! is cut back to the seconds that it is sure to contain completely; a second with more records
//! than fit a page is read in the order of its ids.
//!
//! Guarantees, as long as the CRM's answers are sorted as requested:
//! - Each page makes progress, whatever its size, so a scan ends once the CRM is quiet: no number
//!   of records with the same time makes it loop or skip one.
//! - A record that becomes visible up to `overlap` after its own modification time is seen. What is
//!   read of the last `overlap` before an answer's own date is read again by the next pass. The
//!   date is the CRM's; where it sends none, the newest change seen stands for it.
//! - A quiet CRM is not read again and again: once its clock is `overlap` past the newest change, a
//!   pass asks for newer changes only.

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::moment::{self, SECOND};

const DAY: i64 = 24 * 60 * 60 * SECOND;

/// The option that bounds how late a record may become visible, in seconds.
pub(crate) const OVERLAP_OPTION: &str = "overlap_seconds";

/// The overlap in milliseconds, a day at most.
pub(crate) fn overlap(settings: &Settings, default_seconds: i64) -> i64 {
    let seconds = match settings.options.get(OVERLAP_OPTION) {
        Some(serde_json::Value::Number(n)) => n.as_i64(),
        Some(serde_json::Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = seconds.unwrap_or(default_seconds);
    seconds.saturating_mul(SECOND).clamp(0, DAY)
}

/// The position of a scan. It is stored as JSON, with times in a readable form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeScan {
    /// Everything that changed before this second has been read. `None`: nothing has.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    /// Everything of this second up to this id has been read too. `None`: the second is not read by
    /// id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The newest change ever seen.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    newest: Option<i64>,
    /// The next pass reads again from here.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    again: Option<i64>,
}

/// What to request from the CRM.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ScanQuery<'a> {
    /// What changed in this second or later, or at any time; sorted by time.
    Since(Option<i64>),
    /// What changed within this second and has a greater id than this (empty: any id); sorted by
    /// id.
    Within { second: i64, after: &'a str },
}

/// A record in an answer. A position that cannot be read follows from its neighbours.
pub(crate) struct ScanRow<T> {
    pub at: Option<i64>,
    pub id: Option<String>,
    pub item: T,
}

/// The answer to a [`ScanQuery`].
pub(crate) struct ScanPage<T> {
    /// Sorted as requested.
    pub rows: Vec<ScanRow<T>>,
    /// Whether more may match the query than `rows`.
    pub full: bool,
    /// The time of the CRM's clock.
    pub date: Option<i64>,
}

/// What an answer led to.
pub(crate) enum ScanStep<T> {
    Page {
        items: Vec<T>,
        more: bool,
    },
    /// Nothing yet: the query is another one now.
    QueryAgain,
}

impl ChangeScan {
    pub fn query(&self) -> ScanQuery<'_> {
        match (self.at, &self.id) {
            (Some(second), Some(id)) => ScanQuery::Within { second, after: id },
            (at, _) => ScanQuery::Since(at),
        }
    }

    /// Moves on by the answer to [`ChangeScan::query`].
    pub fn advance<T>(
        &mut self,
        mut page: ScanPage<T>,
        overlap: i64,
    ) -> Result<ScanStep<T>, Failure> {
        self.newest = self
            .newest
            .max(page.rows.iter().filter_map(|row| row.at).max());
        self.place(&mut page.rows);
        let times = || page.rows.iter().filter_map(|row| row.at).map(floor);
        let bounds = times().min().zip(times().max());
        let more = match (&self.id, bounds) {
            (_, None) if page.full => return Err(stuck()),
            (None, Some((first, last))) if page.full => {
                if first == last || self.at >= Some(last) {
                    self.mark(Some(last), page.date, overlap);
                    self.at = self.at.max(Some(last));
                    self.id = Some(String::new());
                    return Ok(ScanStep::QueryAgain);
                }
                page.rows.retain(|row| row.at.map(floor) < Some(last));
                self.mark(Some(last), page.date, overlap);
                self.at = Some(last);
                true
            }
            (None, _) => {
                self.mark(None, page.date, overlap);
                self.end();
                false
            }
            (Some(after), _) => {
                let second_after = self.at.map(|at| at + SECOND);
                let mut ids = page.rows.iter().rev().map(|row| &row.id);
                let last = ids.find_map(Option::clone);
                if page.full && last.as_ref() == Some(after) {
                    return Err(stuck());
                }
                self.mark(second_after, page.date, overlap);
                // Without a single readable id on a full page there is no way to request the next
                // one.
                if page.full && last.is_some() {
                    self.id = last;
                } else {
                    self.at = second_after;
                    self.id = None;
                }
                true
            }
        };
        let items = page.rows.into_iter().map(|row| row.item).collect();
        Ok(ScanStep::Page { items, more })
    }

    /// Gives a time to rows that lack one: that of the row before, or of the first that has one.
    fn place<T>(&self, rows: &mut [ScanRow<T>]) {
        let within = self.at.filter(|_| self.id.is_some());
        let first = within.or_else(|| rows.iter().find_map(|row| row.at));
        let mut before = first.or(self.at);
        for row in rows {
            row.at = row.at.or(before);
            before = row.at;
        }
    }

    /// Reads the current second from its first id again, for when a vendor no longer accepts its
    /// page token.
    pub fn restart_second(&mut self) {
        self.id = self.id.take().map(|_| String::new());
    }

    /// Records which part of a page, read up to `until`, the next pass has to read again.
    fn mark(&mut self, until: Option<i64>, date: Option<i64>, overlap: i64) {
        let now = match until {
            None => date.or(self.newest),
            Some(_) => date,
        };
        let Some(unsure) = now.map(|now| now.saturating_sub(overlap)) else {
            return;
        };
        if until.is_none_or(|until| until > unsure) {
            self.again = Some(self.again.map_or(unsure, |again| again.min(unsure)));
        }
    }

    /// Ends a pass: the next one begins where this one was unsure, or right after the newest
    /// change.
    fn end(&mut self) {
        let again = self.again.take();
        if let Some(newest) = self.newest {
            let after_newest = floor(newest) + SECOND;
            self.at = Some(floor(
                again.map_or(after_newest, |again| again.min(after_newest)),
            ));
        }
    }
}

fn floor(ms: i64) -> i64 {
    ms.div_euclid(SECOND) * SECOND
}

fn stuck() -> Failure {
    let message = "the CRM reports more records, but returns no new ones";
    Failure::record(ErrorClass::Internal, "no_progress", message)
}

#[cfg(test)]
mod tests;
