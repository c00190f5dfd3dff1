//! pg_crm keeps rows of PostgreSQL and records of customers' CRMs in step, from inside the database.
//!
//! - [`api`]: the functions that SQL calls; thin.
//! - [`store`]: every SQL statement of the engine, and the transactions they run in.
//! - [`worker`]: the launcher, one worker per database, its threads and its conversations with CRMs.
//! - [`webhook`], [`secrets`]: what backends and the worker do alike.
//! - [`errors`]: what users see of an error.
//! - [`shared`]: what processes tell each other through shared memory.
//! - `crm_domain` and `crm_provider` (`src/domain`, `src/provider`): the rules and the vendors, without Postgres and
//!   without I/O.
//! - `sql/`: tables, capture triggers, set-up functions, views.

use pgrx::prelude::*;

mod api;
mod errors;
mod failpoint;
mod hooks;
mod secrets;
mod settings;
mod shared;
mod store;
mod webhook;
mod worker;

pgrx::pg_module_magic!();

extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
extension_sql_file!("../sql/webhooks.sql", name = "webhooks");
extension_sql_file!(
    "../sql/capture.sql",
    name = "capture",
    requires = [
        "bound_comments",
        "cells_union",
        "ddl_comments",
        "keys_comments",
        "trigger_comments",
        "values_comments",
        "wake_comments"
    ]
);
extension_sql_file!(
    "../sql/admin.sql",
    name = "admin",
    requires = [
        "capture",
        "check_comments",
        "webhook_comments",
        "caller_comments",
        "home_comments"
    ]
);
extension_sql_file!(
    "../sql/adoption.sql",
    name = "adoption",
    requires = ["admin", "home_comments"]
);
extension_sql_file!(
    "../sql/views.sql",
    name = "views",
    requires = ["adoption", "ask_comments"]
);
extension_sql_file!(
    "../sql/describe.sql",
    name = "describe",
    requires = ["views", "fit_comments"]
);
extension_sql_file!(
    "../sql/real_time.sql",
    name = "real_time",
    requires = ["describe", "write_comments"]
);
extension_sql_file!(
    "../sql/ingest.sql",
    name = "ingest",
    requires = ["real_time"]
);
extension_sql_file!("../sql/stub.sql", name = "stub", requires = ["ingest"]);
extension_sql_file!("../sql/rights.sql", name = "rights", requires = ["stub"]);
extension_sql_file!(
    "../sql/check.sql",
    name = "check",
    requires = ["rights", "compare_comments"]
);
extension_sql_file!("../sql/final.sql", name = "final", finalize);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    errors::make_no_backtraces();
    settings::define();
    settings::restrict();
    store::names::install();
    // SAFETY: a plain read of a global that the postmaster sets while it loads libraries.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        shared::request();
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
