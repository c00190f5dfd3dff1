//! What the CRM says of its fields, and what is made of it when columns are mapped; and what
//! becomes of rows, links and queued work when the mapping is changed.

mod alterations;
mod descriptions;
mod errors;
mod exchange;
mod failing_filters;
mod filters;
mod fits;
mod heroku_connect;
mod matches;
mod moves;
mod pauses;
mod refusals;
mod unsendable;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for all of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
