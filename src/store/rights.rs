//! The role that pg_crm is in a database: `crm_engine`, which may not log in, is no superuser, and
//! owns all that the extension made.
//!
//! The worker's session is the engine's from its first moment on, and stays so: each of its
//! transactions runs under SECURITY_RESTRICTED_OPERATION, in which Postgres refuses SET SESSION
//! AUTHORIZATION and SET ROLE. Backends become the engine for single statements ([`as_engine`]).

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::server_version;
use crate::store::settings_scope::SettingsScope;

const ENGINE: &CStr = c"crm_engine";

/// The engine's role; raises where there is none.
pub fn role() -> pg_sys::Oid {
    // SAFETY: a syscache look-up inside a transaction.
    let role = unsafe { pg_sys::get_role_oid(ENGINE.as_ptr(), true) };
    if role == pg_sys::InvalidOid {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "role \"crm_engine\" does not exist",
            "pg_crm",
        )
        .set_detail(
            "It owns the objects of the extension pg_crm, and everything that pg_crm does runs as this role.",
        )
        .set_hint("CREATE EXTENSION pg_crm creates it. If it was renamed, rename it back.")
        .report(PgLogLevel::ERROR);
    }
    role
}

/// Whether what runs now has the engine's rights, or more.
pub fn is_in_force() -> bool {
    // SAFETY: reads of this process, and syscache look-ups inside a transaction.
    unsafe {
        pg_sys::superuser() || pg_sys::GetUserId() == pg_sys::get_role_oid(ENGINE.as_ptr(), true)
    }
}

/// Runs `work` as the engine, pinned.
pub fn as_engine<T>(work: impl FnOnce() -> T) -> T {
    as_role(role(), 0, || pinned(work))
}

/// Runs `work`, of which nothing may come from anybody, as the superuser that made the cluster.
pub fn as_superuser<T>(work: impl FnOnce() -> T) -> T {
    let superuser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
    as_role(superuser, pg_sys::SECURITY_RESTRICTED_OPERATION, work)
}

fn as_role<T>(role: pg_sys::Oid, restriction: u32, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: as foreign keys' triggers do; an error leaves it to the (sub)transaction's end to put
    // the user back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restriction = restriction | pg_sys::SECURITY_LOCAL_USERID_CHANGE;
        pg_sys::SetUserIdAndSecContext(role, context | restriction as i32);
    }
    let result = work();
    // SAFETY: see above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Makes the session of a worker that has just connected the engine's. `false`: the database does
/// not have the extension.
pub fn take_session() -> bool {
    // SAFETY: called outside of any transaction; look-ups in the catalog alone, in a transaction
    // that ends here. An error ends the process.
    let role = unsafe {
        pg_sys::StartTransactionCommand();
        let role = extension_exists().then(role);
        if role.is_some_and(|role| pg_sys::superuser_arg(role)) {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_INVALID_ROLE_SPECIFICATION,
                "the pg_crm worker cannot run: role \"crm_engine\" is a superuser",
                "pg_crm",
            )
            .set_hint("ALTER ROLE crm_engine NOSUPERUSER; see crm.check().")
            .report(PgLogLevel::ERROR);
        }
        pg_sys::CommitTransactionCommand();
        role
    };
    let Some(role) = role else { return false };
    // SAFETY: outside of any transaction, in a process that Postgres authenticated as a superuser.
    // The database may have set a role, which would hide the session's user; what pg_stat_activity
    // shows was taken before.
    unsafe {
        pg_sys::SetSessionAuthorization(role, false);
        pg_sys::SetConfigOption(
            c"role".as_ptr(),
            c"none".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
        server_version::report_session_user();
    }
    true
}

/// Begins what [`leave`] ends: the restriction of a worker's transaction, which an abort lifts too.
pub fn enter() {
    restrict(pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
}

pub fn leave() {
    restrict(0);
}

fn restrict(context: i32) {
    // SAFETY: the session's own user; Postgres itself asks for an empty context outside of
    // transactions.
    unsafe { pg_sys::SetUserIdAndSecContext(pg_sys::GetSessionUserId(), context) }
}

thread_local! {
    /// Code of others ran since this was last cleared.
    static OTHERS_RAN: Cell<bool> = const { Cell::new(false) };
}

/// Whether code of others ran since this was last asked.
pub fn code_of_others_ran() -> bool {
    OTHERS_RAN.take()
}

/// Runs `work` as a table's owner with restricted rights, as PostgreSQL 16's
/// SwitchToUntrustedUser() does: code that the owner attached to the table (transforms, views,
/// triggers) must not run with the caller's rights. Whatever it sets is undone at the end, on every
/// path, and names are resolved in pg_catalog alone.
pub fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::Oid, i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: puts back what GetUserIdAndSecContext gave.
            unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) }
        }
    }
    OTHERS_RAN.set(true);
    let mut restore = Restore(pg_sys::InvalidOid, 0);
    // SAFETY: an aborted transaction puts the user back too, so no path leaves the owner's identity
    // behind.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut restore.0, &mut restore.1);
        let context = restore.1
            | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
        pg_sys::SetUserIdAndSecContext(owner, context);
    }
    // Dropped first: settings are put back before the user is.
    let settings = SettingsScope::begin();
    settings.pin_search_path();
    let result = work();
    drop(settings);
    drop(restore);
    result
}

/// Runs `work` with a search_path that no caller decides. An error leaves it to the end of the
/// (sub)transaction to put it back, as Postgres itself does.
pub fn pinned<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: as for a function with a SET clause; what is begun here is ended below.
    let level = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        level
    };
    let result = work();
    // SAFETY: see above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}

/// Whether the extension is here and the schema can be used.
pub fn extension_exists() -> bool {
    // SAFETY: a syscache look-up inside a transaction.
    unsafe { pg_sys::get_extension_oid(c"pg_crm".as_ptr(), true) != pg_sys::InvalidOid }
}
