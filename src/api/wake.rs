//! Waking the worker, and hearing from it.

use std::cell::Cell;
use std::time::Duration;

use pgrx::prelude::*;
use pgrx::{
    PgSqlErrorCode, PgSubXactCallbackEvent, PgXactCallbackEvent, register_subxact_callback,
    register_xact_callback,
};

use super::raise;
use crate::shared::{self, State};
use crate::store::rights::extension_exists;

/// What a commit does to the worker, from least to most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    /// Its changes wait for the map's next round: nothing to wake for.
    Not,
    Soon,
    /// Edits that go to the CRM at once.
    Urgently,
}

thread_local! {
    /// What this transaction does when it commits; `None`: it changed nothing of ours.
    static AT_COMMIT: Cell<Option<Wake>> = const { Cell::new(None) };
    /// What the transaction that was just committed does.
    static DONE: Cell<Option<Wake>> = const { Cell::new(None) };
    static IS_TOLD_OF_ENDS: Cell<bool> = const { Cell::new(false) };
    /// Intents of this transaction that the worker keeps until it ends.
    static INTENTS: Cell<u32> = const { Cell::new(0) };
}

/// Whether this transaction holds edits that nobody else sees yet.
pub fn has_uncommitted_changes() -> bool {
    AT_COMMIT.get().is_some()
}

fn at_commit(wake: Wake) {
    if !shared::available() {
        return;
    }
    let before = AT_COMMIT.get();
    AT_COMMIT.set(before.max(Some(wake)));
    if before.is_none() {
        tell_of_ends();
        register_xact_callback(PgXactCallbackEvent::Commit, || {
            DONE.set(AT_COMMIT.take());
        });
        register_xact_callback(PgXactCallbackEvent::Abort, || AT_COMMIT.set(None));
        // `after_prepared` makes up for it.
        register_xact_callback(PgXactCallbackEvent::Prepare, || AT_COMMIT.set(None));
    }
}

/// Has [`has_ended`] called at the end of each transaction of this backend.
fn tell_of_ends() {
    if !IS_TOLD_OF_ENDS.replace(true) {
        // SAFETY: registers, once, a function that lives as long as the process.
        unsafe { pg_sys::RegisterResourceReleaseCallback(Some(has_ended), std::ptr::null_mut()) }
    }
}

/// The worker is woken when the transaction holds no lock any more and what it changed in the
/// catalogs has been told. Postgres calls those who wait for a commit before that, so that a quick
/// worker would see the change and judge it by what it knew of roles and functions before.
#[pg_guard]
unsafe extern "C-unwind" fn has_ended(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    is_top_level: bool,
    _argument: *mut std::ffi::c_void,
) {
    if !is_top_level || phase != pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS {
        return;
    }
    match DONE.take() {
        Some(Wake::Soon) => shared::wake_worker(false),
        Some(Wake::Urgently) => shared::wake_worker(true),
        Some(Wake::Not) | None => {}
    }
}

/// Wakes the worker after a prepared transaction has ended, or has one started: the transaction may
/// have been one that made the extension. Databases without it have nobody to wake.
pub fn after_prepared() {
    // SAFETY: a plain read of this backend's own database.
    let slot = shared::slot(unsafe { pg_sys::MyDatabaseId });
    if slot.is_some_and(|slot| slot.pid() != 0) {
        shared::wake_worker(true);
        shared::wake_worker(false);
    } else if extension_exists() {
        slot.inspect(|slot| slot.ask());
        shared::wake_launcher();
    }
}

/// Wakes the worker at commit: something waits then.
pub fn for_what_waits() {
    at_commit(Wake::Urgently);
}

/// Wakes the worker if the intent of a call is rolled back: by the end of this transaction, or
/// by its going back to a savepoint.
pub fn if_undone() {
    // SAFETY: a plain read of this transaction's own state.
    if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
        // Its snapshot is too old to see the intent, which so outlives the commit.
        at_commit(Wake::Urgently);
    }
    let open = INTENTS.get();
    INTENTS.set(open + 1);
    if open > 0 {
        return;
    }
    register_xact_callback(PgXactCallbackEvent::Abort, || {
        if INTENTS.take() > 0 {
            shared::wake_worker(true);
        }
    });
    register_xact_callback(PgXactCallbackEvent::Commit, || INTENTS.set(0));
    register_xact_callback(PgXactCallbackEvent::Prepare, || INTENTS.set(0));
    register_subxact_callback(PgSubXactCallbackEvent::AbortSub, |_, _| {
        if INTENTS.get() > 0 {
            shared::wake_worker(true);
        }
    });
}

/// The worker itself closed the intent of the last call.
pub fn intent_is_closed() {
    INTENTS.set(INTENTS.get().saturating_sub(1));
}

/// Says that mapped cells changed. The worker is woken at commit if they go to the CRM at once.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
pub fn note_change(urgent: bool) {
    at_commit(if urgent { Wake::Urgently } else { Wake::Not });
}

/// Wakes the worker when the transaction commits; cheap when called again.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
pub fn notify_worker(urgent: bool) {
    at_commit(if urgent { Wake::Urgently } else { Wake::Soon });
}

/// Tells every session, once this transaction commits, that what it knows of a table is out of
/// date.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: as DDL on the table does; the message is part of the transaction.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) }
}

/// Asks the launcher for a worker in this database, at commit.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn start_worker() {
    if !shared::available() {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_crm must be loaded when the server starts".to_owned(),
            Some(
                "Its background workers and their shared memory are set up by the postmaster."
                    .to_owned(),
            ),
            "Add pg_crm to shared_preload_libraries in postgresql.conf and restart the server.",
        )
    }
    // SAFETY: a plain read of this backend's own database.
    let database = unsafe { pg_sys::MyDatabaseId };
    register_xact_callback(PgXactCallbackEvent::Commit, move || {
        if let Some(slot) = shared::slot(database) {
            slot.ask();
        }
        shared::wake_launcher();
    });
}

/// What the worker of this database is doing.
#[pg_extern(volatile, parallel_safe, schema = "crm")]
pub fn worker_state() -> String {
    if !shared::available() {
        return "not preloaded".to_owned();
    }
    // SAFETY: a plain read of this backend's own database.
    let Some(slot) = shared::slot(unsafe { pg_sys::MyDatabaseId }) else {
        return "stopped".to_owned();
    };
    match (slot.state(), slot.trouble()) {
        (State::Running, Some(code)) => format!("failing ({code})"),
        (state, _) => state.name().to_owned(),
    }
}

/// A turn of the worker that takes longer is worth a look.
const LONG_TURN: Duration = Duration::from_secs(5);

/// See its comment below.
#[pg_extern(parallel_safe, schema = "crm_internal")]
fn worker_busy() -> Option<f64> {
    if !shared::available() {
        return None;
    }
    // SAFETY: a plain read of this backend's own database.
    let slot = shared::slot(unsafe { pg_sys::MyDatabaseId })?;
    let busy = slot.busy_for().filter(|busy| *busy > LONG_TURN)?;
    Some(busy.as_secs_f64().floor())
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.worker_busy() IS 'for how many seconds the worker has been at one turn of its work, if for more than five';
COMMENT ON FUNCTION crm_internal.note_change(bool) IS 'called by capture: wakes the worker at commit if the changes are to be sent at once';
COMMENT ON FUNCTION crm_internal.notify_worker(bool) IS 'wakes the worker when the transaction commits';
COMMENT ON FUNCTION crm_internal.invalidate(oid) IS 'invalidates what sessions have cached of a table, at commit';
COMMENT ON FUNCTION crm_internal.start_worker() IS 'starts the worker of this database; called by CREATE EXTENSION';
COMMENT ON FUNCTION crm.worker_state() IS 'state of the background worker: running, failing (with an SQLSTATE; see the server log), starting, waiting for a free worker slot, stopped, or not preloaded';
"#,
    name = "wake_comments",
    requires = [
        note_change,
        notify_worker,
        invalidate,
        start_worker,
        worker_state,
        worker_busy
    ]
);
