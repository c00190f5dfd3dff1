//! A scan through a list that has no order of change, at the end of a pass: the one mechanism
//! behind deleted and archived records that the changes themselves do not report.
//!
//! Guarantees: the list is read from where the last page ended to its end, and not again before it
//! is due; what entered it within `overlap` before a scan began is reported by the next scan too.

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};

use crate::moment;

/// The position of a scan. It is stored as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListScan {
    /// The vendor's token for the next page, while the list is being read.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Pages read so far.
    pages: u32,
    /// What entered the list since then has not been reported.
    #[serde(with = "moment", skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    /// When the first page was read.
    #[serde(with = "moment", skip_serializing_if = "Option::is_none")]
    began: Option<i64>,
    /// The list is not read again before this.
    #[serde(with = "moment", skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
}

impl ListScan {
    /// The token for the next page, while the list is being read.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    pub fn since(&self) -> Option<i64> {
        self.since
    }

    pub fn is_due(&self, date: Option<i64>) -> bool {
        date.zip(self.due).is_none_or(|(date, due)| date >= due)
    }

    /// Starts over: the vendor no longer accepts the token.
    pub fn restart(&mut self) {
        self.after = None;
    }

    /// Where a first scan begins, for lists that need a time to begin with.
    pub fn begin(&mut self, since: Option<i64>) {
        self.since = self.since.or(since);
    }

    /// Moves on by a page, and returns whether there are more. `pause` says, given the number of
    /// pages, how long to wait before the next scan.
    pub fn advance(
        &mut self,
        next: Option<String>,
        date: Option<i64>,
        overlap: i64,
        pause: impl Fn(u32) -> i64,
    ) -> Result<bool, Failure> {
        if next.is_some() && next == self.after {
            let message = "the list continues at a page that was already read";
            return Err(Failure::record(
                ErrorClass::Internal,
                "no_progress",
                message,
            ));
        }
        if self.after.is_none() {
            self.began = date;
            self.pages = 0;
        }
        self.pages += 1;
        self.after = next;
        if self.after.is_some() {
            return Ok(true);
        }
        let began = self.began.take();
        self.since = began.map(|began| began - overlap).or(self.since);
        self.due = date.map(|date| date + pause(self.pages));
        Ok(false)
    }
}
