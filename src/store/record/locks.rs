//! Locks on records: the lock of a record is that of its ledger row.

use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::CachedIfFew;

/// Locks records' ledger rows, found by their keys; returns those that another session has locked.
pub fn lock_records(
    client: &mut SpiClient,
    map: &Map,
    keys: &[(&str, &str)],
) -> Result<Vec<usize>, StoreError> {
    let shard_keys: Vec<&str> = keys.iter().map(|(shard_key, _)| *shard_key).collect();
    let record_keys: Vec<&str> = keys.iter().map(|(_, record_key)| *record_key).collect();
    let rows = client.update(
        CachedIfFew("WITH wanted AS MATERIALIZED (
             SELECT r.* FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r (shard_key, record_key, ord)
         ), locked AS MATERIALIZED (
             SELECT w.ord FROM (SELECT * FROM wanted ORDER BY shard_key, record_key) w,
                 LATERAL (SELECT FROM crm.ledger l
                          WHERE l.shard_key = w.shard_key AND l.map_id = $1 AND l.record_key = w.record_key
                          FOR UPDATE SKIP LOCKED) l
         )
         SELECT w.ord - 1 AS ord FROM wanted w
         WHERE w.ord NOT IN (SELECT ord FROM locked)
           AND (SELECT 1 FROM crm.ledger l
                WHERE l.shard_key = w.shard_key AND l.map_id = $1 AND l.record_key = w.record_key) IS NOT NULL", keys.len()),
        None,
        &[map.id.into(), shard_keys.into(), record_keys.into()],
    )?;
    let mut locked = Vec::new();
    for row in rows {
        locked.push(row.number("ord")?);
    }
    Ok(locked)
}
