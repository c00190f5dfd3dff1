//! Failures of a CRM, in the eight classes that decide what happens next.

use std::fmt;
use std::time::Duration;

use crate::string_enum::string_enum;

string_enum! {
    /// The class of an error: the only thing the engine looks at when it decides what to do.
    ErrorClass: "error class" {
        /// Timeout, reset, 5xx, row lock: worth trying again.
        Transient = "transient",
        /// The vendor asks to wait: costs no attempt.
        RateLimited = "rate_limited",
        /// Token expired or revoked, rights missing: one refresh, then the connection waits for a
        /// person.
        Auth = "auth",
        /// The CRM's own rule refused the value: terminal for that payload.
        Validation = "validation",
        /// Unknown field, wrong type, missing required field, failing transform: terminal.
        Mapping = "mapping",
        /// The CRM holds something newer, or another record holds the key.
        Conflict = "conflict",
        /// The record is not (or no longer) in the CRM.
        NotFound = "not_found",
        /// Our own fault, or an answer that nobody can make sense of: tried again, a bounded number
        /// of times.
        Internal = "internal",
    }
}

/// Whom a failure speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The records that were sent.
    Records,
    /// The CRM or the way to it (unreachable, overloaded, over budget): the records are innocent,
    /// so no attempt is charged to them and the connection waits.
    Connection,
}

/// A failed request or a failed record, in the vendor's words, with the class that pg_crm gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: ErrorClass,
    pub scope: Scope,
    /// The vendor's own code (`UNABLE_TO_LOCK_ROW`, `VALIDATION_ERROR`, …), or ours (`timeout`).
    pub code: String,
    /// The vendor's message, bounded in length, free of secrets and of our payload.
    pub message: String,
    /// How long the vendor asks to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Longest message kept, in bytes: enough for every vendor's sentence, too short for a page of
    /// HTML.
    pub const MESSAGE_BYTES: usize = 1000;

    /// Longest code kept, in bytes: the longest known has half of that.
    pub const CODE_BYTES: usize = 100;

    /// The code of a conflict that says: the record is no longer what the write was based on, and
    /// was not written. Read it again. Other conflicts have the vendor's codes.
    pub const STALE: &str = "stale";

    /// The code of a failure of our own code, which may do better with other records at hand: tried
    /// again, unlike others of its class.
    pub const PANICKED: &str = "panicked";

    pub fn record(class: ErrorClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Failure {
            class,
            scope: Scope::Records,
            code: presentable(code.into(), Self::CODE_BYTES),
            message: presentable(message.into(), Self::MESSAGE_BYTES),
            retry_after: None,
        }
    }

    pub fn connection(
        class: ErrorClass,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Failure {
            scope: Scope::Connection,
            ..Failure::record(class, code, message)
        }
    }

    /// A write that was refused because the record is no longer what it was based on.
    pub fn stale(message: impl Into<String>) -> Self {
        Failure::record(ErrorClass::Conflict, Self::STALE, message)
    }

    /// Whether the CRM refused the write because somebody else changed the record since it was
    /// read.
    pub fn is_stale(&self) -> bool {
        self.class == ErrorClass::Conflict && self.code == Self::STALE
    }

    /// No response mentions the record, so it is not known whether it was written.
    pub fn missing_result() -> Self {
        let message = "the CRM's answer does not mention this record";
        Failure::record(ErrorClass::Transient, "missing_result", message)
    }

    pub fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

/// A text as it can be stored and shown, whoever wrote it: bounded, and a space for each control
/// character (a NUL fits no text of PostgreSQL, an escape sequence no terminal).
fn presentable(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.class, self.message, self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_a_failure_can_be_stored_and_shown() {
        let failure = Failure::record(
            ErrorClass::Mapping,
            "NO\u{1b}[2J",
            "no field \"a\0b\"\r\n\u{85}",
        );
        assert_eq!(failure.code, "NO [2J");
        assert_eq!(failure.message, "no field \"a b\"   ");
    }

    #[test]
    fn the_texts_of_a_failure_are_bounded() {
        let long = "é".repeat(Failure::MESSAGE_BYTES);
        let failure = Failure::connection(ErrorClass::Transient, format!("x{long}"), long.clone());
        assert_eq!(failure.code.len(), Failure::CODE_BYTES - 1);
        assert_eq!(failure.message.len(), Failure::MESSAGE_BYTES);
        assert!(long.starts_with(&failure.message));
    }
}
