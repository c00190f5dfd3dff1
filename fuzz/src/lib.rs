//! What must hold for every input, for libFuzzer to look for one for which it does not.
//!
//! A `check` takes bytes as libFuzzer made them and panics if a law is broken; the targets call one
//! each. Inputs are text wherever that is possible, so that those of `corpus/` can be read and
//! written by hand.

pub mod answers;
pub mod builders;
pub mod canonical;
mod conversation;
pub mod frames;
mod requests;
mod scenario;
pub mod webhooks;
pub mod wire;
