//! Edits of bidirectional cells, from their intent to the reconciler's decision.

pub mod accept;
pub mod outcome;
pub mod pending_writes;
pub mod resolve;
