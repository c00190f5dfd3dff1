//! The simulator's time, and the spellings of time the vendors use.
//!
//! Guarantees: everything that shows or compares a time (records, tokens, `Date` headers) asks this
//! clock, so one skew moves the whole CRM and nothing of the caller's.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use std::sync::atomic::{AtomicI64, Ordering};

/// Wall clock plus a skew that tests set.
#[derive(Debug, Default)]
pub struct Clock {
    skew_ms: AtomicI64,
}

impl Clock {
    /// Milliseconds since 1970 as the CRM believes them to be.
    pub fn now(&self) -> i64 {
        Utc::now().timestamp_millis() + self.skew_ms.load(Ordering::Relaxed)
    }

    pub fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    pub fn set_skew_ms(&self, skew: i64) {
        self.skew_ms.store(skew, Ordering::Relaxed);
    }
}

fn utc(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// `2026-01-02T03:04:05.678Z`
pub fn iso(ms: i64) -> String {
    utc(ms).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// `2026-01-02T03:04:05.000+0000`; Salesforce keeps whole seconds.
pub fn iso_offset(ms: i64) -> String {
    utc(ms).format("%Y-%m-%dT%H:%M:%S.000+0000").to_string()
}

/// `Fri, 02 Jan 2026 03:04:05 GMT`
pub fn http_date(ms: i64) -> String {
    utc(ms).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub fn parse_http_date(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc2822(text.trim())
        .ok()
        .map(|time| time.timestamp_millis())
}

/// ISO 8601 with `Z`, `+00:00` or `+0000`; without an offset only when it is a bare date-time.
pub fn parse_time(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"))
        .map(|time| time.timestamp_millis())
        .ok()
        .or_else(|| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                .ok()
                .map(|time| time.and_utc().timestamp_millis())
        })
}

/// Days since 1970 of `2026-01-02`.
pub fn parse_date(text: &str) -> Option<i32> {
    // Exactly four digits of year: chrono alone would take `26-1-2`.
    let shape = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    let date = shape
        .then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())
        .flatten()?;
    Some(date.signed_duration_since(NaiveDate::default()).num_days() as i32)
}

pub fn date(days: i32) -> String {
    iso(i64::from(days) * DAY_MS)[..10].to_owned()
}

pub const DAY_MS: i64 = 86_400_000;
