//! The background workers: a launcher for the server, one worker for each database that has the
//! extension.
//!
//! A worker's main thread owns the database session and does nothing but short transactions; it
//! waits on its latch and on an eventfd. Threads of a small runtime talk to the CRMs ([`link`]) and
//! to backends ([`socket`]); they never touch Postgres and hand everything to the main thread as an
//! [`main_loop::event::Event`].

mod calls;
mod connections;
mod context;
mod entry;
mod in_flight;
mod ingest;
pub mod launcher;
pub mod link;
mod links;
mod mailbox;
mod main_loop;
mod monitor;
mod notification;
mod process;
mod reconciler;
mod retry_policy;
mod schedule;
mod sender;
mod session;
pub mod socket;
mod step_backoff;
mod steps;
mod table_follower;
mod table_scans;
mod tasks;
mod waiters;
mod webhooks;
mod write_back;

#[cfg(any(test, feature = "pg_test"))]
#[path = "../../pgrx-tests/worker.rs"]
mod pgrx_tests;
