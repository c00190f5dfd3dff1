//! Claims records that are due, with their values.

use std::sync::Arc;

use crm_domain::Path;

use super::in_flight::InFlight;
use super::read::{ClaimedBatch, read_batch};
use super::rounds;
use crate::failpoint;
use crate::settings::Settings;
use crate::store::config::{self, Connection, Map};
use crate::store::notify;
use crate::store::write_back::claims::{self, Claimed};
use crate::store::{StoreError, map_state, transaction};
use crate::worker::process::report;

/// A batch that was claimed and read.
pub struct Claim {
    pub id: i64,
    pub batch: ClaimedBatch,
    pub map: Arc<Map>,
}

/// Which records are claimed.
pub struct Wanted<'a> {
    pub rows: usize,
    /// Whether the map's round is open.
    pub in_round: bool,
    /// Records whose results are not settled yet.
    pub unsettled: &'a [(&'a str, &'a str)],
}

/// Claims and reads a batch in one transaction; `None`: nothing is due. `at_hand`: the records that
/// are at hand should it fail.
pub fn claim(
    connection: &Connection,
    map: &Map,
    wanted: &Wanted,
    settings: &Settings,
    at_hand: &mut Vec<Claimed>,
) -> Result<Option<Claim>, StoreError> {
    let claim = transaction(|client| {
        if !claims::may_send(client, connection.id)? {
            return Ok(None);
        }
        config::lock_definition(client, map.id)?;
        // The mapping as it is now: what was folded may concern fields that were mapped since this
        // turn began.
        let Some(map) = config::maps(client)?
            .into_iter()
            .find(|m| m.id == map.id && m.works())
        else {
            return Ok(None);
        };
        let Wanted {
            rows,
            in_round,
            unsettled,
        } = *wanted;
        let due = claims::due(client, &map, rows, in_round, unsettled)?;
        if due.is_empty() {
            return Ok(None);
        }
        at_hand.extend(due.iter().cloned());
        report(&format!(
            "reading {} records of {}",
            due.len(),
            map.relation
        ));
        failpoint::reach_with("read::store", due.iter().map(|d| d.record_key.as_str()));
        let batch = read_batch(&map, due, unsettled, settings)?;
        let mut id = 0;
        if !batch.records.is_empty() {
            let records = || batch.records.iter().map(InFlight::claimed);
            let shard_keys = records().map(|r| r.shard_key.as_str()).collect();
            let record_keys = records().map(|r| r.record_key.as_str()).collect();
            failpoint::reach_with("claim::store", records().map(|r| r.record_key.as_str()));
            id = claims::claim(client, &map, Path::Batch, shard_keys, record_keys, None)?;
        }
        let records = batch.records.len() + batch.settled.len();
        if map_state::add_to_round(client, map.id, records)? {
            notify::notify(client, vec![rounds::started(connection, &map)])?;
        }
        failpoint::reach("claim::before_commit");
        Ok(Some(Claim { id, batch, map }))
    })?;
    if claim.is_some() {
        failpoint::reach("claim::after_commit");
    }
    Ok(claim)
}
