//! Pending writes: intents of `crm.write()` from their first commit to their caller's, and edits
//! that wait for the reconciler.
//!
//! An intent is committed before anything is sent, so whatever dies, there is a row that says what
//! may have been written. Its caller's transaction removes it. One that is left over when the
//! record's lock is free belongs to a transaction that was rolled back: the row then accepts what
//! the CRM holds.

use crm_domain::cells::CellHashes;
use crm_domain::{Cells, Value, conflict};
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

/// Turns intents whose transaction was rolled back into work for the reconciler: the row accepts
/// what the CRM holds. An edit of the same cells that waits already comes first. `active`: those
/// that are being sent.
pub fn adopt_orphans(client: &mut SpiClient, active: Vec<&str>) -> Result<u64, StoreError> {
    let rows = client.update(
        Cached("WITH orphan AS MATERIALIZED (
             SELECT p.shard_key, p.write_id FROM crm.pending_write p, LATERAL (
                 SELECT FROM crm.ledger l WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key
                 FOR UPDATE SKIP LOCKED) l
             WHERE p.state IN ('sending', 'landed', 'failed') AND p.write_id <> ALL ($1::text[]::uuid[])
               AND NOT EXISTS (SELECT FROM crm.change c
                               WHERE c.shard_key = p.shard_key AND c.map_id = p.map_id AND c.record_keys[1] = p.record_key
                                 AND (c.base IS NOT NULL OR c.write_id IS NOT NULL))
         ), gone AS (
             DELETE FROM crm.pending_write p
             WHERE p.state IN ('sending', 'landed', 'failed') AND p.write_id <> ALL ($1::text[]::uuid[])
               AND NOT EXISTS (SELECT FROM crm.ledger l
                               WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key)
         ), adopted AS (
             DELETE FROM crm.pending_write p USING orphan o WHERE p.shard_key = o.shard_key AND p.write_id = o.write_id
             RETURNING p.*
         )
         INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, state, cells, take, base, intended, undone, actor, correlation_id,
                                             error_class, last_error, created_at)
         SELECT shard_key, map_id, record_key, 'queued', '\\x0000000000000000', crm_internal.cells_union(cells),
                -- Should the CRM hold it, it is our own.
                crm_internal.base_sent('{}', (SELECT jsonb_object_agg(i.key, encode(substr(crm.hash(i.value), 1, 16), 'hex'))
                                              FROM jsonb_each((array_agg(intended))[1]) AS i)),
                (array_agg(intended))[1], array_agg(write_id), max(actor), max(correlation_id), max(error_class), max(last_error),
                min(created_at)
         FROM adopted GROUP BY shard_key, map_id, record_key
         ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
         SET take = crm_internal.cells_minus(crm_internal.cells_or(coalesce(p.take, '\\x0000000000000000'), excluded.take), p.cells),
             base = p.base || (SELECT coalesce(jsonb_object_agg(s.key, s.value), '{}') FROM jsonb_each(excluded.base) AS s
                               WHERE NOT crm_internal.cells_has(p.cells, s.key::int)),
             undone = p.undone || excluded.undone, revision = p.revision + 1"),
        None,
        &[active.into()],
    )?;
    Ok(rows.len() as u64)
}

/// A pending write, as claimed.
#[derive(Clone, Debug)]
pub struct Pending {
    pub shard_key: String,
    pub record_key: String,
    pub write_id: String,
    pub crm_id: String,
    pub cells: Cells,
    pub take: Cells,
    pub base: Json,
    /// Hashes of what the CRM held when the oldest of its edits was made, as in the ledger.
    pub snapshot: Vec<u8>,
    pub revision: i64,
    /// It was never sent, and is no edit of `crm.write()`: the fuse counts it.
    pub is_counted: bool,
    pub attempts: u32,
    /// Of the ledger.
    pub hashes: Vec<u8>,
    /// Cells in which both sides once agreed, as the ledger has it.
    pub synced: Cells,
    pub changed_at_ms: i64,
    pub actor: Option<String>,
    pub correlation_id: Option<String>,
    /// Calls of `crm.write()` that end with it.
    pub folded: Vec<String>,
    /// Those whose transactions were rolled back: the row accepts what the CRM holds.
    pub undone: Vec<String>,
}

impl Pending {
    /// Whether it changes cells, rather than only having the row take some.
    pub fn edits(&self) -> bool {
        self.cells.iter().next().is_some()
    }

    /// The row accepts the CRM's value in this cell because the call that changed it was rolled
    /// back.
    pub fn undoes(&self, field_id: u16) -> bool {
        !self.undone.is_empty() && self.take.contains(field_id) && !self.cells.contains(field_id)
    }

    /// A person decided on this cell: changes of other fields do not count.
    pub fn stands_alone(&self, field_id: u16) -> bool {
        self.base[field_id.to_string()]["alone"] == true
    }

    /// Both sides agreed on the cell, but what the CRM then held is not known any more: the field
    /// is mapped in another way since.
    pub fn is_forgotten(&self, field_id: u16) -> bool {
        !self.hashes.is_empty()
            && self.synced.contains(field_id)
            && CellHashes(&self.hashes).get(field_id).is_none()
    }

    /// The cell's edit was forced: it is written over whatever the CRM holds.
    pub fn is_forced(&self, field_id: u16) -> bool {
        self.base[field_id.to_string()]["force"] == true
    }
}

/// Locks up to `rows` pending writes of the map that are due and in no other claim; of a map that
/// is held, only those of `crm.write()`. `unsettled`: records whose last results wait to be written
/// down.
pub fn due(
    client: &mut SpiClient,
    map: &Map,
    rows: usize,
    unsettled: &[(&str, &str)],
) -> Result<Vec<Pending>, StoreError> {
    let result = client.update(
        Cached("SELECT p.shard_key, p.record_key, p.write_id::text AS write_id, l.crm_id, p.cells, p.take, p.base::text AS base, p.snapshot_hashes, p.revision,
                p.next_attempt_at = '-infinity' AND p.folded IS NULL AS is_counted, p.attempts, l.hashes,
                (extract(epoch FROM p.changed_at) * 1000)::bigint AS changed_at_ms, p.actor, p.correlation_id, p.folded::text[] AS folded, p.undone::text[] AS undone,
                ARRAY(SELECT (s.ord - 1)::smallint FROM unnest(l.synced_at) WITH ORDINALITY AS s (at, ord) WHERE s.at IS NOT NULL) AS synced
         FROM crm.pending_write p, LATERAL (
             SELECT l.crm_id, l.hashes, l.synced_at FROM crm.ledger l
             WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key
             -- OFFSET 0: else the index of linked records may look as good, in which a record's key is not to be found.
             OFFSET 0 FOR UPDATE SKIP LOCKED) l
         WHERE l.crm_id IS NOT NULL AND p.map_id = $1 AND p.state = 'queued' AND p.next_attempt_at <= now()
           AND (NOT $5 OR p.folded IS NOT NULL OR p.undone IS NOT NULL)
           -- A call whose caller disconnected may still be in flight.
           AND (p.shard_key, p.record_key) NOT IN (
               SELECT i.shard_key, i.record_key FROM crm.pending_write i
               WHERE i.map_id = $1 AND i.state IN ('sending', 'landed', 'failed'))
           -- Nor are these cells in flight with all others of a record that was just linked: what arrives last would stand.
           -- What is claimed is looked up in hashes that are made once, whatever is known of the tables.
           AND ((p.shard_key, p.record_key) NOT IN (
                    SELECT k.s, k.r FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS k (s, r)
                    WHERE c.map_id = $1 AND c.path = 'batch')
                OR (SELECT crm_internal.cells_count(crm_internal.cells_and(q.cells, p.cells)) > 0 FROM crm.queue q
                    WHERE q.shard_key = p.shard_key AND q.map_id = p.map_id AND q.record_key = p.record_key) IS NOT TRUE)
           AND (p.shard_key, p.record_key) NOT IN (
               SELECT k.s, k.r FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS k (s, r)
               WHERE c.map_id = $1 AND c.path = 'reconcile'
               UNION ALL SELECT * FROM unnest($3::text[], $4::text[]))
         ORDER BY p.next_attempt_at, p.shard_key, p.record_key
         LIMIT $2 FOR UPDATE OF p SKIP LOCKED"),
        None,
        &[
            map.id.into(),
            (rows as i64).into(),
            unsettled.iter().map(|(s, _)| *s).collect::<Vec<_>>().into(),
            unsettled.iter().map(|(_, r)| *r).collect::<Vec<_>>().into(),
            map.is_held.into(),
        ],
    )?;
    let mut pending = Vec::with_capacity(result.len());
    for row in result {
        pending.push(Pending {
            shard_key: row.required("shard_key")?,
            record_key: row.required("record_key")?,
            write_id: row.required("write_id")?,
            crm_id: row.required("crm_id")?,
            cells: Cells::from_bytes(&row.required::<Vec<u8>>("cells")?),
            take: Cells::from_bytes(&row.optional::<Vec<u8>>("take")?.unwrap_or_default()),
            base: row.json("base")?,
            snapshot: row
                .optional::<Vec<u8>>("snapshot_hashes")?
                .unwrap_or_default(),
            revision: row.required("revision")?,
            is_counted: row.required("is_counted")?,
            attempts: row.required::<i16>("attempts")? as u32,
            hashes: row.optional::<Vec<u8>>("hashes")?.unwrap_or_default(),
            changed_at_ms: row.required("changed_at_ms")?,
            actor: row.optional("actor")?,
            correlation_id: row.optional("correlation_id")?,
            folded: row.optional("folded")?.unwrap_or_default(),
            undone: row.optional("undone")?.unwrap_or_default(),
            synced: row
                .required::<Vec<i16>>("synced")?
                .into_iter()
                .map(|id| id as u16)
                .collect(),
        });
    }
    Ok(pending)
}

/// Edits that empty a field that may have a value and were never sent, without those of
/// `crm.write()`, and without those in flight: `most` of them at most. Of edits to NULL no more
/// than a few times as many are looked at, else each batch would look at all that change nothing.
pub fn clears(client: &SpiClient, map_id: i32, most: Option<i64>) -> Result<i64, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT count(*) AS records
             FROM (SELECT FROM (
                       SELECT p.intended, (SELECT coalesce(l.hashes, '') FROM crm.ledger l
                                           WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key) AS hashes
                       FROM crm.pending_write p
                       WHERE p.map_id = $1 AND p.state = 'queued' AND p.next_attempt_at = '-infinity' AND p.folded IS NULL
                         AND p.intended @? '$.* ? (@ == null)'
                         AND (p.shard_key, p.record_key) NOT IN (
                             SELECT k.s, k.r FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS k (s, r)
                             WHERE c.map_id = $1 AND c.path = 'reconcile')
                       LIMIT 8 * $2) p
                   WHERE EXISTS (SELECT FROM jsonb_each(p.intended) AS e
                                 WHERE e.value = 'null' AND substr(p.hashes, 16 * e.key::int + 1, 16) <> $3)
                   LIMIT $2) x",
        ),
        None,
        &[
            map_id.into(),
            most.into(),
            conflict::hash(&Value::Null).as_slice().into(),
        ],
    )?;
    row::only(rows)?.required("records")
}

/// Of these records, those with edits that were not folded yet.
pub fn edited_since(
    client: &SpiClient,
    map: &Map,
    keys: &[(&str, &str)],
) -> Result<Vec<(String, String)>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT k.shard_key, k.record_key FROM unnest($2::text[], $3::text[]) AS k (shard_key, record_key)
             WHERE EXISTS (SELECT FROM crm.change c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_keys[1] = k.record_key
                             AND (c.base IS NOT NULL OR c.write_id IS NOT NULL))",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|(s, _)| *s).collect::<Vec<_>>().into(),
            keys.iter().map(|(_, r)| *r).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut edited = Vec::new();
    for row in rows {
        edited.push((row.required("shard_key")?, row.required("record_key")?));
    }
    Ok(edited)
}

/// Ends the edits of records that never were in the CRM, and whose rows are gone.
pub fn end_with_rows(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    keys: &[(&str, &str)],
) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    client.update(
        Cached("WITH gone AS (
             DELETE FROM crm.pending_write p USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             WHERE p.shard_key = r.shard_key AND p.map_id = $1 AND p.record_key = r.record_key AND p.state = 'queued'
             RETURNING p.shard_key, p.record_key, p.folded || p.undone AS calls
         )
         INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, path, operation, result, error, folded)
         SELECT g.shard_key, $1, $4, $5, $6, g.record_key, 'reconcile', 'update', 'superseded', 'the row is gone', g.calls
         FROM gone g WHERE g.calls IS NOT NULL"),
        None,
        &[
            map.id.into(),
            keys.iter().map(|(shard_key, _)| *shard_key).collect::<Vec<_>>().into(),
            keys.iter().map(|(_, record_key)| *record_key).collect::<Vec<_>>().into(),
            connection.name.as_str().into(),
            connection.provider.as_str().into(),
            map.relation.as_str().into(),
        ],
    )?;
    Ok(())
}

/// Milliseconds until the next pending write of a map that can be written; `None` when none waits.
pub fn next_ms(client: &SpiClient, map_id: i32) -> Result<Option<i64>, StoreError> {
    let mut rows = client.select(
        Cached("SELECT (extract(epoch FROM greatest(p.next_attempt_at, now() - interval '1 day') - now()) * 1000)::bigint AS ms
         FROM crm.pending_write p
         WHERE p.map_id = $1 AND p.state = 'queued' AND (
             SELECT l.crm_id FROM crm.ledger l
             WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key) IS NOT NULL
         ORDER BY p.next_attempt_at LIMIT 1"),
        None,
        &[map_id.into()],
    )?;
    rows.next()
        .map_or(Ok(None), |row| row.required("ms").map(Some))
}
