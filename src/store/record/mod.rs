//! One record, whichever path asks.

pub mod key_rivals;
pub mod links;
