//! Write-back: changes are folded into the queue, claimed, and settled.

mod accepted;
pub mod claims;
mod defaults;
mod deleted;
pub mod failed;
pub mod fold;
pub mod outcome;
pub mod settle;
