//! The functions that SQL calls into Rust, in schemas `crm` and `crm_internal`. What they need from
//! Postgres they get as arguments; what they decide, the domain and the providers decide.

mod ask;
mod bound;
mod caller;
mod cells;
mod check;
mod compare;
mod compatibility;
mod condition;
mod counters;
mod ddl;
mod document;
mod filter;
mod fuse;
mod home;
mod keys;
mod natural_key;
mod plan;
mod records;
mod rows;
mod triggers;
mod types;
mod values;
pub mod wake;
mod webhook;
mod write;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::store::StoreError;

/// Raises an error as Postgres's own do: what, why, and what to do about it.
pub fn raise(code: PgSqlErrorCode, message: String, detail: Option<String>, hint: &str) -> ! {
    let mut report = ErrorReport::new(code, message, "pg_crm");
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an error was raised")
}

/// The value, or the error as Postgres's own do it.
pub fn or_raise<T>(result: Result<T, StoreError>) -> T {
    or_raise_with(result, "")
}

/// The same, with a HINT.
pub fn or_raise_with<T>(result: Result<T, StoreError>, hint: &str) -> T {
    result.unwrap_or_else(|error| {
        let code = error
            .code()
            .unwrap_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR);
        raise(code, error.message(), None, hint)
    })
}

/// The schema that the functions name; `sql/schemas.sql` has made it by then.
#[pgrx::pg_schema]
mod crm {}

/// The schema of the functions that pg_crm alone calls.
#[pgrx::pg_schema]
mod crm_internal {}
