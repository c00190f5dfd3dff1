//! What a command does to values, where no catalog shows it: read from the commands
//! that `pg_event_trigger_ddl_commands()` has collected.

use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{Internal, PgList};

/// The statement of a collected command.
///
/// # Safety
/// `command` is a `pg_ddl_command`, which PostgreSQL alone makes, and which lives as long as the
/// call.
unsafe fn statement(command: Internal) -> *mut pg_sys::Node {
    let datum = command.unwrap().unwrap_or(pg_sys::Datum::null());
    let command = datum.cast_mut_ptr::<pg_sys::CollectedCommand>();
    if command.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: as promised.
    unsafe { (*command).parsetree }
}

/// The columns of ALTER COLUMN … TYPE; `using`: of those alone that say how, so that any value may
/// become any other.
#[pg_extern(sql = "
CREATE FUNCTION crm_internal.retyped_columns(command pg_ddl_command, \"using\" bool) RETURNS text[]
STABLE STRICT PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';")]
fn retyped_columns(command: Internal, using: bool) -> Vec<String> {
    let mut columns = Vec::new();
    // SAFETY: the type of the argument promises it; each cast follows from a node's tag.
    unsafe {
        let node = statement(command);
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return columns;
        }
        let commands = (*node.cast::<pg_sys::AlterTableStmt>()).cmds;
        for command in PgList::<pg_sys::AlterTableCmd>::from_pg(commands).iter_ptr() {
            let is_retyped = (*command).subtype == pg_sys::AlterTableType::AT_AlterColumnType;
            if !is_retyped || (*command).name.is_null() || (*command).def.is_null() {
                continue;
            }
            let definition = (*command).def.cast::<pg_sys::ColumnDef>();
            let says_how = (*definition).type_ == pg_sys::NodeTag::T_ColumnDef
                && !(*definition).raw_default.is_null();
            if says_how || !using {
                let name = CStr::from_ptr((*command).name);
                columns.push(name.to_string_lossy().into_owned());
            }
        }
    }
    columns
}

/// Whether it is ALTER TYPE … RENAME VALUE.
#[pg_extern(sql = "
CREATE FUNCTION crm_internal.renames_label(command pg_ddl_command) RETURNS bool
STABLE STRICT PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';")]
fn renames_label(command: Internal) -> bool {
    // SAFETY: see above.
    unsafe {
        let node = statement(command);
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_AlterEnumStmt
            && !(*node.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null()
    }
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.retyped_columns(pg_ddl_command, bool) IS 'columns whose types a command changes; using: only those with a USING clause';
COMMENT ON FUNCTION crm_internal.renames_label(pg_ddl_command) IS 'whether a command renames a label of an enum';
"#,
    name = "ddl_comments",
    requires = [retyped_columns, renames_label]
);
