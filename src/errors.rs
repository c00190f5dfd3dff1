//! What users see of an error of pg_crm: message, DETAIL and HINT, and where in their own code it
//! was raised.
//!
//! CONTEXT lines of pg_crm's own functions are cut off where an error leaves a function of its
//! schemas; `log_min_messages = debug1` shows them. Rust's backtraces, which a server's environment
//! may request, are disabled.

use std::ffi::CStr;

use pgrx::prelude::*;

/// Languages internal and c, whose numbers are fixed.
const COMPILED: [u32; 2] = [12, 13];

/// The schemas of pg_crm.
const OURS: [&CStr; 3] = [c"crm", c"crm_internal", c"crm_stub"];

/// Called while the library is loaded.
pub fn make_no_backtraces() {
    const ASKED_BY: &str = "RUST_LIB_BACKTRACE";
    let asked = std::env::var_os(ASKED_BY);
    // SAFETY: a process that loads a library has no other threads yet. The standard library asks
    // once, and remembers; it is our copy of it that does.
    unsafe { std::env::set_var(ASKED_BY, "0") };
    let _ = std::backtrace::Backtrace::capture();
    match asked {
        // SAFETY: see above.
        Some(asked) => unsafe { std::env::set_var(ASKED_BY, asked) },
        // SAFETY: see above.
        None => unsafe { std::env::remove_var(ASKED_BY) },
    }
}

/// Called while the postmaster loads libraries.
pub fn install() {
    // SAFETY: nothing else runs. What is passed to a hook is one value, so where another
    // extension's is in place, that one has it, and the context stays.
    unsafe {
        let (needs, hook) = (
            &raw const pg_sys::needs_fmgr_hook,
            &raw const pg_sys::fmgr_hook,
        );
        if needs.read().is_none() && hook.read().is_none() {
            pg_sys::needs_fmgr_hook = Some(is_entered);
            pg_sys::fmgr_hook = Some(at_function);
        }
    }
}

/// Functions that run by another's rights or with settings are seen by the hook in any case. Of the
/// others, those of pg_crm that people call are: none of them is called in the plans of the engine.
#[pg_guard]
unsafe extern "C-unwind" fn is_entered(function: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up inside a transaction; the tuple is read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            pg_sys::Datum::from(function),
        );
        if tuple.is_null() {
            return false;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let is_compiled = COMPILED.contains(&(*row).prolang.to_u32());
        let is_volatile = (*row).provolatile as u8 == pg_sys::PROVOLATILE_VOLATILE;
        let schema = (*row).pronamespace;
        pg_sys::ReleaseSysCache(tuple);
        !is_compiled && is_volatile && is_ours(schema)
    }
}

/// # Safety
/// Inside a transaction.
unsafe fn is_ours(schema: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up.
    let is_named =
        |name: &CStr| schema == unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    schema != pg_sys::InvalidOid && OURS.into_iter().any(is_named)
}

unsafe extern "C-unwind" {
    // Postgres's own functions, not the wrappers of the bindings: an error must reach its session
    // as it was raised.
    #[link_name = "CopyErrorData"]
    fn raw_copy_error_data() -> *mut pg_sys::ErrorData;
    #[link_name = "FlushErrorState"]
    fn raw_flush_error_state();
    #[link_name = "ThrowErrorData"]
    fn raw_throw_error_data(error: *mut pg_sys::ErrorData);
}

/// Nothing in this frame has a destructor, so an error may pass over it.
unsafe extern "C-unwind" fn at_function(
    event: pg_sys::FmgrHookEventType::Type,
    function: *mut pg_sys::FmgrInfo,
    kept: *mut pg_sys::Datum,
) {
    // SAFETY: the arguments are valid for the call; `kept` is this function's from its start to its
    // end.
    unsafe {
        match event {
            pg_sys::FmgrHookEventType::FHET_START => {
                *kept = pg_sys::Datum::from(enters((*function).fn_oid));
            }
            pg_sys::FmgrHookEventType::FHET_ABORT if (*kept).value() != 0 => raise_anew(),
            _ => {}
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn enters(function: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up inside a transaction.
    unsafe { is_ours(pg_sys::get_func_namespace(function)) }
}

/// Raises the current error as if it had been raised where the function was called. Nothing in
/// this frame has a destructor.
///
/// # Safety
/// Called where an error was caught and is about to be thrown again.
unsafe fn raise_anew() {
    // SAFETY: as PG_CATCH() blocks do it; the copy lies in a context that lives until the
    // (sub)transaction ends.
    unsafe {
        pg_sys::CurrentMemoryContext = pg_sys::CurTransactionContext;
        let error = raw_copy_error_data();
        if (*error).sqlerrcode == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as i32
            || (*error).context.is_null()
        {
            pg_sys::CurrentMemoryContext = pg_sys::ErrorContext;
            return; // goes on as it is
        }
        raw_flush_error_state();
        tell((*error).context);
        (*error).context = std::ptr::null_mut();
        raw_throw_error_data(error);
    }
}

/// For those who look for a bug of pg_crm.
#[pg_guard]
unsafe extern "C-unwind" fn tell(context: *const std::ffi::c_char) {
    // SAFETY: a string of Postgres's.
    let context = unsafe { CStr::from_ptr(context) }.to_string_lossy();
    debug1!("pg_crm raised an error at: {context}");
}
