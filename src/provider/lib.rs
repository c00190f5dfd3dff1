//! The CRMs as pg_crm sees them.
//!
//! This folder is a crate of its own, `crm-provider`, not a module of pg_crm, although it lies in
//! `src/` beside pg_crm's modules: the compiler thus ensures that no provider names Postgres or
//! does I/O.
//!
//! A [`Provider`] is a value that turns an operation into HTTP requests and HTTP responses into
//! outcomes. It does no I/O: an [`Operation`] is stepped by the engine, which sends what it asks
//! for and hands back the answer. So retries, budgets, token refresh, audit and splitting exist
//! once, in the engine, and a vendor's peculiarities exist once, here.

mod body;
mod calls;
mod change_scan;
pub mod changes;
pub mod composio;
mod creation;
pub mod dynamics365;
mod errors;
#[cfg(test)]
mod every_vendor;
mod history;
pub mod hubspot;
mod job;
mod json;
mod jwt;
mod list_scan;
mod moment;
mod oauth;
pub mod operation;
pub mod outcome;
mod outcomes;
pub mod pipedrive;
mod provider;
pub mod record;
mod record_id;
mod registry;
pub mod request;
mod result_table;
pub mod salesforce;
#[cfg(test)]
mod scripted_server;
mod secrets;
mod settings;
mod storage_rules;
pub mod stub;
mod success;
pub mod webhook;
mod wire;
pub mod zoho;

pub use changes::{Change, ChangesPage, ChangesQuery};
pub use json::is_in_proportion;
pub use operation::{BoxOperation, Operation, Step};
pub use outcome::{Grant, Usage, UsageReport, Written};
pub use provider::{Profile, Provider};
pub use record::{
    CrmObject, DoneBatch, DoneField, DoneRecord, Guard, Overwritten, ReadBatch, WriteBatch,
    WriteKind, WriteRecord,
};
pub use record_id::RecordIdForm;
pub use registry::{default_base_url, provider, providers};
pub use request::{Credentials, Method, Request, Response, Target, fits_header};
pub use secrets::{Mask, Secrets};
pub use settings::{DAY_OPTION, IN_FLIGHT_OPTION, RATE_OPTION, RESERVE_OPTION, Settings};
pub use webhook::{WebhookError, WebhookEvent, WebhookKind, WebhookRequest};
