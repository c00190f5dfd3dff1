//! Write-back: changes are folded into the queue, claimed, and settled.

pub mod claims;
pub mod fold;
pub mod settle;
