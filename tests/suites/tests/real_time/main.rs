//! Edits while somebody waits, and on both sides at once: nothing is overwritten unseen, nothing is
//! lost, and both sides agree in the end.

mod arguments;
mod beside_bulk;
mod calls;
mod events;
mod failures;
mod policies;
mod races;
mod reconciler;
mod rights;
mod socket;
mod statuses;
mod tables;
mod transactions;
mod transforms;
mod updates;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for most of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
