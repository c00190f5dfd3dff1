//! pg_crm keeps rows of PostgreSQL and records of customers' CRMs in step, from inside the
//! database.
//!
//! - [`api`]: the functions that SQL calls; thin.
//! - [`store`]: every SQL statement of the engine, and the transactions they run in.
//! - [`worker`]: the launcher, one worker per database, its threads and its conversations with
//!   CRMs.
//! - [`webhook_verifier`], [`secrets`]: what backends and the worker do alike.
//! - [`errors`]: what users see of an error.
//! - [`server_version`]: what PostgreSQL's versions name or do differently.
//! - [`shared`]: the shared memory of backends, the launcher and the workers; [`counters`]: what
//!   workers count there.
//! - `crm_domain` and `crm_provider` (`src/domain`, `src/provider`): the rules and the vendors,
//!   without Postgres and without I/O.
//! - [`sql`]: the order in which the files of `sql/` are run, with tables, capture, set-up
//!   functions and views.

use pgrx::prelude::*;

mod api;
mod counters;
mod errors;
mod failpoint;
mod hooks;
mod secrets;
mod server_version;
mod settings;
mod shared;
mod sql;
mod store;
mod webhook_verifier;
mod worker;

pgrx::pg_module_magic!();

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    errors::make_no_backtraces();
    settings::define();
    settings::restrict();
    store::statement::name_check::install();
    // SAFETY: a plain read of a global that the postmaster sets while it loads libraries.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        shared::request();
        counters::request();
        worker::launcher::register();
        hooks::install();
        errors::install();
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pgrx-tests/mod.rs"]
mod pgrx_suite;

/// Asked for by `cargo pgrx test`.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'pg_crm'"]
    }
}
