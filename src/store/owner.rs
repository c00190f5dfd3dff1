//! Whose rights code of a mapped table has: its owner's, as the catalog says it when that code runs.
//!
//! What is known of a map may be as old as a request to a CRM takes. Meanwhile its table may have become somebody else's, or another
//! table or transform may go by its name; neither ever runs with the rights of who owned the table before.

use std::ffi::CString;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::as_owner;
use super::config::Map;

/// [`as_owner`] of the map's table. Raises undefined_table or undefined_function where its names mean something else by now, or a
/// transform belongs to somebody who may not act as the owner. What they mean is held until the transaction ends.
pub fn as_owner_of<T>(map: &Map, work: impl FnOnce() -> T) -> T {
    let Some(owner) = hold(map.table) else {
        gone(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, &map.relation)
    };
    as_owner(owner, || {
        if table_named(&map.relation) != map.table {
            gone(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, &map.relation)
        }
        for field in &map.fields {
            let names = [&field.transform_out, &field.transform_in];
            for (name, function) in names.into_iter().flatten().zip(&field.transforms) {
                if transform_named(name, *function) != *function || !may_run(*function, owner) {
                    gone(PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION, name)
                }
            }
        }
        work()
    })
}

/// The same of a table of which no more than its name is used.
pub fn as_owner_of_table<T>(table: pg_sys::Oid, name: &str, work: impl FnOnce() -> T) -> T {
    let Some(owner) = hold(table) else {
        gone(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, name)
    };
    as_owner(owner, || {
        if table_named(name) != table {
            gone(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, name)
        }
        work()
    })
}

fn gone(code: PgSqlErrorCode, name: &str) -> ! {
    ErrorReport::new(
        code,
        format!("{name} is not what it was when its mapping was read"),
        "pg_crm",
    )
    .set_hint("Nothing is lost: it is tried again with the mapping as it is now.")
    .report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}

/// The owner of a table, which it keeps until the transaction ends.
fn hold(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: inside a transaction; the tuple is read while it is held.
    unsafe {
        pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as i32);
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(table),
        );
        if tuple.is_null() {
            return None;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*class).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}

/// What a quoted and qualified name means to the role in force.
fn table_named(name: &str) -> pg_sys::Oid {
    let Ok(name) = CString::new(name) else {
        return pg_sys::InvalidOid;
    };
    // SAFETY: inside a transaction; the lists are the parser's own.
    unsafe {
        let names = pg_sys::stringToQualifiedNameList(name.as_ptr());
        let named = pg_sys::makeRangeVarFromNameList(names);
        pg_sys::RangeVarGetRelidExtended(
            named,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    }
}

/// The same of a function of one jsonb. Nobody drops the one that is expected until the transaction ends.
fn transform_named(name: &str, expected: pg_sys::Oid) -> pg_sys::Oid {
    let Ok(name) = CString::new(name) else {
        return pg_sys::InvalidOid;
    };
    // SAFETY: as above.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::ProcedureRelationId,
            expected,
            0,
            pg_sys::AccessShareLock as i32,
        );
        let names = pg_sys::stringToQualifiedNameList(name.as_ptr());
        let arguments = [pg_sys::JSONBOID];
        pg_sys::LookupFuncName(names, 1, arguments.as_ptr(), true)
    }
}

/// As `crm.transform_trouble()` asks it: whoever may change a transform must be able to act as the table's owner anyway. Its lock
/// keeps it from becoming somebody else's.
fn may_run(function: pg_sys::Oid, owner: pg_sys::Oid) -> bool {
    // SAFETY: inside a transaction; the tuple is read while it is held.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            pg_sys::Datum::from(function),
        );
        if tuple.is_null() {
            return false;
        }
        let maker = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).proowner;
        pg_sys::ReleaseSysCache(tuple);
        pg_sys::is_member_of_role(maker, owner)
    }
}
