//! What CRMs tell of their own accord gets into the inbox once, from those who hold the secret, and
//! from nobody else.

mod functions;
mod inbox;
mod listener;
mod refusals;
mod senders;
mod takeovers;

use std::sync::LazyLock;

use crm_suites::Cluster;
use crm_suites::hooks::{SECRET, desk, free_port, inbox, listening, open};

/// For scenarios that leave the server as it was.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
