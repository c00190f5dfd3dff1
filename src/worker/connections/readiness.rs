//! Whether work can go to a CRM, and why not.

use std::sync::Arc;
use std::time::Duration;

use crate::store::config::Connection;
use crate::worker::link::SharedLink;

/// Why nothing is requested of a CRM.
pub const AWAY: &str = "the connection came with a restore or a copy of a database and waits for crm.adopt_connections()";

pub enum Readiness {
    Ready(Arc<Connection>, SharedLink),
    /// The connection waits, for a rate limit for instance, or a request in flight finds out
    /// whether the CRM is back.
    Blocked(Duration),
    /// Until a person does something.
    Stopped,
}
