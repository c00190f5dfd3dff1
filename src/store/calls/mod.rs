//! Calls of `crm.write()` and `crm.read_live()`.

pub mod caller;
pub mod intents;
