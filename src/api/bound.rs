//! Whether a mapped table is the one that its capture function was made for, asked of the backend's
//! own memory: no statement is planned for it.

use pgrx::prelude::*;
use pgrx::{PgRelation, PgSqlErrorCode};

use super::raise;
use crate::{server_version, shared};

/// Raises unless the table has these columns with these base types (0: any, its output alone is
/// taken). A capture function asks before anything else, so that casts and operators of a type that
/// it was not made for are never looked up.
#[pg_extern(stable, strict, parallel_unsafe, schema = "crm_internal")]
fn require_bound(relation: pg_sys::Oid, columns: Array<&str>, types: Array<pg_sys::Oid>) -> bool {
    // SAFETY: the statement that fired the trigger has the table open and locked.
    let table = unsafe { PgRelation::open(relation) };
    let now = table.tuple_desc();
    for (column, base_type) in columns.iter().flatten().zip(types.iter().flatten()) {
        let found = now
            .iter()
            .find(|a| !a.attisdropped && a.name() == column)
            .map(|a| a.atttypid);
        // SAFETY: a look-up in the catalog's cache.
        let base_of = |found| unsafe { pg_sys::getBaseType(found) };
        let fits = found.is_some_and(|found| {
            base_type == pg_sys::InvalidOid || found == base_type || base_of(found) == base_type
        });
        if !fits {
            if shared::available() {
                // The worker makes it up, whatever becomes of this transaction.
                shared::wake_worker(false);
            }
            raise(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "table \"{}\" was altered, and its CRM mapping has not been updated yet",
                    table.name()
                ),
                Some(format!(
                    "Column \"{column}\" is not as it was when the triggers of the mapping were made."
                )),
                "Try again in a moment: the background worker makes them anew as soon as nobody holds the table; or \
                 call crm.alter_map().",
            );
        }
    }
    true
}

/// Whether this transaction holds a lock on the table as DDL takes it, and plain reading and
/// writing do not.
#[pg_extern(volatile, strict, parallel_unsafe, schema = "crm_internal")]
fn is_held_by_ddl(relation: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: a plain read of this backend's own database.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: relation.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: looks into this backend's own table of locks.
    (pg_sys::ShareUpdateExclusiveLock..=pg_sys::AccessExclusiveLock)
        .any(|mode| unsafe { server_version::holds_lock(&tag, mode as pg_sys::LOCKMODE) })
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.require_bound(oid, text[], oid[]) IS 'for capture triggers: raises object_not_in_prerequisite_state (55000) unless a table has these columns with these base types; 0: any type';
COMMENT ON FUNCTION crm_internal.is_held_by_ddl(oid) IS 'whether this transaction has locked a table as DDL does';
"#,
    name = "bound_comments",
    requires = [require_bound, is_held_by_ddl]
);
