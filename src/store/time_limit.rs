//! A limit on how long code of others may run, kept by PostgreSQL's own timer of `statement_timeout`.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use super::StoreError;

// utils/timeout.h, which the bindings leave out.
unsafe extern "C-unwind" {
    fn enable_timeout_every(id: c_int, first: pg_sys::TimestampTz, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn get_timeout_indicator(id: c_int, reset_indicator: bool) -> bool;
}
/// Of PostgreSQL 15.
const STATEMENT_TIMEOUT: c_int = 3;
/// Once the time is up, code that catches the cancel is cancelled again: sooner or later where nothing of it catches any.
const AGAIN_MS: c_int = 1;

/// While it lives, what runs is cancelled once the time since the last `restart` is up. The worker has no
/// statement_timeout of its own, so the timer is free; a caller's backend has, and takes none.
pub struct TimeLimit {
    time: Option<Duration>,
    since: Instant,
}

impl TimeLimit {
    pub fn new(time: Option<Duration>) -> TimeLimit {
        let since = Instant::now();
        let mut limit = TimeLimit { time, since };
        limit.restart();
        limit
    }

    pub fn restart(&mut self) {
        self.since = Instant::now();
        let Some(time) = self.time else { return };
        let time = time.as_micros().clamp(1_000, i64::MAX as u128 / 4) as i64;
        // SAFETY: the timer was registered when this process connected to its database, and belongs to the main thread.
        unsafe {
            let first = pg_sys::GetCurrentTimestamp() + time;
            enable_timeout_every(STATEMENT_TIMEOUT, first, AGAIN_MS);
        }
    }

    /// Whether that error came of it, and not of somebody's cancel.
    pub fn caused(&self, error: &StoreError) -> bool {
        error.code() == Some(PgSqlErrorCode::ERRCODE_QUERY_CANCELED) && self.is_up()
    }

    pub fn is_up(&self) -> bool {
        self.time.is_some_and(|time| self.since.elapsed() >= time)
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        if self.time.is_none() {
            return;
        }
        // SAFETY: as above. The signal of a timer that ran out is delivered by now: a cancel that came too late to be
        // noticed must not hit what runs next.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, true);
            if get_timeout_indicator(STATEMENT_TIMEOUT, true) {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}
