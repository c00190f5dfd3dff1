//! A row of changes that cannot be folded is put aside, so that the others can be.
//!
//! Guarantees: no edit is lost. The record of a row that is put aside becomes a dead letter, and is
//! written as a whole once that is replayed. One whose row is gone, or has left the filter, is
//! deleted only where the map says so.

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::write_back::fold::{Place, deletions, take};

/// Takes a row of changes that cannot be folded out of the way. One that names several records is
/// parted, so that each can be tried by itself; that of one record becomes a dead letter, and its
/// record is written anew as a whole once it is replayed.
pub fn put_aside(client: &mut SpiClient, at: &Place, error: &str) -> Result<(), StoreError> {
    let place = [at.0.as_str().into(), at.1.into()];
    // What comes first of its shard has room before it.
    let parted = client.update(
        "WITH whole AS (
             SELECT ctid AS place, record_keys, cardinality(record_keys) / 2 AS half FROM crm.change c
             WHERE shard_key = $1 AND change_id = $2 AND cardinality(record_keys) > 1
               AND NOT EXISTS (SELECT FROM crm.change e WHERE e.shard_key = $1 AND e.change_id < $2) FOR UPDATE
         ), rest AS (
             UPDATE crm.change c SET record_keys = w.record_keys[w.half + 1:] FROM whole w WHERE c.ctid = w.place
             RETURNING c.*, w.record_keys[:w.half] AS first
         )
         INSERT INTO crm.change (shard_key, change_id, map_id, record_keys, op, cells, base, write_id, changed_at, actor, correlation_id, snapshot)
         OVERRIDING SYSTEM VALUE
         SELECT shard_key, change_id - 1, map_id, first, op, cells, base, write_id, changed_at, actor, correlation_id, snapshot FROM rest",
        None,
        &place,
    )?;
    if !parted.is_empty() {
        return Ok(());
    }
    client.update(
        "INSERT INTO crm.ledger (shard_key, map_id, record_key)
         SELECT c.shard_key, c.map_id, k FROM crm.change c JOIN crm.object_map m USING (map_id), unnest(c.record_keys) AS k
         WHERE c.shard_key = $1 AND c.change_id = $2 ORDER BY k
         ON CONFLICT DO NOTHING",
        None,
        &place,
    )?;
    let mut gone = Vec::new();
    for row in client.update(GONE, None, &place)? {
        gone.push(take::record(row.required("record_key")?, &row)?);
    }
    deletions::fold(client, &gone)?;
    let [shard_key, change_id] = [at.0.as_str().into(), at.1.into()];
    client.update(PUT_ASIDE, None, &[shard_key, change_id, error.into()])?;
    Ok(())
}

/// The records whose rows are gone, as [`take`] tells them, but for what the change notes.
const GONE: &str = "SELECT g.*, g.deletes AND g.crm_id IS NOT NULL AS deletes_record, g.keeps AND g.crm_id IS NOT NULL AS keeps_record,
            g.deletes OR g.op IN ('d', 'x') AS is_given_up, NULL::text AS notes, true AS is_deleted, g.op = 'x' AS is_unjudged, false AS is_reinserted, false AS creates,
            false AS is_checked, true AS writes, NULL::bytea AS unchecked, NULL::bytea AS queued, NULL::bytea AS checkable
     FROM (SELECT l.shard_key, l.map_id, l.record_key, l.crm_id, l.place, c.op, c.cells, c.changed_at, c.actor, c.correlation_id,
                  CASE WHEN c.op IN ('d', 'x') THEN m.on_delete = 'delete'
                       WHEN c.op = 'l' THEN m.on_filter_out = 'delete'
                       ELSE EXISTS (SELECT FROM crm.queue q WHERE q.shard_key = l.shard_key AND q.map_id = l.map_id
                                                                   AND q.record_key = l.record_key AND q.op = 'd') END AS deletes,
                  c.op = 'l' AND m.on_filter_out = 'ignore' AS keeps
           FROM crm.change c JOIN crm.object_map m USING (map_id), unnest(c.record_keys) AS k, LATERAL (
               SELECT l.ctid AS place, l.* FROM crm.ledger l
               WHERE l.shard_key = c.shard_key AND l.map_id = c.map_id AND l.record_key = k FOR UPDATE) l
           WHERE c.shard_key = $1 AND c.change_id = $2 AND c.op NOT IN ('i', 'u')) g";

/// Of records whose rows are gone, those are in the ledger still that are to be deleted, and those
/// that stay linked.
const PUT_ASIDE: &str = "WITH change AS (
         DELETE FROM crm.change WHERE shard_key = $1 AND change_id = $2 RETURNING *
     ), locked AS MATERIALIZED (
         SELECT l.shard_key, l.map_id, l.record_key, l.crm_id, l.hashes, l.ctid AS place
         FROM change c, unnest(c.record_keys) AS k, LATERAL (
             SELECT ctid, * FROM crm.ledger l WHERE l.shard_key = c.shard_key AND l.map_id = c.map_id AND l.record_key = k FOR UPDATE) l
     ), record AS MATERIALIZED (
         SELECT l.*, c.op NOT IN ('i', 'u') AS deleted, c.op = 'l' AND o.on_filter_out = 'ignore' AS keeps, c.actor, c.correlation_id, c.write_id,
                CASE WHEN l.crm_id IS NOT NULL AND c.op IN ('i', 'u') THEN k.cells END AS checked,
                CASE WHEN l.crm_id IS NULL OR k.cells IS NULL THEN m.cells ELSE crm_internal.cells_minus(m.cells, k.cells) END AS written
         FROM locked l, change c JOIN crm.object_map o USING (map_id), LATERAL (SELECT crm_internal.map_cells(c.map_id) AS cells) m,
              LATERAL (SELECT crm_internal.checked_cells(c.map_id) AS cells) k
     ), queued AS (
         INSERT INTO crm.queue AS q (shard_key, map_id, record_key, state, op, cells, place, actor, correlation_id, error_class, last_error)
         SELECT shard_key, map_id, record_key, 'dead', (CASE WHEN deleted THEN 'd' WHEN crm_id IS NULL THEN 'c' ELSE 'u' END)::\"char\",
                CASE WHEN NOT deleted THEN written END, place, actor, correlation_id, 'internal', $3
         FROM record WHERE CASE WHEN deleted THEN NOT keeps ELSE crm_internal.cells_count(written) > 0 END
         ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
         SET state = 'dead', op = excluded.op, cells = excluded.cells, revision = excluded.revision, error_class = 'internal', last_error = $3
         RETURNING q.shard_key, q.map_id, q.record_key, q.op, q.actor, q.correlation_id
     ), pending AS (
         INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, state, cells, snapshot_hashes, actor, correlation_id, folded, error_class,
                                             last_error, revision)
         SELECT shard_key, map_id, record_key, 'dead', checked, hashes, actor, correlation_id, CASE WHEN write_id IS NOT NULL THEN ARRAY[write_id] END, 'internal', $3, 1
         FROM record WHERE crm_internal.cells_count(checked) > 0
         ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
         SET state = 'dead', cells = crm_internal.cells_or(p.cells, excluded.cells), folded = p.folded || excluded.folded, error_class = 'internal',
             last_error = $3, revision = p.revision + 1
         RETURNING p.shard_key, p.map_id, p.record_key, 'u'::\"char\" AS op, p.actor, p.correlation_id
     ), letter AS (
         INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, path, crm_id, operation, error_class, vendor_code, error, attempts, actor,
                                           correlation_id)
         SELECT x.shard_key, x.map_id, x.record_key, x.path, r.crm_id,
                CASE x.op WHEN 'd' THEN 'delete' WHEN 'c' THEN 'create' ELSE 'update' END, 'internal', 'fold', $3, 1, x.actor, x.correlation_id
         FROM (SELECT *, 'batch' AS path FROM queued UNION ALL SELECT *, 'reconcile' FROM pending) x
         JOIN record r USING (shard_key, map_id, record_key)
         ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
         SET operation = excluded.operation, error_class = excluded.error_class, vendor_code = excluded.vendor_code, error = excluded.error,
             died_at = now()
         RETURNING d.*
     )
     INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, crm_id, path, operation, result, error_class,
                                vendor_code, error, actor, correlation_id)
     SELECT l.shard_key, l.map_id, n.name, n.provider, m.relation::text, l.record_key, l.crm_id, l.path, l.operation, 'dead', l.error_class,
            l.vendor_code, l.error, l.actor, l.correlation_id
     FROM letter l JOIN crm.object_map m USING (map_id) JOIN crm.connection n USING (connection_id)";
