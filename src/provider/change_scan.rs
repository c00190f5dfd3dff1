//! A walk through the records of a CRM in the order of their last change, second by second: the one
//! mechanism behind the polls of vendors that tell times.
//!
//! A position is a second, and within a second an id. Seconds, because vendors do not say whether they
//! compare milliseconds: "from this second on" and "within this second" have one meaning whether the
//! CRM keeps, shows or compares milliseconds or not. A page that ends within a second is cut back to
//! the seconds that it surely holds whole; a second that holds more than a page is read by its ids.
//!
//! Guarantees, as long as the CRM's answers are sorted as asked:
//! - Each page gets on, whatever its size, so a walk ends once the CRM is quiet: no number of records
//!   with one time makes it turn in circles, or passes one over.
//! - A record that becomes visible up to `overlap` after the time that it bears is seen. What is read
//!   of the last `overlap` before an answer's own date is read again by the next pass. The date is the
//!   CRM's; where it tells none, the newest change that was seen stands for it.
//! - A quiet CRM is not read again and again: once its clock is `overlap` past the newest change, a
//!   pass asks for what is newer than that and nothing else.

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};

use crate::Settings;

pub(crate) const SECOND: i64 = 1000;
const DAY: i64 = 24 * 60 * 60 * SECOND;

/// The option that sets how late a record may become visible, in seconds.
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

/// Where a walk stands. It is stored as JSON, with times as texts that people can read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Walk {
    /// What changed before this second has been read. `None`: nothing has.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    /// Of this second, everything up to this id has been read too. `None`: it is not read by ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The newest change ever seen.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    newest: Option<i64>,
    /// From here on the next pass has to read again.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    again: Option<i64>,
}

/// What to ask the CRM for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// What changed in this second or later, or ever; sorted by time.
    Since(Option<i64>),
    /// What changed within this second and has a greater id (the empty one: any); sorted by id.
    Within { second: i64, after: &'a str },
}

/// A record in an answer. What cannot be read of its place follows from its neighbours'.
pub(crate) struct Row<T> {
    pub at: Option<i64>,
    pub id: Option<String>,
    pub item: T,
}

/// An answer.
pub(crate) struct Slice<T> {
    /// Sorted as asked.
    pub rows: Vec<Row<T>>,
    /// Whether there may be more that was asked for than `rows`.
    pub full: bool,
    /// The CRM's own time.
    pub date: Option<i64>,
}

/// What came of an answer.
pub(crate) enum Taken<T> {
    Page {
        items: Vec<T>,
        more: bool,
    },
    /// Nothing yet: what is asked for is another now.
    AskAgain,
}

impl Walk {
    pub fn ask(&self) -> Ask<'_> {
        match (self.at, &self.id) {
            (Some(second), Some(id)) => Ask::Within { second, after: id },
            (at, _) => Ask::Since(at),
        }
    }

    /// Takes in the answer to what [`Walk::ask`] asks for.
    pub fn take<T>(&mut self, mut slice: Slice<T>, overlap: i64) -> Result<Taken<T>, Failure> {
        self.newest = self
            .newest
            .max(slice.rows.iter().filter_map(|row| row.at).max());
        self.place(&mut slice.rows);
        let times = || slice.rows.iter().filter_map(|row| row.at).map(floor);
        let bounds = times().min().zip(times().max());
        let more = match (&self.id, bounds) {
            (_, None) if slice.full => return Err(stuck()),
            (None, Some((first, last))) if slice.full => {
                if first == last || self.at >= Some(last) {
                    self.mark(Some(last), slice.date, overlap);
                    self.at = self.at.max(Some(last));
                    self.id = Some(String::new());
                    return Ok(Taken::AskAgain);
                }
                slice.rows.retain(|row| row.at.map(floor) < Some(last));
                self.mark(Some(last), slice.date, overlap);
                self.at = Some(last);
                true
            }
            (None, _) => {
                self.mark(None, slice.date, overlap);
                self.end();
                false
            }
            (Some(after), _) => {
                let second_after = self.at.map(|at| at + SECOND);
                let mut ids = slice.rows.iter().rev().map(|row| &row.id);
                let last = ids.find_map(Option::clone);
                if slice.full && last.as_ref() == Some(after) {
                    return Err(stuck());
                }
                self.mark(second_after, slice.date, overlap);
                // A whole page of ids that cannot be read leaves no way to ask for the next.
                if slice.full && last.is_some() {
                    self.id = last;
                } else {
                    self.at = second_after;
                    self.id = None;
                }
                true
            }
        };
        let items = slice.rows.into_iter().map(|row| row.item).collect();
        Ok(Taken::Page { items, more })
    }

    /// Gives a time to the rows that lack one: that of the row before, or of the first that has one.
    fn place<T>(&self, rows: &mut [Row<T>]) {
        let within = self.at.filter(|_| self.id.is_some());
        let first = within.or_else(|| rows.iter().find_map(|row| row.at));
        let mut before = first.or(self.at);
        for row in rows {
            row.at = row.at.or(before);
            before = row.at;
        }
    }

    /// Reads a second by ids from its first one on, for vendors by whose own text it went on.
    pub fn restart_second(&mut self) {
        self.id = self.id.take().map(|_| String::new());
    }

    /// Notes what of a page has to be read again, of which all before `until` has been read now.
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

    /// The end of a pass: the next one begins where this one is unsure, or right after the newest.
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
    let message = "the CRM says that there are more records, and shows none that are new";
    Failure::record(ErrorClass::Internal, "no_progress", message)
}

/// Moments as `2026-01-02T03:04:05.678Z`.
pub(crate) mod moment {
    use crm_domain::Value;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::wire;

    pub fn text(ms: i64) -> String {
        Value::timestamp_ms(ms)
            .to_text()
            .unwrap_or_default()
            .into_owned()
    }

    pub fn serialize<S: Serializer>(ms: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
        ms.map(text).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        let json = Option::<serde_json::Value>::deserialize(from)?;
        json.map(|json| wire::moment(&json).ok_or_else(|| D::Error::custom("no moment")))
            .transpose()
    }
}

#[cfg(test)]
mod tests;
