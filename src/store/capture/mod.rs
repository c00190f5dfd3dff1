//! Capture: its triggers, and what it could not see.

pub mod compare;
pub mod follow;
mod ledger_state;
pub mod recapture;
pub mod scan_order;
pub mod triggers;
