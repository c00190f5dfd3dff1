//! The background workers: a launcher for the server, one worker for each database that has the extension.
//!
//! A worker's main thread owns the database session and does nothing but short transactions; it waits on its latch and
//! on an eventfd. Threads of a small runtime talk to the CRMs ([`link`]) and to backends ([`socket`]); they never touch
//! Postgres and hand everything to the main thread as an [`main_loop::event::Event`].

mod bisect;
mod calls;
mod connections;
mod ingest;
pub mod launcher;
pub mod link;
mod main_loop;
mod notification;
mod recapture;
mod reconciler;
mod retry_policy;
mod schedule;
mod sender;
mod session;
pub mod socket;
mod step_backoff;
mod table_follower;
mod tasks;
mod waiters;
mod webhooks;
mod write_back;

use std::time::Duration;

use pgrx::prelude::*;

use crate::shared;

#[pg_guard]
unsafe extern "C-unwind" fn on_sighup(signal: i32) {
    // SAFETY: Postgres's own handler: a flag and a latch.
    unsafe { pg_sys::SignalHandlerForConfigReload(signal) }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_sigterm(signal: i32) {
    // SAFETY: Postgres's own handler of backends: flags and a latch; the process ends at the next safe point.
    unsafe { pg_sys::die(signal) }
}

/// Sets up signal handling as a backend has it: SIGTERM ends even a long query, at the next safe point.
fn attach_signals() {
    // SAFETY: called first thing in a new process; the handlers are Postgres's own and async-signal-safe.
    unsafe {
        pg_sys::pqsignal(libc::SIGHUP, Some(on_sighup));
        pg_sys::pqsignal(libc::SIGTERM, Some(on_sigterm));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Reloads the configuration if SIGHUP asked for it; whether it did.
fn reload_if_asked() -> bool {
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

/// Says in pg_stat_activity what the process is doing.
fn report(activity: &str) {
    let text = std::ffi::CString::new(activity).unwrap_or_default();
    let state = if activity.is_empty() {
        pg_sys::BackendState::STATE_IDLE
    } else {
        pg_sys::BackendState::STATE_RUNNING
    };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) }
}

/// Entry of the worker of one database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_crm_worker_main(database: pg_sys::Datum) {
    let database = pg_sys::Oid::from(database.value() as u32);
    attach_signals();
    // SAFETY: registers a callback that touches atomics alone, for every way out of the process.
    unsafe {
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(database.to_u32() as usize))
    };
    let Some(slot) = shared::slot(database) else {
        return;
    };
    if slot.is_held() {
        return;
    }
    // SAFETY: connects this process to the database; FATAL if it is gone, which the launcher notices.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    if !slot.enter(std::process::id() as i32) {
        log!("pg_crm has a worker in this database already");
        return;
    }
    main_loop::run(slot, database);
}

#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, database: pg_sys::Datum) {
    if let Some(slot) = shared::slot(pg_sys::Oid::from(database.value() as u32)) {
        // One that never entered leaves nothing behind.
        if slot.pid() != 0 && slot.pid() != std::process::id() as i32 {
            return;
        }
        slot.leave();
        let _ = std::fs::remove_file(socket::path(slot.database()));
    }
}

/// Waits for the latch or a timeout.
fn wait_latch(time: Option<Duration>) {
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
