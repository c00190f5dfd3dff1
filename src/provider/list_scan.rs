//! A list that is looked through at the end of a pass, because what it shows is in no order of change: the
//! one mechanism behind deleted and archived records that the changes themselves do not tell.
//!
//! Guarantees: the list is read from where it goes on to its end, and not again before it is due; what
//! was shown within `overlap` before the beginning of a look is told by the next one too.

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};

use crate::change_scan::moment;

/// How far it has been looked. It is stored as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Look {
    /// Where the list goes on; it is being read. The vendor's own text.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Pages of it that were read.
    pages: u32,
    /// What the list has shown since then has not been told.
    #[serde(with = "moment", skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    /// When its first page was read.
    #[serde(with = "moment", skip_serializing_if = "Option::is_none")]
    began: Option<i64>,
    /// It is not read again before.
    #[serde(with = "moment", skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
}

impl Look {
    /// Where the list goes on, if it is being read.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    pub fn since(&self) -> Option<i64> {
        self.since
    }

    pub fn is_due(&self, date: Option<i64>) -> bool {
        date.zip(self.due).is_none_or(|(date, due)| date >= due)
    }

    /// From the start again: the text by which the list was to go on is not taken any more.
    pub fn restart(&mut self) {
        self.after = None;
    }

    /// Where a first look begins, for lists that must be told one.
    pub fn begin(&mut self, since: Option<i64>) {
        self.since = self.since.or(since);
    }

    /// Takes in a page, and tells whether there are more. `pause` tells from the number of pages how long
    /// not to look again.
    pub fn take(
        &mut self,
        next: Option<String>,
        date: Option<i64>,
        overlap: i64,
        pause: impl Fn(u32) -> i64,
    ) -> Result<bool, Failure> {
        if next.is_some() && next == self.after {
            let message = "the list goes on where it has been";
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
