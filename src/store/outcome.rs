//! How an attempt to bring a record to the CRM ended: one answer for write-back and for the
//! reconciler.

use crm_domain::{AuditResult, ErrorClass};

/// How an attempt to bring a record to the CRM ended, on whichever path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The CRM accepted it, or every cell of the edit is decided.
    Applied,
    /// The record that was to be created is there: it was not written, and its row is to be linked
    /// to it.
    Found,
    /// Nothing had to be sent (the row is gone, or its fields are no longer mapped).
    NothingToDo,
    /// To be tried again in so many ms; `charged` if it counts as an attempt.
    Retry {
        delay_ms: i64,
        charged: bool,
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// A dead letter.
    Dead {
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// The CRM deleted the record: the link is dissolved and its edits are void.
    Unlinked { code: String, error: String },
}

impl Outcome {
    pub fn result(&self) -> AuditResult {
        match self {
            Outcome::Applied | Outcome::Found | Outcome::NothingToDo => AuditResult::Applied,
            Outcome::Retry { .. } => AuditResult::Retry,
            Outcome::Dead { .. } => AuditResult::Dead,
            Outcome::Unlinked { .. } => AuditResult::Superseded,
        }
    }

    pub fn failure(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        match self {
            Outcome::Applied | Outcome::Found | Outcome::NothingToDo => (None, None, None),
            Outcome::Retry {
                class, code, error, ..
            }
            | Outcome::Dead { class, code, error } => (Some(class.name()), Some(code), Some(error)),
            Outcome::Unlinked { code, error } => {
                (Some(ErrorClass::NotFound.name()), Some(code), Some(error))
            }
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Found => "found",
            Outcome::NothingToDo => "nothing_to_do",
            Outcome::Retry { .. } => "retry",
            Outcome::Dead { .. } => "dead",
            Outcome::Unlinked { .. } => "unlinked",
        }
    }
}
