//! Identifies the caller of a function that runs as the engine.
//!
//! A function that asks is two: an outer one that runs with its caller's rights and says
//! `crm_internal.caller()`, and an inner one that runs as the engine and asks
//! `crm_internal.verified()` who that is. What passes between them is a token for the role in
//! force, good in one transaction of one backend: nobody can make one for somebody else, and who
//! holds one for a role had that role's rights in this transaction anyway.

use std::cell::OnceCell;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use super::raise;
use crate::server_version;
use crate::store::rights;

thread_local! {
    static KEY: OnceCell<[u8; 32]> = const { OnceCell::new() };
}

fn token(role: pg_sys::Oid) -> Vec<u8> {
    let key = KEY.with(|key| {
        *key.get_or_init(|| {
            let mut bytes = [0u8; 32];
            // SAFETY: fills the bytes, or says that it cannot.
            if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) } {
                error!("the server has no random bytes")
            }
            bytes
        })
    });
    let transaction = server_version::local_transaction();
    let role = role.to_u32().to_be_bytes();
    let mut said = role.to_vec();
    said.extend(transaction.to_be_bytes());
    let proof = blake3::keyed_hash(&key, &said);
    [&role[..], proof.as_bytes()].concat()
}

/// The role in force, so that `crm_internal.verified()` believes it.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn caller() -> Vec<u8> {
    refuse_restricted();
    // SAFETY: a plain read.
    token(unsafe { pg_sys::GetUserId() })
}

/// The role that a token is of.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn verified(caller: Option<&[u8]>) -> pg_sys::Oid {
    refuse_restricted();
    let role = caller.and_then(|token| token.first_chunk::<4>());
    let role = role.map(|bytes| pg_sys::Oid::from(u32::from_be_bytes(*bytes)));
    match (role, caller) {
        (Some(role), Some(said)) if same(&token(role), said) => role,
        _ => raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "this is not who calls".to_owned(),
            Some(
                "The first argument is not a value that crm_internal.caller() returned in this transaction."
                    .to_owned(),
            ),
            "Call the function of the same name without do_.",
        ),
    }
}

/// Takes as long whatever differs.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

/// Raises in code that runs for another on a table owner's behalf: transforms, triggers, policies
/// and defaults in the worker or in `crm.write()`, functions of indexes under maintenance. Nobody
/// there has called anything.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
pub fn refuse_restricted() {
    // SAFETY: a plain read.
    if unsafe { pg_sys::InSecurityRestrictedOperation() } {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "pg_crm is not to be set up or asked from within a security-restricted operation".to_owned(),
            Some("Transforms, triggers, policies and defaults of mapped tables run in one when pg_crm reads or writes rows.".to_owned()),
            "Call it from a session of your own.",
        )
    }
}

/// When the transaction of a backend began; NULL: it has none. Only the engine asks.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn transaction_start(pid: i32) -> Option<TimestampWithTimeZone> {
    if !rights::is_in_force() {
        refuse_stranger()
    }
    // SAFETY: entries of this transaction's own copy, counted from 1; a hole is NULL.
    let start = unsafe {
        (1..=pg_sys::pgstat_fetch_stat_numbackends())
            .map(|i| server_version::backend_status(i))
            .find(|entry| !entry.is_null() && (**entry).st_procpid == pid)
            .map(|entry| (*entry).st_xact_start_timestamp)
    };
    let start = start.filter(|start| *start != 0)?;
    TimestampWithTimeZone::try_from(start).ok()
}

fn refuse_stranger() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "only pg_crm itself asks for this".to_owned(),
        None,
        "pg_stat_activity shows what its reader may see.",
    )
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.caller() IS 'a token for the current role, valid for crm_internal.verified() in this transaction; raises insufficient_privilege (42501) in code that runs on behalf of a table owner';
COMMENT ON FUNCTION crm_internal.verified(bytea) IS 'the role that a token of crm_internal.caller() names; raises insufficient_privilege (42501)';
COMMENT ON FUNCTION crm_internal.refuse_restricted() IS 'raises insufficient_privilege (42501) in code that runs on behalf of a table owner';
COMMENT ON FUNCTION crm_internal.transaction_start(int) IS 'start time of the transaction of a backend; NULL: it has none';
"#,
    name = "caller_comments",
    requires = [caller, verified, refuse_restricted, transaction_start]
);
