//! What a worker's process is made of: a session that depends on nobody's configuration, and its
//! threads.

use pgrx::prelude::*;

/// A session whose output forms and limits do not depend on anybody's configuration.
pub fn set_up_session() {
    for (name, value) in [
        (c"role", c"none"),
        (c"row_security", c"on"),
        (c"search_path", c"pg_catalog, pg_temp"),
        // How values are written and read.
        (c"datestyle", c"ISO, MDY"),
        (c"timezone", c"UTC"),
        (c"intervalstyle", c"postgres"),
        (c"extra_float_digits", c"1"),
        (c"bytea_output", c"hex"),
        (c"xmlbinary", c"base64"),
        (c"xmloption", c"content"),
        (c"lc_monetary", c"C"),
        (c"lc_numeric", c"C"),
        (c"lc_time", c"C"),
        // What statements mean.
        (c"standard_conforming_strings", c"on"),
        (c"array_nulls", c"on"),
        (c"transform_null_equals", c"off"),
        (c"quote_all_identifiers", c"off"),
        (c"plpgsql.variable_conflict", c"error"),
        (c"plpgsql.extra_errors", c"none"),
        (c"plpgsql.extra_warnings", c"none"),
        // How long things may take, and what a transaction is.
        (c"lock_timeout", c"500ms"),
        (c"statement_timeout", c"0"),
        (c"idle_session_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"session_replication_role", c"origin"),
        (c"plan_cache_mode", c"auto"),
        (c"jit", c"off"),
        // A batch of usual records without temporary files.
        (c"work_mem", c"16MB"),
        // The pages that a batch touches are in memory, or needed again at once: by index, not by
        // reading tables whole.
        (c"random_page_cost", c"0.1"),
        // Not even where the statistics say that a table is empty, which may be old news: a plan
        // that is kept would read it whole for each record once it is full.
        (c"enable_seqscan", c"off"),
        (c"enable_indexscan", c"on"),
        (c"enable_indexonlyscan", c"on"),
        (c"enable_bitmapscan", c"on"),
        (c"enable_tidscan", c"on"),
        (c"enable_nestloop", c"on"),
        (c"enable_hashjoin", c"on"),
        (c"enable_mergejoin", c"on"),
        (c"enable_hashagg", c"on"),
        (c"enable_sort", c"on"),
        (c"application_name", c"pg_crm worker"),
    ] {
        // SAFETY: constant, valid settings of this session.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Lets this process open as many files as it may: each waiting caller has a socket, each request
/// another, and the usual soft limit of 1024 is meant for those who use select(). Postgres's own
/// files stay within what it found at its start.
fn lift_file_limit() {
    // SAFETY: reads and sets a limit of this process through a struct of its own.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Threads start with every signal blocked: a handler that ran on one of them would touch Postgres
/// from there.
pub fn start_threads() -> tokio::runtime::Runtime {
    lift_file_limit();
    // SAFETY: saves, replaces and restores this thread's signal mask.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        // Two arenas are enough for so few threads, and each keeps what a burst left it.
        libc::mallopt(libc::M_ARENA_MAX, 2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(512)
            .thread_name("pg_crm io")
            .enable_all()
            .build();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        runtime.unwrap_or_else(|e| error!("pg_crm cannot start its threads: {e}"))
    }
}
