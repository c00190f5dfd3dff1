//! Why something in the database failed, and what that says about the record that was being worked on.

use crm_domain::{ErrorClass, Failure};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;

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
        match names::failed_before_owners_code() {
            true => StoreError::Before { code, message },
            false => StoreError::Postgres { code, message },
        }
    }
}
