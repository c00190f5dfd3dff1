//! Claims pending writes that are due, with their rows' values.

use std::sync::Arc;

use super::fuse;
use super::read::{PendingWithRow, read, sending, with_their_bases};
use super::resolve::event;
use crate::failpoint;
use crate::store::config::{self, Connection, Map};
use crate::store::notify;
use crate::store::reconcile::pending_writes::{self, Pending};
use crate::store::table::read::Bounds;
use crate::store::write_back::claims;
use crate::store::{StoreError, transaction};
use crate::worker::notification;
use crate::worker::process::report;
use crm_domain::Path;
use crm_domain::fuse::Fuse;

/// Pending writes that were claimed and read.
pub struct ClaimedEdits {
    pub claim_id: i64,
    pub edits: Vec<PendingWithRow>,
    pub map: Arc<Map>,
}

/// Claims and reads pending writes in one transaction; `None`: nothing is due. `at_hand`: the
/// pending writes that are at hand should it fail. Those in `unrecorded` have results that are not
/// recorded yet.
pub fn claim(
    connection: &Connection,
    map: &Map,
    (rows, bounds, fuse): (usize, &Bounds, &Fuse),
    unrecorded: &[(&str, &str)],
    at_hand: &mut Vec<Pending>,
) -> Result<Option<ClaimedEdits>, StoreError> {
    let mut held = None;
    let claimed = transaction(|client| {
        if !claims::may_send(client, connection.id)? {
            return Ok(None);
        }
        config::lock_definition(client, map.id)?;
        let Some(map) = config::map(client, map.id)?.filter(|m| m.works()) else {
            return Ok(None);
        };
        let due = pending_writes::due(client, &map, rows, unrecorded)?;
        if due.is_empty() {
            return Ok(None);
        }
        at_hand.extend(due.iter().cloned());
        report(&format!("reading {} edits of {}", due.len(), map.relation));
        let keys = due.iter().map(|p| p.record_key.as_str());
        failpoint::reach_with("reconcile_read::store", keys);
        let edits = with_their_bases(client, &map, read(client, &map, due, bounds)?)?;
        if edits.is_empty() {
            return Ok(None);
        }
        if let Some((counts, linked)) = fuse::judge(client, &map, &edits, fuse)? {
            let of = (Path::Reconcile, None);
            let event = notification::held(connection, &map, of, &counts);
            notify::notify(client, vec![event])?;
            held = Some((counts, linked));
            return Ok(None);
        }
        let pending = || edits.iter().map(|e| &e.pending);
        let claim_id = claims::claim(
            client,
            &map,
            Path::Reconcile,
            pending().map(|p| p.shard_key.as_str()).collect(),
            pending().map(|p| p.record_key.as_str()).collect(),
            Some(edits.iter().map(sending).collect()),
        )?;
        let started = pending().map(|p| event("sync_started", connection, &map, p, None));
        notify::notify(client, started.collect())?;
        failpoint::reach("reconcile_claim::before_commit");
        Ok(Some(ClaimedEdits {
            claim_id,
            edits,
            map,
        }))
    })?;
    if let Some((counts, linked)) = held {
        notification::log_held(map, &counts, linked);
    }
    if claimed.is_some() {
        failpoint::reach("reconcile_claim::after_commit");
    }
    Ok(claimed)
}
