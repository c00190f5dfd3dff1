//! One record, whichever path asks.

pub mod crm_forms;
pub mod former_links;
pub mod key;
pub mod key_rivals;
pub mod links;
pub mod locks;
pub mod orphaned_creates;
pub mod remove;
pub mod sightings;
pub mod unseen_writes;
