//! What came in from a CRM, written down: rows, links, ledger, conflicts, audit and cursor in one
//! transaction.
//!
//! Guarantees: a record is compared with what the ledger knows now and not with what it knew when
//! the CRM was asked: one on which something of ours was at work since then is read again by
//! itself. Whatever comes twice changes nothing twice. Rows change as their table's owner; one that
//! the table refuses, or a value that cannot be read, is quarantined and its neighbours go on.

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
pub use quarantine::give_up;
pub use result::Arrived;
