//! pg_crm's triggers on tables of others.
//!
//! The engine owns neither the tables nor any right on them, and their owners hold none on pg_crm's
//! functions. So a trigger is made and dropped by Postgres's own functions beneath the commands, as
//! a superuser: nothing of a user's runs there, no name is looked up, and no event trigger fires.

use std::ffi::CString;

use pgrx::prelude::*;

use crate::store::rights;

/// What a trigger hangs on, and calls.
pub struct Trigger<'a> {
    pub relation: pg_sys::Oid,
    pub name: &'a str,
    /// Such as `AFTER UPDATE`.
    pub event: &'a str,
    /// The REFERENCING clause, or nothing.
    pub tables: &'a str,
    pub function: pg_sys::Oid,
    /// FOR EACH ROW instead of FOR EACH STATEMENT.
    pub for_each_row: bool,
    pub fires: Fires,
}

/// Under which `session_replication_role` a trigger fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fires {
    Origin,
    Replica,
    Always,
}

impl Fires {
    /// As `pg_trigger.tgenabled` has it.
    pub fn of(letter: &str) -> Option<Fires> {
        match letter {
            "O" => Some(Fires::Origin),
            "R" => Some(Fires::Replica),
            "A" => Some(Fires::Always),
            _ => None,
        }
    }

    fn when(self) -> u8 {
        match self {
            Fires::Origin => pg_sys::TRIGGER_FIRES_ON_ORIGIN,
            Fires::Replica => pg_sys::TRIGGER_FIRES_ON_REPLICA,
            Fires::Always => pg_sys::TRIGGER_FIRES_ALWAYS,
        }
    }
}

/// Makes a trigger, which goes when the extension does. `false`: the event says something else.
pub fn make(trigger: &Trigger) -> bool {
    let sql = format!(
        "CREATE TRIGGER {} {} ON the_relation {} FOR EACH {} EXECUTE FUNCTION the_function()",
        trigger.name,
        trigger.event,
        trigger.tables,
        if trigger.for_each_row {
            "ROW"
        } else {
            "STATEMENT"
        }
    );
    let Ok(sql) = CString::new(sql) else {
        return false;
    };
    rights::as_superuser(|| {
        // SAFETY: the parser's own tree, checked to be what is said; the table and the function are
        // named by oid, so that the tree's names are not looked up.
        unsafe {
            let parsed = pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
            if parsed.is_null() || (*parsed).length != 1 {
                return false;
            }
            let raw = (*(*parsed).elements).ptr_value.cast::<pg_sys::RawStmt>();
            let statement = (*raw).stmt;
            if (*statement).type_ != pg_sys::NodeTag::T_CreateTrigStmt {
                return false;
            }
            let statement = statement.cast::<pg_sys::CreateTrigStmt>();
            if (*statement).row != trigger.for_each_row
                || !(*statement).whenClause.is_null()
                || (*statement).replace
            {
                return false;
            }
            let none = pg_sys::InvalidOid;
            let made = pg_sys::CreateTriggerFiringOn(
                statement,
                sql.as_ptr(),
                trigger.relation,
                none,
                none,
                none,
                trigger.function,
                none,
                std::ptr::null_mut(),
                false,
                false,
                trigger.fires.when() as _,
            );
            let extension = pg_sys::ObjectAddress {
                classId: pg_sys::ExtensionRelationId,
                objectId: pg_sys::get_extension_oid(c"pg_crm".as_ptr(), false),
                objectSubId: 0,
            };
            pg_sys::recordDependencyOn(
                &made,
                &extension,
                pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION,
            );
            pg_sys::CommandCounterIncrement();
        }
        true
    })
}

/// Drops a trigger, if it is there.
pub fn remove(relation: pg_sys::Oid, name: &str) {
    let Ok(name) = CString::new(name) else {
        return;
    };
    rights::as_superuser(|| {
        // SAFETY: as DROP TRIGGER does, the table's lock first.
        unsafe {
            pg_sys::LockRelationOid(relation, pg_sys::AccessExclusiveLock as i32);
            let trigger = pg_sys::get_trigger_oid(relation, name.as_ptr(), true);
            if trigger == pg_sys::InvalidOid {
                return;
            }
            let address = pg_sys::ObjectAddress {
                classId: pg_sys::TriggerRelationId,
                objectId: trigger,
                objectSubId: 0,
            };
            pg_sys::performDeletion(
                &address,
                pg_sys::DropBehavior::DROP_RESTRICT,
                pg_sys::PERFORM_DELETION_INTERNAL as i32,
            );
            pg_sys::CommandCounterIncrement();
        }
    });
}
