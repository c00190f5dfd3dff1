//! crm-sim: CRMs' HTTP APIs with real state, for suites, demo and benchmarks.
//!
//! A vendor is a folder that turns requests into answers over a [`store::Store`]; everything
//! vendors have in common (state, schema, faults, log, tokens, budgets, clock, sockets) stands
//! beside them, once.

mod admin;
mod budget;
mod clock;
mod composio;
mod decimal;
mod dynamics365;
mod faults;
mod http;
mod hubspot;
mod log;
mod pipedrive;
mod record;
mod salesforce;
mod schema;
pub mod server;
mod store;
mod token;
mod tokens;
mod value;
mod vendor;
mod webhooks;
mod zoho;

pub use vendor::Sim;
