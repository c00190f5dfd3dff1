//! The configuration, read anew with each turn.

use std::time::Instant;

use crate::store::{StoreError, config, rights, transaction};
use crate::worker::context::Context;
use crate::worker::step_backoff::{Owner, Step};

/// Reads connections and maps; `false`: the extension is gone.
pub fn read(cx: &mut Context) -> Result<bool, StoreError> {
    let read = transaction(|client| {
        if !rights::extension_exists() {
            return Ok(None);
        }
        Ok(Some((config::connections(client)?, config::maps(client)?)))
    })?;
    let Some((connections, maps)) = read else {
        return Ok(false);
    };
    if cx.maps.len() != maps.len() {
        // The first map brings the audit's partitions with it.
        cx.maintenance_at = Instant::now();
    }
    cx.backoff.succeeded(Owner::Worker, Step::Turn);
    let is_known = |owner| match owner {
        Owner::Map(id) => maps.iter().any(|m| m.id == id),
        Owner::Connection(id) => connections.iter().any(|c| c.id == id),
        Owner::Worker => true,
    };
    cx.backoff.keep(is_known);
    cx.steps.keep(is_known);
    cx.connections.set_known(connections);
    cx.maps = maps.into();
    Ok(true)
}
