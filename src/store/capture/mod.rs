//! Capture: its triggers, and what it could not see.

pub mod compare;
pub mod follow;
pub mod recapture;
pub mod triggers;
