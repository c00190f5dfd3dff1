//! Removes what is known of a record, and its row where that goes with it.

use std::time::Duration;

use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::map_state;
use crate::store::record::former_links::BOTH_WENT;
use crate::store::statement::Cached;
use crate::store::table::delete;

/// Deletes the row of a record that the CRM deleted, and what is known of both. `false`: something
/// keeps the row, which then stays without a link, and its map's status says why.
pub fn delete_with_row(
    client: &mut SpiClient,
    map: &Map,
    shard_key: &str,
    record_key: &str,
    limit: Duration,
) -> Result<bool, StoreError> {
    match delete::delete_row(map, shard_key, record_key, limit) {
        Ok(()) => {}
        Err(error) if error.blames_no_row() => return Err(error),
        Err(error) => {
            let reason = format!(
                "the CRM deleted record {record_key}, but its row cannot be deleted: {}",
                error.message()
            );
            map_state::note_error(client, map.id, &reason)?;
            return Ok(false);
        }
    }
    forget(client, map, shard_key, record_key)?;
    Ok(true)
}

/// Nothing is kept of a record whose row went with it; edits of that row are void.
pub fn forget(
    client: &mut SpiClient,
    map: &Map,
    shard_key: &str,
    record_key: &str,
) -> Result<(), StoreError> {
    client.update(
        Cached(&format!(
            "WITH waiting AS (
                 DELETE FROM crm.queue WHERE shard_key = $1 AND map_id = $2 AND record_key = $3
             ), edits AS (
                 DELETE FROM crm.pending_write
                 WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND state IN ('queued', 'dead')
             ), conflicts AS (
                 DELETE FROM crm.conflict WHERE shard_key = $1 AND map_id = $2 AND record_key = $3
             ), letters AS (
                 DELETE FROM crm.dead_letter WHERE shard_key = $1 AND map_id = $2 AND record_key = $3
             ), known AS (
                 DELETE FROM crm.ledger WHERE shard_key = $1 AND map_id = $2 AND record_key = $3
                 RETURNING shard_key, map_id, crm_id, record_key
             ) {BOTH_WENT}",
        )),
        None,
        &[shard_key.into(), map.id.into(), record_key.into()],
    )?;
    Ok(())
}
