//! Links that `crm.match()` asks for, so that it holds no lock of the map until its transaction
//! ends.
//!
//! Guarantees: those of a request are made together, in a transaction of their own, or none is.
//! They are on disk when the caller is told.

use serde_json::{Value as Json, json};

use super::socket::protocol::LinkRequest;
use crate::failpoint;
use crate::store::record::links;
use crate::store::transaction::durable_transaction;

/// `{"done": true}`, or the error, and whether it may pass.
pub fn link(request: &LinkRequest) -> Json {
    let linked = durable_transaction(|client| {
        links::link_matched(client, request.map_id, &matched(request))?;
        failpoint::reach("link::before_commit");
        Ok(())
    });
    match linked {
        Ok(()) => {
            failpoint::reach("link::after_commit");
            json!({ "done": true })
        }
        Err(error) => json!({ "error": error.message(), "may_pass": error.is_transient() }),
    }
}

fn matched(request: &LinkRequest) -> links::Matched<'_> {
    links::Matched {
        shard_keys: &request.shard_keys,
        record_keys: &request.record_keys,
        crm_ids: &request.crm_ids,
        carried: request.carried.as_deref(),
        actor: &request.actor,
    }
}
