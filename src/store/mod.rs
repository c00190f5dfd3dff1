//! Every SQL statement of the engine, and the transactions that they run in.
//!
//! Functions take an open SPI client and are called inside [`transaction`]; they never wait for a lock that an
//! application may hold (rows by SKIP LOCKED, the rest bounded by `lock_timeout`), and touch a mapped table only as its
//! owner ([`as_owner_of`]).

pub mod apply;
pub mod audit;
pub mod claims;
pub mod compare;
pub mod config;
pub mod connections;
mod dead;
pub mod edits;
pub mod engine;
pub mod fold;
pub mod follow;
pub mod ingest;
pub mod kept;
mod keys;
pub mod longest;
pub mod names;
mod owner;
mod pace;
pub mod pending;
mod raw_size;
pub mod recapture;
pub mod reconcile;
pub mod rivals;
pub mod rounds;
pub mod settings_scope;
pub mod settle;
pub mod stub;
mod takes;
mod taking;
pub mod time_limit;
mod transaction;
pub mod triggers;
pub mod values;
pub mod webhooks;

pub use kept::{Kept, KeptForFew};
pub use names::{Once, Running};
pub use owner::{as_owner_of, as_owner_of_table};
pub use taking::transformed_in_time;
pub use transaction::{
    StoreError, as_owner, durable_transaction, nested, subtransaction, transaction,
};
