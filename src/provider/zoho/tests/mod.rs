//! Zoho as the simulator and the documents say it behaves.

mod bulk;
mod changes;
mod errors;
mod history;
mod records;
mod service;
mod values;
mod webhooks;
