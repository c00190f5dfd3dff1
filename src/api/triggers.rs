//! `crm_internal.put_trigger()` and `crm_internal.drop_trigger()`: how the generator of capture
//! reaches tables that are not pg_crm's.

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use super::raise;
use crate::store::capture::triggers;
use crate::store::rights;

fn refuse(message: String) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message,
        None,
        "crm.map_object() and crm.unmap_object() make and drop the triggers of a mapped table.",
    )
}

/// Nobody calls these but the engine, and nothing but triggers of pg_crm goes by such a name.
fn require_ours(name: &str) {
    if !rights::is_in_force() {
        refuse("only pg_crm itself makes and drops its triggers".to_owned())
    }
    let words = name
        .strip_prefix("pg_crm_")
        .and_then(|rest| rest.split_once('_'));
    let ours = words.is_some_and(|(map, what)| {
        !map.is_empty()
            && map.bytes().all(|b| b.is_ascii_digit())
            && !what.is_empty()
            && what.bytes().all(|b| b.is_ascii_lowercase())
    });
    if !ours {
        refuse(format!("\"{name}\" is no trigger of pg_crm"))
    }
}

/// Makes a trigger that calls a function of pg_crm. `fires`: as in `pg_trigger.tgenabled`.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn put_trigger(
    relation: pg_sys::Oid,
    name: &str,
    event: &str,
    tables: &str,
    function: pg_sys::Oid,
    for_each_row: bool,
    fires: &str,
) {
    require_ours(name);
    // SAFETY: syscache look-ups inside a transaction; NULL where there is no such function.
    let is_ours = unsafe {
        let schema = pg_sys::get_func_namespace(function);
        schema == pg_sys::get_namespace_oid(c"crm_internal".as_ptr(), false)
    };
    let trigger = triggers::Trigger {
        relation,
        name,
        event,
        tables,
        function,
        for_each_row,
        fires: triggers::Fires::of(fires)
            .unwrap_or_else(|| refuse(format!("\"{fires}\" is no value of pg_trigger.tgenabled"))),
    };
    if !is_ours || !triggers::make(&trigger) {
        refuse(format!("\"{name}\" would be no trigger of pg_crm"))
    }
}

/// The end of such a trigger, if it is there.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn drop_trigger(relation: pg_sys::Oid, name: &str) {
    require_ours(name);
    triggers::remove(relation, name);
}

/// Whether this process applies a subscription: applying changes row by row fires row-level
/// triggers only.
#[pg_extern(stable, parallel_safe, schema = "crm_internal")]
fn is_replicating() -> bool {
    // SAFETY: a plain read of what this process is.
    unsafe { pg_sys::IsLogicalWorker() }
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.put_trigger(oid, text, text, text, oid, bool, text) IS 'creates a trigger of pg_crm on a table, regardless of its owner';
COMMENT ON FUNCTION crm_internal.drop_trigger(oid, text) IS 'drops a trigger of pg_crm';
COMMENT ON FUNCTION crm_internal.is_replicating() IS 'whether this process is a logical replication worker, which does not fire statement-level triggers';
"#,
    name = "trigger_comments",
    requires = [put_trigger, drop_trigger, is_replicating]
);
