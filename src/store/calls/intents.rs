//! Intents of `crm.write()`, from their first commit to the end of their caller's transaction.

use std::collections::HashSet;

use crm_domain::Cells;
use crm_domain::storable::storable;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::error::StoreError;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

/// An edit of `crm.write()` that is about to be sent.
pub struct Intent<'a> {
    pub write_id: &'a str,
    pub map_id: i32,
    pub shard_key: &'a str,
    pub record_key: &'a str,
    /// Those that it writes.
    pub cells: Cells,
    /// field_id -> value.
    pub intended: Json,
    pub actor: &'a str,
    pub correlation_id: Option<&'a str>,
    pub backend_pid: i32,
}

/// Commits intents. Returns the ids of those that were opened: a record with an edit that waits
/// already is not written past it.
pub fn open(client: &mut SpiClient, intents: &[Intent]) -> Result<HashSet<String>, StoreError> {
    fn all<'a, T>(intents: &'a [Intent], part: impl Fn(&'a Intent) -> T) -> Vec<T> {
        intents.iter().map(part).collect()
    }
    if intents.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = client.update(
        Cached("INSERT INTO crm.pending_write (shard_key, write_id, map_id, record_key, state, cells, intended, actor, correlation_id, backend_pid)
         SELECT i.shard_key, i.write_id::uuid, i.map_id, i.record_key, 'sending', i.cells, i.intended::jsonb, i.actor, i.correlation_id,
                i.backend_pid
         FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::int[])
              AS i (shard_key, write_id, map_id, record_key, cells, intended, actor, correlation_id, backend_pid)
         WHERE NOT EXISTS (SELECT FROM crm.pending_write p
                           WHERE p.shard_key = i.shard_key AND p.map_id = i.map_id AND p.record_key = i.record_key
                             AND p.state IN ('queued', 'dead'))
           AND NOT EXISTS (SELECT FROM crm.change c
                           WHERE c.shard_key = i.shard_key AND c.map_id = i.map_id AND c.record_keys[1] = i.record_key
                             AND (c.base IS NOT NULL OR c.write_id IS NOT NULL))
           -- Nor with the first write of its record: what arrives last would stand.
           AND NOT EXISTS (SELECT FROM crm.queue q
                           WHERE q.shard_key = i.shard_key AND q.map_id = i.map_id AND q.record_key = i.record_key AND q.state = 'queued'
                             AND crm_internal.cells_count(crm_internal.cells_and(q.cells, i.cells)) > 0)
         RETURNING write_id::text"),
        None,
        &[
            all(intents, |i| i.shard_key).into(),
            all(intents, |i| i.write_id).into(),
            all(intents, |i| i.map_id).into(),
            all(intents, |i| i.record_key).into(),
            all(intents, |i| i.cells.to_bytes()).into(),
            all(intents, |i| storable(&i.intended.to_string()).into_owned()).into(),
            all(intents, |i| i.actor).into(),
            all(intents, |i| i.correlation_id).into(),
            all(intents, |i| i.backend_pid).into(),
        ],
    )?;
    let mut opened = HashSet::with_capacity(rows.len());
    for row in rows {
        opened.insert(row.required::<String>("write_id")?);
    }
    Ok(opened)
}

/// How an intent ended; its caller's transaction has the next word.
pub struct Ended<'a> {
    pub shard_key: &'a str,
    pub write_id: &'a str,
    /// landed, failed, or nothing: it is closed.
    pub state: Option<&'static str>,
    pub error_class: Option<&'a str>,
    pub error: Option<&'a str>,
}

pub fn end(client: &mut SpiClient, ended: &[Ended]) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    client.update(
        Cached("WITH ended AS MATERIALIZED (
             SELECT e.shard_key, e.write_id::uuid AS write_id, e.state, e.error_class, e.error
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS e (shard_key, write_id, state, error_class, error)
         ), closed AS (
             DELETE FROM crm.pending_write p USING ended e
             WHERE e.state IS NULL AND p.shard_key = e.shard_key AND p.write_id = e.write_id AND p.state = 'sending'
         )
         UPDATE crm.pending_write p SET state = e.state, error_class = e.error_class, last_error = e.error
         FROM ended e WHERE e.state IS NOT NULL AND p.shard_key = e.shard_key AND p.write_id = e.write_id AND p.state = 'sending'"),
        None,
        &[
            ended.iter().map(|e| e.shard_key).collect::<Vec<_>>().into(),
            ended.iter().map(|e| e.write_id).collect::<Vec<_>>().into(),
            ended.iter().map(|e| e.state).collect::<Vec<_>>().into(),
            ended.iter().map(|e| e.error_class).collect::<Vec<_>>().into(),
            ended.iter().map(|e| e.error).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Whether intents wait for the end of their callers' transactions, beside those that are being
/// sent.
pub fn intents_wait(client: &SpiClient) -> Result<bool, StoreError> {
    let rows = client.select(
        Cached("SELECT EXISTS (SELECT FROM crm.pending_write WHERE state IN ('sending', 'landed', 'failed')) AS intents_wait"),
        None,
        &[],
    )?;
    row::only(rows)?.required("intents_wait")
}
