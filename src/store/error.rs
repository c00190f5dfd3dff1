//! Why something in the database failed, and what that says about the record that was being worked
//! on.

use crm_domain::fuse::Counts;
use crm_domain::{ErrorClass, Failure};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;

use crate::store::statement::names;

/// What to do about code of a table that names something without its schema.
const OWN_PATH: &str = "pg_crm runs the functions of a table with search_path pg_catalog, pg_temp: \
     if one of them relies on another, ALTER FUNCTION ... SET search_path, or name the schema";

/// Why a transaction failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{message} (SQLSTATE {code:?})")]
    Postgres {
        code: PgSqlErrorCode,
        message: String,
    },
    /// Raised before any code of the table's owner could run: the table is locked, or what the
    /// statement names is gone.
    #[error("{message} (SQLSTATE {code:?})")]
    BeforeOwnersCode {
        code: PgSqlErrorCode,
        message: String,
    },
    #[error("{0}")]
    Spi(#[from] pgrx::spi::Error),
    /// A statement of ours did not return what it always returns.
    #[error("internal error of pg_crm: {0}")]
    Unexpected(String),
    /// A row's triggers, policies, defaults, casts or transforms.
    #[error("the table's own code took longer than pg_crm.transform_timeout ({0:?}) for this row")]
    RowTimeout(std::time::Duration),
    #[error("postponed: the table's own code is slow, and other work waits")]
    Postponed,
    /// More rows would be deleted, unlinked or cleared than may be without a person.
    #[error("held until crm.approve()")]
    Held { counts: Counts, linked: i64 },
}

/// Whose fault a failure is, and so what becomes of the records that were being worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody's: the mapping that was used is out of date, since what it names is gone or was
    /// replaced. It is read again, and no attempt is charged.
    StaleMapping,
    /// Nobody's: no row was reached, since the table is locked or there was no time left. The
    /// records come again, and no attempt is charged.
    NotReached,
    /// The row's, but it may pass: the server has no room, shuts down or cannot read its disk, or
    /// something is locked. Code of the table can raise any SQLSTATE, so the record is retried
    /// pg_crm.max_attempts times and no more.
    MayPass,
    /// The row's: the same statement fails again as long as the row, or the value that it is given,
    /// is the same.
    Row,
}

impl StoreError {
    /// A statement left a row that exists as it was, without an error. `what`: "inserted",
    /// "changed", "deleted".
    pub fn prevented(what: &str) -> StoreError {
        StoreError::Postgres {
            code: PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            message: format!(
                "a trigger, a rule or a policy of the table prevented the row from being {what}"
            ),
        }
    }

    pub fn unexpected(what: String) -> StoreError {
        StoreError::Unexpected(what)
    }

    pub fn fault(&self) -> Fault {
        match self {
            StoreError::BeforeOwnersCode { .. } if self.is_undefined() => Fault::StaleMapping,
            StoreError::BeforeOwnersCode { .. }
            | StoreError::Postponed
            | StoreError::Held { .. } => Fault::NotReached,
            _ if self.may_pass() => Fault::MayPass,
            _ => Fault::Row,
        }
    }

    /// Whether it is no row's fault for certain, or may pass: halving a batch finds nobody to
    /// blame.
    pub fn blames_no_row(&self) -> bool {
        self.fault() != Fault::Row
    }

    /// Whether it is certain that no row was touched.
    pub fn reached_no_row(&self) -> bool {
        matches!(self.fault(), Fault::StaleMapping | Fault::NotReached)
    }

    /// The failure of the row that it was raised for. `code` unless the row ran out of time.
    pub fn failure(&self, code: &str) -> Failure {
        let code = match self {
            StoreError::RowTimeout(_) => "transform_timeout",
            _ => code,
        };
        let class = match self.fault() {
            Fault::Row => ErrorClass::Mapping,
            Fault::StaleMapping | Fault::NotReached | Fault::MayPass => ErrorClass::Transient,
        };
        let message = match self {
            // An application's own session may have found it.
            StoreError::Postgres { message, .. } if self.is_undefined() => {
                format!("{message} ({OWN_PATH})")
            }
            _ => self.message(),
        };
        Failure::record(class, code, message)
    }

    pub fn code(&self) -> Option<PgSqlErrorCode> {
        match self {
            StoreError::Postgres { code, .. } | StoreError::BeforeOwnersCode { code, .. } => {
                Some(*code)
            }
            StoreError::Spi(_)
            | StoreError::Unexpected(_)
            | StoreError::RowTimeout(_)
            | StoreError::Postponed
            | StoreError::Held { .. } => None,
        }
    }

    /// The message without the SQLSTATE, for people.
    pub fn message(&self) -> String {
        match self {
            StoreError::Postgres { message, .. } | StoreError::BeforeOwnersCode { message, .. } => {
                message.clone()
            }
            _ => self.to_string(),
        }
    }

    /// The class of the SQLSTATE: its first two characters.
    fn class(&self) -> Option<[u8; 2]> {
        let code = self.code()? as i32;
        let character = |n: i32| b'0' + (code >> (6 * n) & 0x3f) as u8;
        Some([character(0), character(1)])
    }

    /// A value is refused, or what it would break: the same statement fails again while the value
    /// is the same.
    pub fn is_about_values(&self) -> bool {
        // Data exceptions, integrity constraints, program limits.
        matches!(self.class().as_ref(), Some(b"22" | b"23" | b"54"))
    }

    /// Another row's values are in the way, or missing: those of a record that comes in with this
    /// one, perhaps.
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

    /// Somebody cancelled the statement, or the server ends the session.
    pub fn ends_the_statement(&self) -> bool {
        self.class().as_ref() == Some(b"57")
    }

    /// The SQLSTATE says that it may pass.
    fn may_pass(&self) -> bool {
        self.is_transient()
            || self.is_undefined()
            || matches!(
                self.class().as_ref(),
                Some(b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58")
            )
    }

    /// A lock that another session holds, a cancelled statement, a deadlock: worth retrying soon.
    pub fn is_transient(&self) -> bool {
        use PgSqlErrorCode::*;
        if matches!(self, StoreError::Postponed) {
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
        match names::failed_before_owners_code() {
            true => StoreError::BeforeOwnersCode { code, message },
            false => StoreError::Postgres { code, message },
        }
    }
}
