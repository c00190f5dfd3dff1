//! Changed cells reach the CRM, once, whatever the statement that changed them and whatever the CRM
//! answers.

mod basics;
mod behind_capture;
mod bulk;
mod composio;
mod correlation;
mod costs;
mod crm_deletes;
mod dead_letters;
mod disabled;
mod events;
mod fields;
mod fuse;
mod grants;
mod keys;
mod long_outages;
mod outages;
mod plan;
mod push;
mod queue;
mod remapping;
mod rights;
mod schema_changes;
mod statements;
mod status;
mod tables;
mod tight_limits;
mod transforms;
mod unstorable;
mod usage;
mod validation;
mod zoho_jobs;

use std::sync::LazyLock;

use crm_suites::Cluster;

/// One server for all of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
