//! What every CRM holds to, written once: the same situation has the same outcome, whoever the
//! vendor is and however it is reached. What they do in their own ways is data
//! (`crm_suites::crm::facts`).

mod batches;
mod changes;
mod creates;
mod documents;
mod errors;
mod field_options;
mod filters;
mod first_loads;
mod forms;
mod found_records;
mod fuse;
mod garbage;
mod guards;
mod keys;
mod limits;
mod listings;
mod matches;
mod own_forms;
mod requests;
mod snapshots;
mod tokens;
mod values;
mod volume;
mod webhooks;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for all of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
