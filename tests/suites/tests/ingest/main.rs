//! What people change in the CRM comes into the table: once, as the mapping has it, and never back
//! again.

mod backfill;
mod blame;
mod conflicts;
mod endings;
mod identity;
mod lapsed;
mod merges;
mod rereads;
mod schema;
mod short_ids;
mod spellings;
mod tables;
mod vanished;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for most of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
