//! Applies records that came from a CRM: rows, links, ledger, conflicts, audit and cursor change in
//! one transaction.
//!
//! Guarantees: a record is compared with the ledger as it is now, not as it was when the CRM was
//! asked: a record that pg_crm itself changed in between is read again by itself. Applying a record
//! twice changes nothing the second time. Rows are changed as their table's owner; a record that
//! the table refuses, or that cannot be read, is quarantined and does not hold up others.

mod apply;
mod changed;
mod decide;
mod decisions;
mod deleted;
pub mod incoming;
mod key_sequence;
mod key_source;
mod locks;
mod new_rows;
pub mod quarantine;
pub mod refetch;
mod refused_fields;
pub mod result;
mod row_lookup;
pub mod state;
pub mod stored_forms;
mod unlinked;

pub use apply::apply;
pub use incoming::{Arriving, Field, Incoming, Unreadable};
pub use quarantine::{charge, give_up};
pub use result::Arrived;
