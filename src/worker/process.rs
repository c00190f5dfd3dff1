//! What a background process of pg_crm needs of Postgres: signals, the configuration, its activity,
//! its latch.

use std::os::fd::RawFd;
use std::time::Duration;

use pgrx::prelude::*;

use crate::server_version;
use crate::store::error::StoreError;

#[pg_guard]
unsafe extern "C-unwind" fn on_sighup(signal: i32) {
    // SAFETY: Postgres's own handler: a flag and a latch.
    unsafe { pg_sys::SignalHandlerForConfigReload(signal) }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_sigterm(signal: i32) {
    // SAFETY: Postgres's own handler of backends: flags and a latch; the process ends at the next
    // safe point.
    unsafe { pg_sys::die(signal) }
}

/// Sets up signal handling as a backend has it: SIGTERM ends even a long query, at the next safe
/// point.
pub fn attach_signals() {
    // SAFETY: called first thing in a new process; the handlers are Postgres's own and
    // async-signal-safe.
    unsafe {
        server_version::pqsignal(libc::SIGHUP, Some(on_sighup));
        server_version::pqsignal(libc::SIGTERM, Some(on_sigterm));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Reloads the configuration if SIGHUP requested it; whether it did.
pub fn reload_if_requested() -> bool {
    // SAFETY: the flag is set by our SIGHUP handler; the main thread alone reads the file.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            return true;
        }
        false
    }
}

/// Reports in pg_stat_activity what the process is doing.
pub fn report(activity: &str) {
    let text = std::ffi::CString::new(activity).unwrap_or_default();
    let state = if activity.is_empty() {
        pg_sys::BackendState::STATE_IDLE
    } else {
        pg_sys::BackendState::STATE_RUNNING
    };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) }
}

/// Logs what an error kept the worker from doing: as a WARNING, unless it passes by itself.
pub fn complain(error: &StoreError, message: &str) {
    if error.is_transient() {
        log!("{message}")
    } else {
        warning!("{message}")
    }
}

/// Waits for the latch or a timeout.
pub fn wait_latch(time: Option<Duration>) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    if time.is_some() {
        events |= pg_sys::WL_TIMEOUT;
    }
    // SAFETY: waits on this process's own latch.
    unsafe {
        let ms = time.map_or(-1, |t| t.as_millis().clamp(1, 86_400_000) as i64);
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            ms,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// Waits for the latch, for a descriptor that becomes readable, or for a timeout; whether it was
/// the latch.
pub fn wait_latch_or_readable(fd: RawFd, time: Duration) -> bool {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_SOCKET_READABLE
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: waits on this process's own latch and on a descriptor that the caller keeps open.
    unsafe {
        let ms = time.as_millis().clamp(0, 86_400_000) as i64;
        let came = pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            fd,
            ms,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        came as u32 & pg_sys::WL_LATCH_SET != 0
    }
}
