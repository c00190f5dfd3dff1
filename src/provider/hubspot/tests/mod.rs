//! HubSpot as the simulator and the documents say it behaves.

mod batches;
mod changes;
mod errors;
mod history;
mod reads;
mod service;
mod values;
mod webhooks;
