//! Capture: its triggers, and what it could not see.

pub mod compare;
pub mod condition;
pub mod filtered;
pub mod follow;
mod ledger_state;
pub mod plan;
pub mod push;
pub mod recapture;
pub mod scan_order;
pub mod scan_request;
pub mod triggers;
