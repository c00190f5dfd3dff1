//! Short transactions of the worker, aborted properly when anything in them raises an error.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use crm_domain::{ErrorClass, Failure};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use crate::store::settings_scope::SettingsScope;
use crate::store::statement::names;

/// Why a transaction came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{message} (SQLSTATE {code:?})")]
    Postgres {
        code: PgSqlErrorCode,
        message: String,
    },
    /// Raised before any code of the table's owner could run: the table is locked, or what the statement names is gone. No row
    /// is at fault, and the statement would have failed the same for any other.
    #[error("{message} (SQLSTATE {code:?})")]
    Before {
        code: PgSqlErrorCode,
        message: String,
    },
    #[error("{0}")]
    Spi(#[from] pgrx::spi::Error),
    /// A row's triggers, policies, defaults, casts or transforms.
    #[error("the table's own code took longer than pg_crm.transform_timeout ({0:?}) for this row")]
    TooLong(std::time::Duration),
    #[error("put off: the table's own code is slow, and others wait")]
    PutOff,
}

impl StoreError {
    /// A statement did without an error nothing with a row that is there. `what`: "inserted", "changed", "deleted".
    pub fn kept_from_being(what: &str) -> StoreError {
        StoreError::Postgres {
            code: PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            message: format!(
                "a trigger, a rule or a policy of the table kept the row from being {what}"
            ),
        }
    }

    pub fn code(&self) -> Option<PgSqlErrorCode> {
        match self {
            StoreError::Postgres { code, .. } | StoreError::Before { code, .. } => Some(*code),
            StoreError::Spi(_) | StoreError::TooLong(_) | StoreError::PutOff => None,
        }
    }

    /// The message without the SQLSTATE, for people.
    pub fn message(&self) -> String {
        match self {
            StoreError::Postgres { message, .. } | StoreError::Before { message, .. } => {
                message.clone()
            }
            StoreError::Spi(error) => error.to_string(),
            StoreError::TooLong(_) | StoreError::PutOff => self.to_string(),
        }
    }

    /// The two characters that say of what kind the error is.
    fn class(&self) -> Option<[u8; 2]> {
        let code = self.code()? as i32;
        let character = |n: i32| b'0' + (code >> (6 * n) & 0x3f) as u8;
        Some([character(0), character(1)])
    }

    /// A value is refused, or what it would break: the same statement fails again while the value is the same.
    pub fn is_about_values(&self) -> bool {
        // Data exceptions, integrity constraints, program limits.
        matches!(self.class().as_ref(), Some(b"22" | b"23" | b"54"))
    }

    /// Another row's values are in the way, or missing: those of a record that comes in with this one, perhaps.
    pub fn is_about_other_rows(&self) -> bool {
        use PgSqlErrorCode::*;
        matches!(
            self.code(),
            Some(
                ERRCODE_FOREIGN_KEY_VIOLATION
                    | ERRCODE_RESTRICT_VIOLATION
                    | ERRCODE_UNIQUE_VIOLATION
                    | ERRCODE_EXCLUSION_VIOLATION
            )
        )
    }

    /// Code of the table raised it, and it was not the caller's cancel.
    pub fn is_the_tables(&self) -> bool {
        matches!(self, StoreError::Postgres { code, .. } if *code != PgSqlErrorCode::ERRCODE_QUERY_CANCELED)
    }

    /// No record is at fault, as far as the error tells ([`StoreError::is_passing`]), or because no row had been touched yet.
    pub fn is_nobodys(&self) -> bool {
        matches!(self, StoreError::Before { .. }) || self.is_passing()
    }

    /// The mapping that was used is out of date: what it names is gone or has been replaced.
    pub fn is_outdated(&self) -> bool {
        matches!(self, StoreError::Before { .. }) && self.is_undefined()
    }

    /// It says nothing about the row or record that was being worked on, which is retried without a charged attempt.
    pub fn is_put_off(&self) -> bool {
        matches!(self, StoreError::PutOff | StoreError::Before { .. })
    }

    /// The failure of the row that it was raised for. `code` unless the row ran out of time.
    pub fn failure(&self, code: &str) -> Failure {
        let (class, code) = match self {
            StoreError::TooLong(_) => (ErrorClass::Mapping, "transform_timeout"),
            error if error.is_passing() => (ErrorClass::Transient, code),
            _ => (ErrorClass::Mapping, code),
        };
        Failure::record(class, code, self.message())
    }

    /// The SQLSTATE says that it may pass: the server has no room, shuts down or cannot read its disk, something is locked, or what
    /// the statement names is gone. A table's own code can raise any SQLSTATE, so a row whose error claims this is retried
    /// `pg_crm.max_attempts` times and no more.
    pub fn is_passing(&self) -> bool {
        self.is_transient()
            || self.is_undefined()
            || matches!(
                self.class().as_ref(),
                Some(b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58")
            )
    }

    /// A lock that somebody holds, a cancelled statement, a deadlock: worth trying again soon.
    pub fn is_transient(&self) -> bool {
        use PgSqlErrorCode::*;
        if matches!(self, StoreError::PutOff) {
            return true;
        }
        matches!(
            self.code(),
            Some(
                ERRCODE_LOCK_NOT_AVAILABLE
                    | ERRCODE_QUERY_CANCELED
                    | ERRCODE_T_R_DEADLOCK_DETECTED
                    | ERRCODE_T_R_SERIALIZATION_FAILURE
            )
        )
    }

    /// Something that the statement names does not exist (any more).
    pub fn is_undefined(&self) -> bool {
        use PgSqlErrorCode::*;
        matches!(
            self.code(),
            Some(
                ERRCODE_UNDEFINED_TABLE
                    | ERRCODE_UNDEFINED_COLUMN
                    | ERRCODE_UNDEFINED_FUNCTION
                    | ERRCODE_UNDEFINED_OBJECT
                    | ERRCODE_INVALID_SCHEMA_NAME
            )
        )
    }
}

impl From<CaughtError> for StoreError {
    fn from(error: CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        }) = error;
        let (code, message) = (report.sql_error_code(), report.message().to_owned());
        match names::failed_before() {
            true => StoreError::Before { code, message },
            false => StoreError::Postgres { code, message },
        }
    }
}

/// Runs `work` in a transaction of its own: committed when it returns `Ok`, aborted when it returns `Err` or raises.
///
/// Nobody waits for the disk: a commit that a power cut loses leaves what a cut right before it would have left, and whoever
/// commits durably on top of it makes it durable too.
pub fn transaction<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    run(work, false)
}

/// The same, on disk before it returns: for what must be known before something is done outside of the database.
pub fn durable_transaction<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    run(work, true)
}

fn run<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
    durably: bool,
) -> Result<T, StoreError> {
    // SAFETY: called by a worker outside any transaction; every path ends in commit or abort.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        crate::store::rights::enter();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let work = AssertUnwindSafe(work);
    let result = PgTryBuilder::new(AssertUnwindSafe(move || {
        if !durably {
            // SAFETY: as SET LOCAL does.
            unsafe {
                pg_sys::set_config_option(
                    c"synchronous_commit".as_ptr(),
                    c"off".as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_LOCAL,
                    true,
                    0,
                    false,
                );
            }
        }
        // What anybody sets within ends with it: no session of the worker begins with a setting of somebody else's.
        let settings = SettingsScope::begin();
        let value = Spi::connect_mut(|client| (work.0)(client))?;
        drop(settings);
        // SAFETY: the snapshot pushed above is the active one; a commit that fails raises and is caught here.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    }))
    .catch_others(|error| Err(StoreError::from(error)))
    .catch_rust_panic(|error| Err(StoreError::from(error)))
    .execute();
    // SAFETY: the transaction is open if and only if it was not committed.
    unsafe {
        if result.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        crate::store::rights::leave();
        if OTHERS_RAN.take() {
            // Advisory locks that belong to a session would be held by the worker for ever; it takes none itself.
            pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as u16, true);
        }
        pg_sys::pgstat_report_stat(false);
    }
    result
}

/// Has deferred constraints checked with each statement, until the transaction ends: PostgreSQL queues no deferred trigger
/// inside a security-restricted operation. Not for a caller's transaction, in which it would check what the caller put off.
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
    // SAFETY: as PL/pgSQL does for a block with EXCEPTION: memory context and resource owner are put back on both paths.
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
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Runs `work` in a subtransaction that is undone when it says `false`. An error undoes it too, and goes on as it is.
pub fn nested(work: impl FnOnce() -> bool) {
    // SAFETY: as PL/pgSQL does for a block with EXCEPTION: memory context and resource owner are put back on all paths.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let undo = move || {
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

thread_local! {
    /// Code of others ran since this was last cleared.
    static OTHERS_RAN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` as a table's owner with restricted rights, as PostgreSQL 16's SwitchToUntrustedUser() does: code that the
/// owner attached to the table (transforms, views, triggers) must not run with the caller's rights. Whatever it sets is
/// undone at the end, on every path, and names are resolved in pg_catalog alone.
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
    // SAFETY: an aborted transaction puts the user back too, so no path leaves the owner's identity behind.
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
