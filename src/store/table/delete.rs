//! Deletes users' rows whose CRM records were deleted.

use std::time::Duration;

use pgrx::prelude::*;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::statement::Uncached;
use crate::store::table::pace::Pace;

/// Deletes a row whose CRM record was deleted, as the table's owner. It does not wait for a row
/// that another session has locked.
pub fn delete_row(
    map: &Map,
    shard_key: &str,
    record_key: &str,
    limit: Duration,
) -> Result<(), StoreError> {
    // Named, so that their types are known whether or not the condition has need of both.
    let keys = "(SELECT $1::pg_catalog.text AS record_key, $2::pg_catalog.text AS shard_key) AS k";
    let (relation, row) = (&map.relation, map.is_row("k.shard_key", "k.record_key"));
    let statement = format!(
        "WITH held AS MATERIALIZED (SELECT FROM {keys} JOIN {relation} AS t ON {row} FOR UPDATE OF t NOWAIT),
              gone AS (DELETE FROM {relation} AS t USING {keys} WHERE {row} AND EXISTS (SELECT FROM held) RETURNING 1)
         SELECT (SELECT pg_catalog.count(*) FROM held) > (SELECT pg_catalog.count(*) FROM gone)"
    );
    Pace::new(map, Some(limit)).run(1, || {
        let args = [record_key.into(), shard_key.into()];
        let kept = Spi::connect_mut(|client| {
            client
                .update(Uncached(&statement), None, &args)?
                .first()
                .get_one::<bool>()
        })?;
        match kept {
            Some(true) => Err(StoreError::prevented("deleted")),
            _ => Ok(()),
        }
    })
}
