//! The rules of pg_crm, free of Postgres and of I/O.
//!
//! This folder is a crate of its own, `crm-domain`, not a module of pg_crm, although it lies in
//! `src/` beside pg_crm's modules: the compiler thus ensures that no rule names Postgres or does
//! I/O.
//!
//! - What a value is, and when two are equal: [`value`], [`canonical`], [`snapshot`], [`key`].
//! - What an admin may map and require, and whether it fits the CRM: [`mapping`], [`validation`],
//!   [`description`], [`compatibility`], [`column`].
//! - What happens to a field that changed on one side or on both: [`cells`], [`conflict`],
//!   [`inbound`], [`crm_form`].
//! - What follows from a failure: [`failure`], [`retry`], [`bisect`]; and what waits for a person:
//!   [`stop_rule`], [`fuse`].
//! - How many requests may be sent, and when: [`budget`].
//! - How much is done before callers are served: [`step_size`].
//! - What is recorded of it all: [`excerpt`], [`storable`], [`open_metrics`].
//!
//! Everything here is a pure function of its arguments, so that plain `cargo test` covers it.

pub mod bisect;
pub mod budget;
pub mod canonical;
pub mod cells;
pub mod column;
pub mod compatibility;
pub mod conflict;
pub mod crm_form;
pub mod data_type;
pub mod description;
pub mod excerpt;
pub mod failure;
pub mod fuse;
pub mod hex;
pub mod inbound;
pub mod key;
pub mod mapping;
pub mod natural_key;
pub mod open_metrics;
pub mod operation;
pub mod retry;
pub mod snapshot;
pub mod step_size;
pub mod stop_rule;
pub mod storable;
mod string_enum;
pub mod validation;
pub mod value;

pub use cells::{CellHashes, Cells};
pub use column::{Column, Rounded};
pub use data_type::DataType;
pub use description::{Choice, Description, FieldDescription};
pub use failure::{ErrorClass, Failure};
pub use operation::{AuditResult, Op, Operation, Path};
pub use string_enum::UnknownName;
pub use value::{Number, Value, ValueError};
