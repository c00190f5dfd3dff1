//! The rules of pg_crm, free of Postgres and of I/O.
//!
//! This folder is a crate of its own, `crm-domain`, and no module of pg_crm, though it lies in `src/`
//! beside its modules: so the compiler sees to it that no rule names Postgres or does I/O.
//!
//! What a value is and when two are equal ([`value`], [`canonical`]), what an admin may map and
//! demand ([`mapping`], [`validation`]), whether that fits what the CRM says of itself ([`description`],
//! [`compatibility`]), which cells of a record are meant ([`cells`]), what becomes of a field that changed on one
//! side or on both ([`conflict`], [`inbound`]), when two keys are one for a CRM ([`key`]), what follows from a failure ([`failure`], [`retry`]), what of it can be kept ([`storable`]), and
//! how many requests may go when ([`budget`]).
//! Everything here is a pure function of its arguments, so that plain `cargo test` covers it.

pub mod bisect;
pub mod budget;
pub mod canonical;
pub mod cells;
pub mod column;
pub mod compatibility;
pub mod conflict;
pub mod data_type;
pub mod description;
pub mod excerpt;
pub mod failure;
pub mod hex;
pub mod inbound;
pub mod key;
pub mod mapping;
pub mod operation;
pub mod retry;
pub mod snapshot;
pub mod storable;
mod string_enum;
pub mod validation;
pub mod value;

pub use cells::{CellHashes, Cells};
pub use column::Column;
pub use data_type::DataType;
pub use description::{Choice, Description, FieldDescription};
pub use failure::{ErrorClass, Failure};
pub use operation::{AuditResult, Op, Operation, Path};
pub use string_enum::UnknownName;
pub use value::{Number, Value, ValueError};
