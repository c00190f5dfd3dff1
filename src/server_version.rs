//! What the versions of PostgreSQL that pg_crm is built for name or do differently. Nothing else in
//! the extension asks which version it is built for.

use std::ffi::CStr;

use pgrx::prelude::*;

#[cfg(not(feature = "pg18"))]
pub use pg_sys::pqsignal;
#[cfg(feature = "pg18")]
pub use pg_sys::pqsignal_be as pqsignal;

/// Whether the role owns the database, or has the rights of a role that does.
pub fn owns_database(role: pg_sys::Oid, database: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; the database exists.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, role);
        #[cfg(not(feature = "pg15"))]
        pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, role)
    }
}

/// Whether the role may create databases. Not every minor version of 15 exports PostgreSQL's own
/// function for that, and a library that calls it does not load where it is missing.
pub fn may_create_databases(role: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; the tuple is read while it is held.
    unsafe {
        if pg_sys::superuser_arg(role) {
            return true;
        }
        let cache = pg_sys::SysCacheIdentifier::AUTHOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, role.into());
        if tuple.is_null() {
            return false;
        }
        let may = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_authid>()).rolcreatedb;
        pg_sys::ReleaseSysCache(tuple);
        may
    }
}

/// What tells this transaction of this process from its others.
pub fn local_transaction() -> pg_sys::LocalTransactionId {
    // SAFETY: this process's own entry, which lives as long as it does.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        (*pg_sys::MyProc).vxid.lxid
    }
}

/// What a process reports of itself, by its place in this transaction's copy, counted from 1. NULL:
/// nobody has that place.
///
/// # Safety
/// Valid until the copy is thrown away, as it is at the end of the transaction.
pub unsafe fn backend_status(place: i32) -> *const pg_sys::PgBackendStatus {
    // SAFETY: the function checks the place; an entry of the copy stays where it is.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pgstat_fetch_stat_beentry(place);
        #[cfg(not(feature = "pg15"))]
        match pg_sys::pgstat_get_local_beentry_by_index(place).as_ref() {
            Some(entry) => &raw const entry.backendStatus,
            None => std::ptr::null(),
        }
    }
}

/// Has pg_stat_activity show the session's user of now.
///
/// # Safety
/// Called outside of any transaction, by a process that reports already.
pub unsafe fn report_session_user() {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pgstat_bestart();
        #[cfg(feature = "pg18")]
        pg_sys::pgstat_bestart_final();
    }
}

/// Every setting that this process knows.
///
/// # Safety
/// Used up before any setting is added.
pub unsafe fn settings() -> &'static [*mut pg_sys::config_generic] {
    // SAFETY: the array has as many elements as are said to be in it.
    unsafe {
        #[cfg(feature = "pg15")]
        let (settings, count) = (pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions());
        #[cfg(not(feature = "pg15"))]
        let (settings, count) = {
            let mut count = 0;
            (pg_sys::get_guc_variables(&mut count), count)
        };
        std::slice::from_raw_parts(settings, count as usize)
    }
}

/// Whether this transaction holds that lock, in that mode.
///
/// # Safety
/// Called inside a transaction.
pub unsafe fn holds_lock(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: looks into this backend's own table of locks.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(tag, mode);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        pg_sys::LockHeldByMe(tag, mode, false)
    }
}

/// The parts of a quoted and qualified name, as the parser has them. Raises what is wrong with it.
///
/// # Safety
/// Called inside a transaction; the list lives in the current memory context.
pub unsafe fn qualified_name(name: &CStr) -> *mut pg_sys::List {
    // SAFETY: the text is read alone.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::stringToQualifiedNameList(name.as_ptr());
        #[cfg(not(feature = "pg15"))]
        pg_sys::stringToQualifiedNameList(name.as_ptr(), std::ptr::null_mut())
    }
}

/// `JSON_VALUE` and the like, which make what they find a value of any type that they name.
pub fn is_json_query(tag: pg_sys::NodeTag) -> bool {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    const JSON_QUERY: Option<pg_sys::NodeTag> = None;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    const JSON_QUERY: Option<pg_sys::NodeTag> = Some(pg_sys::NodeTag::T_JsonExpr);
    JSON_QUERY == Some(tag)
}
