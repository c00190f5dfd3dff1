//! The identity of this database, by which it is distinguished from copies of it.

use pgrx::prelude::*;

/// The cluster and the database. A standby and what a promotion makes of it are the same cluster; a
/// restored database, one made from a template and one that pg_upgrade made are others.
#[pg_extern(stable, parallel_safe, schema = "crm")]
fn home() -> String {
    // SAFETY: plain reads of the control file as this server keeps it, and of this backend's own
    // database.
    let (cluster, database) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId) };
    format!("{cluster}/{}", database.to_u32())
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm.home() IS 'identifies this database: system identifier of the cluster and oid of the database';
"#,
    name = "home_comments",
    requires = [home]
);
