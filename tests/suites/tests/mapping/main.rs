//! What the CRM says of its fields, and what is made of it when columns are mapped.

mod descriptions;
mod errors;
mod fits;
mod refusals;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for all of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
