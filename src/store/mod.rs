//! Every SQL statement of the engine, and the transactions that they run in.
//!
//! Functions take an open SPI client and are called inside [`transaction`]; they never wait for a
//! lock that an application may hold (rows by SKIP LOCKED, the rest bounded by `lock_timeout`), and
//! touch a mapped table only as its owner ([`as_owner_of`]).

pub mod audit;
pub mod calls;
pub mod capture;
pub mod config;
pub mod conflict;
pub mod connection_state;
pub mod dead_letter;
pub mod error;
pub mod fuse;
pub mod ingest;
pub mod map_cache;
pub mod map_state;
pub mod monitor;
pub mod notify;
pub mod outcome;
pub mod reconcile;
pub mod record;
pub mod rights;
pub mod row;
pub mod settings_scope;
pub mod statement;
pub mod stub_crm;
pub mod table;
pub mod transaction;
pub mod webhook_inbox;
pub mod write_back;

pub use error::{Fault, StoreError};
pub use transaction::{durable_transaction, transaction};
