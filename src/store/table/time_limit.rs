//! A limit on how long a table's own code may run, by means of PostgreSQL's `statement_timeout`
//! timer.
//!
//! Code that catches the cancel is cancelled again before its next statement: PL/pgSQL checks for
//! interrupts before each statement, outside of the block that would catch them, so each cancel
//! ends at least one level of nesting. Where the caller's own statement_timeout or cancel is the
//! limit, the same holds for that.

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::store::error::StoreError;

// utils/timeout.h, which the bindings leave out.
unsafe extern "C-unwind" {
    fn enable_timeout_every(id: c_int, first: pg_sys::TimestampTz, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn get_timeout_indicator(id: c_int, reset_indicator: bool) -> bool;
}
/// As PostgreSQL 15 to 18 count.
const STATEMENT_TIMEOUT: c_int = 3;
/// How soon the cancel is repeated, in case something swallowed it without an error (a wait that
/// was ended and begun again).
const AGAIN_MS: c_int = 10;

/// While it lives, whatever runs is cancelled once the time since the last `restart` is up. The
/// worker has no statement_timeout of its own, so the timer is free. In a caller's backend it is
/// not: pass `None` there, and the caller's own limits are the ones that cannot be caught.
pub struct TimeLimit(Box<Watch>);

/// PostgreSQL keeps its address on the stack of error contexts while the limit lives.
struct Watch {
    context: pg_sys::ErrorContextCallback,
    time: Option<Duration>,
    since: Instant,
}

impl TimeLimit {
    pub fn new(time: Option<Duration>) -> TimeLimit {
        let mut watch = Box::new(Watch {
            context: pg_sys::ErrorContextCallback::default(),
            time,
            since: Instant::now(),
        });
        watch.context.callback = Some(cancel_again);
        watch.context.arg = (&raw mut *watch).cast();
        // SAFETY: main thread; `drop` takes it off before the box goes, and every catch of an error
        // in between puts the stack back to where it was, which is at this or above it.
        unsafe {
            watch.context.previous = pg_sys::error_context_stack;
            pg_sys::error_context_stack = &raw mut watch.context;
        }
        let mut limit = TimeLimit(watch);
        limit.restart();
        limit
    }

    pub fn restart(&mut self) {
        self.0.stop();
        self.0.since = Instant::now();
        let Some(time) = self.0.time else { return };
        let time = time.as_micros().clamp(1_000, i64::MAX as u128 / 4) as i64;
        // SAFETY: the timer was registered when this process connected to its database, and belongs
        // to the main thread.
        unsafe {
            let first = pg_sys::GetCurrentTimestamp() + time;
            enable_timeout_every(STATEMENT_TIMEOUT, first, AGAIN_MS);
        }
    }

    /// Whether the error is due to this limit, and not to a user's cancel.
    pub fn caused(&self, error: &StoreError) -> bool {
        matches!(error, StoreError::RowTimeout(_))
            || error.code() == Some(PgSqlErrorCode::ERRCODE_QUERY_CANCELED) && self.is_up()
    }

    pub fn is_up(&self) -> bool {
        self.0.is_up()
    }

    /// An error if the time is up: code that caught the cancel and then finished does not count as
    /// done.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.0.time {
            Some(time) if self.is_up() => Err(StoreError::RowTimeout(time)),
            _ => Ok(()),
        }
    }
}

impl Watch {
    fn is_up(&self) -> bool {
        self.time.is_some_and(|time| self.since.elapsed() >= time)
    }

    /// Stops the timer. A cancel that has not been processed yet must not hit what runs next.
    fn stop(&self) {
        if self.time.is_none() {
            return;
        }
        // SAFETY: as in `restart`. The signal of a timer that ran out is delivered by now.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, true);
            if get_timeout_indicator(STATEMENT_TIMEOUT, true) || self.is_up() {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}

/// An error context callback: called for every error while it is being reported, before anything
/// can catch it.
///
/// A timer alone does not end code that catches each cancel at once: where the next one hits is
/// chance, and usually it is inside the block that catches it.
#[pg_guard]
unsafe extern "C-unwind" fn cancel_again(watch: *mut c_void) {
    // SAFETY: `TimeLimit` put it there, and it lives as long as this is on the stack of error
    // contexts.
    unsafe {
        let watch = &*watch.cast::<Watch>();
        let is_cancel = || pg_sys::geterrcode() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED as i32;
        if watch.is_up() || watch.time.is_none() && is_cancel() {
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
        }
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        self.0.stop();
        // SAFETY: main thread. What was put on the stack after it is off again.
        unsafe { pg_sys::error_context_stack = self.0.context.previous }
    }
}
