//! What a column's type is beneath its domains, from the backend's own cache: mapping, capture and
//! the worker ask this of every column, and a statement over `pg_type` costs a plan each time.

use pgrx::prelude::*;

/// The base type of a domain, or the type itself.
#[pg_extern(stable, strict, parallel_safe, schema = "crm_internal")]
fn base_type(type_id: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a look-up in the catalog's cache, of a type that is there.
    namespace(type_id).map(|_| unsafe { pg_sys::getBaseType(type_id) })
}

/// Whether a type is built in, or a domain over a built-in type.
#[pg_extern(stable, strict, parallel_safe, schema = "crm_internal")]
fn is_builtin(type_id: pg_sys::Oid) -> Option<bool> {
    let namespace = namespace(base_type(type_id)?)?;
    Some(namespace.to_u32() == pg_sys::PG_CATALOG_NAMESPACE)
}

/// The schema of a type; none if there is no such type.
fn namespace(type_id: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a look-up in the catalog's cache; the row is read before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, type_id.into());
        if tuple.is_null() {
            return None;
        }
        let namespace = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>()).typnamespace;
        pg_sys::ReleaseSysCache(tuple);
        Some(namespace)
    }
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.base_type(oid) IS 'the base type of a domain, or the type itself; NULL: there is no such type';
COMMENT ON FUNCTION crm_internal.is_builtin(oid) IS 'whether a type is built in, or a domain over a built-in type; NULL: there is no such type';
"#,
    name = "types_comments",
    requires = [base_type, is_builtin]
);
