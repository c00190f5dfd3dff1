//! CRM records that were created for rows that are gone: the row was deleted before the CRM's
//! answer was known.

use std::collections::HashMap;

use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// Of these keys, which no row has, those that a row had: it was deleted before it was heard
/// whether the CRM made its record.
pub fn orphaned_creates(
    client: &SpiClient,
    map: &Map,
    keys: &[&str],
) -> Result<HashMap<String, Key>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT u.shard_key, u.record_key FROM crm.orphaned_create u WHERE u.map_id = $1 AND u.record_key = ANY ($2)
             UNION ALL
             SELECT c.shard_key, k FROM crm.change c, unnest(c.record_keys) AS k
             WHERE c.map_id = $1 AND c.op IN ('d', 'x') AND c.record_keys && $2 AND k = ANY ($2)
             UNION ALL
             SELECT l.shard_key, l.record_key FROM crm.ledger l
             WHERE l.shard_key = '' AND l.map_id = $1 AND l.record_key = ANY ($2)",
        ),
        None,
        &[map.id.into(), keys.to_vec().into()],
    )?;
    let mut unborn = HashMap::new();
    for row in rows {
        let key = Key {
            shard_key: row.required("shard_key")?,
            record_key: row.required("record_key")?,
        };
        unborn.insert(key.record_key.clone(), key);
    }
    Ok(unborn)
}

/// The record of a row that is gone is deleted too, or stays and is not inserted; `false`: the
/// ledger still has the row, and sees to its record once they are linked. `is_there`: the row is
/// outside the filter of the map.
pub fn delete_orphan(
    client: &mut SpiClient,
    map: &Map,
    key: &Key,
    crm_id: &str,
    is_there: bool,
) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached(
            "WITH map AS (
                 SELECT m.map_id, CASE WHEN $5 THEN m.on_filter_out ELSE m.on_delete END = 'delete' AS deletes FROM crm.object_map m
                 WHERE m.map_id = $2 AND NOT EXISTS (SELECT FROM crm.ledger l
                                                     WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3)
             ), linked AS (
                 INSERT INTO crm.ledger (shard_key, map_id, record_key, crm_id) SELECT $1, map_id, $3, $4 FROM map WHERE deletes
             ), queued AS (
                 INSERT INTO crm.queue (shard_key, map_id, record_key, op) SELECT $1, map_id, $3, 'd' FROM map WHERE deletes
             ), kept AS (
                 INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
                 SELECT $1, map_id, $4, $3, 'row_deleted' FROM map WHERE NOT deletes
                 ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now()
             ), known AS (
                 DELETE FROM crm.orphaned_create u USING map WHERE u.shard_key = $1 AND u.map_id = $2 AND u.record_key = $3
             )
             SELECT FROM map",
        ),
        None,
        &[
            key.shard_key.as_str().into(),
            map.id.into(),
            key.record_key.as_str().into(),
            crm_id.into(),
            is_there.into(),
        ],
    )?;
    Ok(!rows.is_empty())
}
