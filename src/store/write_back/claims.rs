//! Batches of queued records in flight to a CRM.
//!
//! A claim is one row of `crm.claim` that names its records. It is committed before anything is
//! sent; one that a dead worker left behind is released by the next, with an attempt charged to its
//! records, so that work which kills the worker ends as dead letters and not in a crash loop.

use std::sync::Arc;

use crm_domain::{Cells, Op, Path};
use pgrx::pg_sys;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::map_state;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

/// A queued record, as claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: Option<String>,
    pub op: Op,
    pub cells: Cells,
    pub revision: i64,
    /// It was never sent: it comes in the map's round.
    pub is_fresh: bool,
    pub attempts: u32,
    pub hashes: Vec<u8>,
    pub actor: Option<String>,
    pub correlation_id: Option<String>,
    /// Of the round.
    pub operation_id: Option<Arc<str>>,
    pub place: Place,
}

/// Where a record's rows were when it was claimed. They are looked for there first; once moved, by
/// their key.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub queue: pg_sys::ItemPointerData,
    pub ledger: pg_sys::ItemPointerData,
}

/// How long a batch may be in flight before it counts as left behind.
const LEASE: &str = "1 hour";

/// Whether the connection may be sent over, now and until this transaction ends: a `crm.pause()`
/// that commits in between waits for us, so that nothing is claimed once it has returned. One that
/// is being changed right now may not.
pub fn may_send(client: &mut SpiClient, connection_id: i32) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached("SELECT FROM crm.connection c
         WHERE c.connection_id = $1 AND NOT c.paused AND NOT EXISTS (
             SELECT FROM crm.connection_state s WHERE s.connection_id = c.connection_id AND s.state = 'error')
         FOR SHARE OF c SKIP LOCKED"),
        None,
        &[connection_id.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Locks up to `rows` records of the map that are due and in no other claim. `whole`: the map's
/// round is on, so that fresh edits are due too; else only retries whose time has come.
/// `unsettled`: records whose last results wait to be written down.
pub fn due(
    client: &mut SpiClient,
    map: &Map,
    rows: usize,
    whole: bool,
    unsettled: &[(&str, &str)],
) -> Result<Vec<Claimed>, StoreError> {
    if !is_due(client, map, whole)? {
        return Ok(Vec::new());
    }
    let claimed = first_due(client, map, rows, Some(rows), whole, unsettled)?;
    if !claimed.is_empty() {
        return Ok(claimed);
    }
    // Nothing is due, or other sessions have locked all of those that came first.
    first_due(client, map, rows, None, whole, unsettled)
}

/// Whether it is worth planning what [`first_due`] asks.
fn is_due(client: &SpiClient, map: &Map, whole: bool) -> Result<bool, StoreError> {
    let rows = client.select(
        Cached("SELECT FROM crm.queue
              WHERE map_id = $1 AND state = 'queued' AND next_attempt_at <= now() AND (next_attempt_at > '-infinity' OR $2)
              ORDER BY next_attempt_at LIMIT 1"),
        None,
        &[map.id.into(), whole.into()],
    )?;
    Ok(!rows.is_empty())
}

/// `among`: how many of those that are due are looked at. Without a bound the planner would sort
/// them all.
fn first_due(
    client: &mut SpiClient,
    map: &Map,
    rows: usize,
    among: Option<usize>,
    whole: bool,
    unsettled: &[(&str, &str)],
) -> Result<Vec<Claimed>, StoreError> {
    let result = client.update(
        "SELECT q.shard_key, q.record_key, coalesce(l.crm_id, k.crm_id) AS crm_id, q.op::text, q.cells, q.revision, q.attempts,
                coalesce(l.hashes, k.hashes) AS hashes, q.actor, q.correlation_id, q.is_fresh, q.here, coalesce(l.place, k.place) AS ledger_place
         FROM (SELECT ctid AS here, place, shard_key, record_key, op, cells, revision, attempts, actor, correlation_id,
                      next_attempt_at = '-infinity' AS is_fresh FROM crm.queue
               WHERE map_id = $1 AND state = 'queued' AND next_attempt_at <= now() AND (next_attempt_at > '-infinity' OR $3)
                 AND (shard_key, record_key) NOT IN (
                     SELECT k.s, k.r FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS k (s, r)
                     WHERE c.map_id = $1 AND c.path = 'batch'
                     UNION ALL SELECT * FROM unnest($5::text[], $6::text[]))
               ORDER BY next_attempt_at LIMIT $4) q
         LEFT JOIN LATERAL (
             SELECT l.ctid AS place, l.crm_id, l.hashes FROM crm.ledger l
             WHERE l.ctid = q.place AND l.shard_key = q.shard_key AND l.map_id = $1 AND l.record_key = q.record_key
             FOR UPDATE SKIP LOCKED) l ON true
         LEFT JOIN LATERAL (
             SELECT k.ctid AS place, k.crm_id, k.hashes FROM crm.ledger k
             WHERE l.place IS NULL AND k.shard_key = q.shard_key AND k.map_id = $1 AND k.record_key = q.record_key
             FOR UPDATE SKIP LOCKED) k ON true
         WHERE l.place IS NOT NULL OR k.place IS NOT NULL
         LIMIT $2",
        None,
        &[
            map.id.into(),
            (rows as i64).into(),
            whole.into(),
            among.map(|n| n as i64).into(),
            unsettled.iter().map(|(s, _)| *s).collect::<Vec<_>>().into(),
            unsettled.iter().map(|(_, r)| *r).collect::<Vec<_>>().into(),
        ],
    )?;
    if result.is_empty() {
        return Ok(Vec::new());
    }
    let operation_id = map_state::round_id(client, map.id)?;
    let mut claimed = Vec::with_capacity(result.len());
    for row in result {
        claimed.push(Claimed {
            shard_key: row.required("shard_key")?,
            record_key: row.required("record_key")?,
            crm_id: row.optional("crm_id")?,
            op: row.parsed("op")?,
            // None of a delete, nor of a record that nothing is known of.
            cells: Cells::from_bytes(row.optional::<&[u8]>("cells")?.unwrap_or_default()),
            revision: row.required("revision")?,
            is_fresh: row.required("is_fresh")?,
            attempts: row.required::<i16>("attempts")? as u32,
            hashes: row.optional("hashes")?.unwrap_or_default(),
            actor: row.optional("actor")?,
            correlation_id: row.optional("correlation_id")?,
            operation_id: operation_id.clone(),
            place: Place {
                queue: row.required("here")?,
                ledger: row.required("ledger_place")?,
            },
        });
    }
    Ok(claimed)
}

/// Writes the claim; from the commit on, the records are in flight. `sent`: what is sent of each,
/// where that is to be recognised should the outcome never be heard.
pub fn claim(
    client: &mut SpiClient,
    map: &Map,
    path: Path,
    shard_keys: Vec<&str>,
    record_keys: Vec<&str>,
    sent: Option<Vec<String>>,
) -> Result<i64, StoreError> {
    let rows = client.update(
        Cached(&format!(
            "INSERT INTO crm.claim (map_id, path, shard_keys, record_keys, sent, leased_until)
             VALUES ($1, $2, $3, $4, $5, now() + interval '{LEASE}') RETURNING claim_id"
        )),
        None,
        &[
            map.id.into(),
            path.name().into(),
            shard_keys.into(),
            record_keys.into(),
            sent.into(),
        ],
    )?;
    row::only(rows)?.required("claim_id")
}

pub fn release(client: &mut SpiClient, claim_id: i64) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.claim WHERE claim_id = $1"),
        None,
        &[claim_id.into()],
    )?;
    Ok(())
}

/// Renews the lease of batches that are still in flight.
pub fn renew(client: &mut SpiClient, flying: &[i64]) -> Result<(), StoreError> {
    client.update(
        &format!(
            "UPDATE crm.claim SET leased_until = now() + interval '{LEASE}'
             WHERE claim_id = ANY ($1) AND leased_until < now() + interval '{LEASE}' / 2"
        ),
        None,
        &[flying.to_vec().into()],
    )?;
    Ok(())
}

/// Releases what a worker that is gone had in flight. Only one worker runs in a database, so every
/// claim but ours is.
pub fn release_abandoned(client: &mut SpiClient) -> Result<u64, StoreError> {
    release_lost(client, &[])
}

/// Releases every claim but those that the worker has in hand, with an attempt charged to the
/// records.
pub fn release_lost(client: &mut SpiClient, flying: &[i64]) -> Result<u64, StoreError> {
    let rows = client.update(
        "WITH left_behind AS (
             DELETE FROM crm.claim WHERE claim_id <> ALL ($1) RETURNING map_id, path, shard_keys, record_keys, sent
         ), record AS MATERIALIZED (
             SELECT map_id, path, k.s, k.r, k.sent FROM left_behind, unnest(shard_keys, record_keys, sent) AS k (s, r, sent)
         ), edits AS (
             UPDATE crm.pending_write p
             SET attempts = p.attempts + 1, next_attempt_at = now(), base = crm_internal.base_sent(p.base, record.sent::jsonb)
             FROM record WHERE path = 'reconcile' AND p.shard_key = s AND p.map_id = record.map_id AND p.record_key = r
                           AND p.state = 'queued'
         ), locked AS (
             SELECT l.shard_key, l.map_id, l.record_key, record.sent FROM crm.ledger l
             JOIN record ON l.shard_key = s AND l.map_id = record.map_id AND l.record_key = r
             WHERE path = 'batch' ORDER BY 1, 2, 3 FOR UPDATE OF l SKIP LOCKED
         ), charged AS (
             UPDATE crm.queue q
             SET attempts = q.attempts + 1, next_attempt_at = now(),
                 sent = CASE WHEN coalesce(k.sent, '{}') = '{}' THEN q.sent ELSE crm_internal.base_sent(coalesce(q.sent, '{}'), k.sent::jsonb) END
             FROM locked k WHERE q.shard_key = k.shard_key AND q.map_id = k.map_id AND q.record_key = k.record_key AND q.state = 'queued'
         )
         SELECT count(*) AS records FROM record",
        None,
        &[flying.to_vec().into()],
    )?;
    Ok(row::only(rows)?.number("records")? as u64)
}

/// Milliseconds until the map's next retry; `None` when none waits.
pub fn next_retry_ms(client: &SpiClient, map_id: i32) -> Result<Option<i64>, StoreError> {
    let mut rows = client.select(
        Cached("SELECT (extract(epoch FROM next_attempt_at - now()) * 1000)::bigint AS ms FROM crm.queue
         WHERE map_id = $1 AND state = 'queued' AND next_attempt_at > '-infinity' ORDER BY next_attempt_at LIMIT 1"),
        None,
        &[map_id.into()],
    )?;
    rows.next()
        .map_or(Ok(None), |row| row.required("ms").map(Some))
}

/// Whether anything of these maps still waits to be written, folded or not.
pub fn outstanding(client: &SpiClient, map_ids: &[i32]) -> Result<bool, StoreError> {
    let rows = client.select(
        "SELECT EXISTS (SELECT FROM crm.change WHERE map_id = ANY ($1))
             OR EXISTS (SELECT FROM crm.queue WHERE map_id = ANY ($1) AND state = 'queued')
             OR EXISTS (SELECT FROM crm.claim WHERE map_id = ANY ($1))
             OR EXISTS (SELECT FROM crm.scan_request WHERE map_id = ANY ($1))
             OR EXISTS (SELECT FROM crm.pending_write p WHERE p.map_id = ANY ($1) AND p.state = 'queued' AND (
                            SELECT l.crm_id FROM crm.ledger l
                            WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key)
                            IS NOT NULL) AS is_outstanding",
        None,
        &[map_ids.to_vec().into()],
    )?;
    row::only(rows)?.required("is_outstanding")
}
