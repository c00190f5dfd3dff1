//! Regular expressions that Postgres and this crate understand alike.
//!
//! The triggers match with Postgres's `~`, `crm.write` and the suites with this crate, and a value
//! must not pass in one place and fail in the other. So a pattern is taken only if it keeps to what
//! the two dialects share. As in Postgres it may match anywhere in the text, and `.` matches a line
//! end.

use std::ops::Deref;

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes: it goes into a trigger function and into error messages.
const MAX_BYTES: usize = 1000;
/// Escapes of a letter that mean one thing in both dialects. (`\b` is a word boundary in one of
/// them and a backspace in the other.)
const SHARED_ESCAPES: &str = "dDsSwWtnrfvA";

/// A regular expression, compiled; the text of it by dereference.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    pub(super) fn parse(pattern: &str) -> Result<Pattern, String> {
        if pattern.is_empty() || pattern.len() > MAX_BYTES {
            return Err(format!("must have 1 to {MAX_BYTES} bytes"));
        }
        if let Some(stranger) = unshared(pattern) {
            return Err(format!("{stranger} is not supported in patterns"));
        }
        let regex = RegexBuilder::new(pattern)
            .dot_matches_new_line(true)
            .build();
        regex
            .map(Pattern)
            .map_err(|_| "is not a regular expression".to_owned())
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl Deref for Pattern {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// The first construct of a pattern that the dialects read differently.
fn unshared(pattern: &str) -> Option<String> {
    // Ignoring case is shared, at the start.
    let pattern = pattern.strip_prefix("(?i)").unwrap_or(pattern);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let rest = chars.as_str();
        if c == '\\' {
            let escaped = chars.next()?;
            if escaped.is_alphanumeric() && !SHARED_ESCAPES.contains(escaped) {
                return Some(format!("\\{escaped}"));
            }
        } else if c == '(' && rest.starts_with('?') && !rest.starts_with("?:") {
            return Some(format!("({}", rest.chars().take(2).collect::<String>()));
        }
    }
    None
}
