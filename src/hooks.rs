//! Utility commands that concern the worker: those that need the database to themselves, and the
//! ends of prepared transactions.
//!
//! `DROP DATABASE`, `ALTER DATABASE … RENAME`, `… SET TABLESPACE` and `CREATE DATABASE … TEMPLATE`
//! fail while anybody is connected. The worker is asked to end and kept out for a moment; if the
//! command fails it comes back.
//!
//! `COMMIT PREPARED` wakes the worker, since the commit callbacks of a prepared transaction are
//! lost.

use std::ffi::{CStr, c_char};
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::api::wake;
use crate::{server_version, shared};

/// How long the worker stays out: longer than a DROP DATABASE takes, short enough not to matter.
const HOLD: Duration = Duration::from_secs(10);
/// How long a command waits for the worker to end. Postgres itself waits 5 s for other backends.
const PATIENCE: Duration = Duration::from_secs(5);

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

pub fn install() {
    // SAFETY: called once, while the postmaster loads libraries.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

unsafe extern "C-unwind" {
    // Postgres's own function, not the wrapper of the bindings: an error of a command must reach
    // its session as it was raised, with its position and context, not translated by way of a
    // panic.
    #[link_name = "standard_ProcessUtility"]
    fn raw_process_utility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Nothing in this frame has a destructor, so an error may pass over it.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are handed on as they came; `statement` is valid for the call.
    unsafe {
        // Asked before: the command may free its own statement.
        let ends_prepared = ends_prepared((*statement).utilityStmt);
        make_room((*statement).utilityStmt);
        let next = PREVIOUS.unwrap_or(raw_process_utility);
        next(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            destination,
            completion,
        );
        if ends_prepared {
            prepared_has_ended();
        }
    }
}

/// Whether a prepared transaction ends by this command.
///
/// # Safety
/// `node` is a valid utility statement.
unsafe fn ends_prepared(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED};
    // SAFETY: the cast follows from the node's tag.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && matches!(
                (*node.cast::<pg_sys::TransactionStmt>()).kind,
                TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED
            )
    }
}

/// It is over and seen by everybody. Whatever it was, the worker looks: what it had to tell was
/// forgotten when it was prepared, by a session or a server that may be gone.
#[pg_guard]
unsafe extern "C-unwind" fn prepared_has_ended() {
    wake::after_prepared();
}

#[pg_guard]
unsafe extern "C-unwind" fn make_room(statement: *mut pg_sys::Node) {
    // SAFETY: a utility statement, valid for the call.
    if let Some(database) = unsafe { database_wanted_alone(statement) } {
        send_away(database);
    }
}

/// The database that a command needs nobody else to be connected to.
///
/// # Safety
/// `node` is a valid utility statement.
unsafe fn database_wanted_alone(node: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    // SAFETY: each cast follows from the node's tag.
    unsafe {
        let name = match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => (*node.cast::<pg_sys::DropdbStmt>()).dbname,
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                if (*rename).renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
                (*rename).subname
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let alter = node.cast::<pg_sys::AlterDatabaseStmt>();
                option_value((*alter).options, c"tablespace")?;
                (*alter).dbname
            }
            pg_sys::NodeTag::T_CreatedbStmt => {
                option_value((*node.cast::<pg_sys::CreatedbStmt>()).options, c"template")?
            }
            _ => return None,
        };
        let oid = pg_sys::get_database_oid(name, true);
        (oid != pg_sys::InvalidOid && may_connect_away(oid)).then_some(oid)
    }
}

/// Only who may change the database makes its worker leave; everybody else gets Postgres's own
/// refusal.
fn may_connect_away(database: pg_sys::Oid) -> bool {
    // SAFETY: a plain read of a global.
    let role = unsafe { pg_sys::GetUserId() };
    server_version::owns_database(role, database) || server_version::may_create_databases(role)
}

/// The string value of an option of a utility statement.
///
/// # Safety
/// `options` is NIL or a list of DefElem.
unsafe fn option_value(options: *mut pg_sys::List, wanted: &CStr) -> Option<*mut c_char> {
    // SAFETY: the grammar makes these lists of DefElem.
    unsafe {
        if options.is_null() {
            return None;
        }
        (0..(*options).length).find_map(|i| {
            let option = (*(*options).elements.add(i as usize))
                .ptr_value
                .cast::<pg_sys::DefElem>();
            (CStr::from_ptr((*option).defname) == wanted && !(*option).arg.is_null())
                .then(|| pg_sys::defGetString(option))
        })
    }
}

/// Ends the database's worker and waits until it is gone, cancellably.
fn send_away(database: pg_sys::Oid) {
    let Some(slot) = shared::slot(database) else {
        return;
    };
    slot.hold(HOLD);
    let pid = slot.pid();
    if shared::is_connected(pid, database) {
        // SAFETY: pid is a process of this server, connected to that database at this moment.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
    let deadline = Instant::now() + PATIENCE;
    while (slot.pid() != 0 || slot.state() == shared::State::Starting) && Instant::now() < deadline
    {
        // SAFETY: waits on this backend's own latch.
        unsafe {
            let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                events as i32,
                10,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        pgrx::check_for_interrupts!();
    }
}
