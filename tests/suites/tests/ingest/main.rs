//! What people change in the CRM comes into the table: once, as the mapping has it, and never back again.

mod basics;
mod identity;
mod merges;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for most of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
