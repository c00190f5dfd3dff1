//! Whose rights code of a mapped table has: its owner's, as the catalog says it when that code
//! runs.
//!
//! What is known of a map may be as old as a request to a CRM takes. Meanwhile its table may have
//! become somebody else's, or another table or transform may go by its name; neither ever runs with
//! the rights of who owned the table before.

use std::ffi::CString;
use std::sync::Arc;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::server_version;
use crate::store::config::map::Map;
use crate::store::rights::as_owner;
use crate::store::statement::names::{self, BeforeOwnersCode, Names};

/// [`as_owner`] of the map's table. Raises undefined_table, undefined_function or undefined_object
/// if a name in a statement of `work` no longer resolves to what the mapping refers to, or a
/// transform belongs to a role that may not act as the owner. Table and transforms stay locked
/// until the transaction ends.
pub fn as_owner_of<T>(map: &Map, work: impl FnOnce() -> T) -> T {
    as_owner_of_what(&map.names, &map.relation, work)
}

/// The same for statements that name the table and nothing else.
pub fn as_owner_of_table<T>(table: pg_sys::Oid, name: &str, work: impl FnOnce() -> T) -> T {
    as_owner_of_what(&Arc::new(Names::of_table(table)), name, work)
}

fn as_owner_of_what<T>(held_to: &Arc<Names>, relation: &str, work: impl FnOnce() -> T) -> T {
    let before = BeforeOwnersCode;
    let Some(owner) = hold(held_to.table) else {
        names::report_replaced(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, relation)
    };
    for function in &held_to.functions {
        if !may_run(*function, owner) {
            let transform = format!("a transform of {relation}");
            names::report_replaced(PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION, &transform)
        }
    }
    as_owner(owner, || {
        // Each statement is checked as well; this catches an ordinary rename before any of them is
        // analysed.
        if table_named(relation) != held_to.table {
            names::report_replaced(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, relation)
        }
        drop(before);
        names::restrict_to(held_to, work)
    })
}

/// Locks a table, so that its owner stays the same until the transaction ends, and returns the
/// owner.
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
        let names = server_version::qualified_name(&name);
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

/// The same check as `crm_internal.transform_trouble()`: the role that may change a transform must
/// be able to act as the table's owner anyway. The function is locked against DROP and ALTER …
/// OWNER until the transaction ends.
fn may_run(function: pg_sys::Oid, owner: pg_sys::Oid) -> bool {
    // SAFETY: inside a transaction; the tuple is read while it is held.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::ProcedureRelationId,
            function,
            0,
            pg_sys::AccessShareLock as i32,
        );
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
