//! Short transactions of the worker, aborted properly when anything in them raises an error.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, Location};

use pgrx::PgTryBuilder;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::settings_scope::SettingsScope;
use crate::store::{StoreError, rights};
use crate::{counters, failpoint};

/// Runs `work` in a transaction of its own: committed when it returns `Ok`, aborted when it returns
/// `Err` or raises.
///
/// It does not wait for the disk: a commit that is lost in a crash leaves the state of a crash
/// right before it, and the next durable commit makes it durable too.
#[track_caller]
pub fn transaction<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    run(work, false, Location::caller())
}

/// The same, on disk before it returns: for what must be known before something is done outside of
/// the database.
#[track_caller]
pub fn durable_transaction<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    run(work, true, Location::caller())
}

fn run<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
    durably: bool,
    place: &'static Location<'static>,
) -> Result<T, StoreError> {
    // SAFETY: called by a worker outside any transaction; every path ends in commit or abort.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        rights::enter();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let work = AssertUnwindSafe(work);
    let result = PgTryBuilder::new(AssertUnwindSafe(move || {
        if !durably {
            set_local(c"synchronous_commit", c"off");
        }
        // Settings made within end with it: no other role's setting outlives its code.
        let settings = SettingsScope::begin();
        let value = Spi::connect_mut(|client| (work.0)(client))?;
        drop(settings);
        failpoint::reach_commit(place);
        // SAFETY: the snapshot pushed above is the active one; a commit that fails raises and is
        // caught here.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    }))
    .catch_others(|error| Err(StoreError::from(error)))
    .catch_rust_panic(|error| Err(StoreError::from(error)))
    .execute();
    match result {
        Ok(_) => counters::commit(),
        Err(_) => counters::undo(0),
    }
    // SAFETY: the transaction is open if and only if it was not committed.
    unsafe {
        if result.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        rights::leave();
        if rights::code_of_others_ran() {
            // Advisory locks that belong to a session would be held by the worker for ever; it
            // takes none itself.
            pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as u16, true);
        }
        // Inside a test's own transaction statistics are still in use.
        if !pg_sys::IsTransactionBlock() {
            pg_sys::pgstat_report_stat(false);
        }
    }
    result
}

/// Bounds how long the rest of the transaction waits for a lock, in place of the worker's own
/// `lock_timeout`.
pub fn set_lock_timeout(timeout: &CStr) {
    set_local(c"lock_timeout", timeout);
}

fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: as SET LOCAL does, inside a transaction; both texts are only read.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Has deferred constraints checked with each statement, until the transaction ends: PostgreSQL
/// queues no deferred trigger inside a security-restricted operation. Not for a caller's
/// transaction, in which it would check what the caller put off.
pub fn check_constraints_at_once() {
    let mut all = pg_sys::ConstraintsSetStmt {
        type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
        constraints: std::ptr::null_mut(),
        deferred: false,
    };
    // SAFETY: SET CONSTRAINTS ALL IMMEDIATE, inside a transaction; the statement is only read.
    unsafe { pg_sys::AfterTriggerSetState(&mut all) }
}

/// Runs `work` in a subtransaction, so that an error in it undoes it alone.
pub fn subtransaction<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let counted = counters::mark();
    // SAFETY: as PL/pgSQL does for a block with EXCEPTION: memory context and resource owner are
    // put back on both paths.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let work = AssertUnwindSafe(work);
        let result = PgTryBuilder::new(AssertUnwindSafe(move || (work.0)()))
            .catch_others(|error| Err(StoreError::from(error)))
            .catch_rust_panic(|error| Err(StoreError::from(error)))
            .execute();
        if result.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            counters::undo(counted);
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Runs `work` in a subtransaction that is undone when it says `false`. An error undoes it too, and
/// goes on as it is.
pub fn nested(work: impl FnOnce() -> bool) {
    let counted = counters::mark();
    // SAFETY: as PL/pgSQL does for a block with EXCEPTION: memory context and resource owner are
    // put back on all paths.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let undo = move || {
            counters::undo(counted);
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let work = AssertUnwindSafe(work);
        let keep = PgTryBuilder::new(AssertUnwindSafe(move || (work.0)()))
            .catch_others(|error| {
                undo();
                error.rethrow()
            })
            .catch_rust_panic(|error| {
                undo();
                error.rethrow()
            })
            .execute();
        if keep {
            pg_sys::ReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        } else {
            undo();
        }
    }
}
