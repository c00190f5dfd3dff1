//! Conflicts that wait for a person, as events name them.

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// The ids of the conflicts of each of these records that has any.
pub fn ids(client: &SpiClient, map_id: i32, keys: &[Key]) -> Result<Vec<Vec<i64>>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let rows = client.select(
        Cached(
            "SELECT array_agg(c.conflict_id ORDER BY c.conflict_id) AS ids
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord),
                  -- OFFSET 0: looked up one by one, whatever is known of the table.
                  LATERAL (SELECT * FROM crm.conflict c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_key = k.record_key OFFSET 0) c
             GROUP BY k.ord ORDER BY k.ord",
        ),
        None,
        &[
            map_id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    rows.map(|row| row.required("ids")).collect()
}
