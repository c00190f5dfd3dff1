//! Edits of cells that are checked against the CRM before they are written become pending writes.
//!
//! Guarantees: a record has one pending write at a time; what a later edit sets is added to it, on
//! the base of the first, unless the later one is forced. The snapshot is of the moment of the
//! first: what its caller read, else what the ledger knows, of which ingestion changes nothing
//! while an edit is not folded. The caller of each edit in it is known to the audit.

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::statement::CachedIfFew;
use crate::store::write_back::fold::take::{Record, column};

pub fn fold(client: &mut SpiClient, records: &[Record]) -> Result<(), StoreError> {
    let all: Vec<&Record> = records
        .iter()
        .filter(|r| r.is_checked || r.notes.is_some())
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    client.update(
        CachedIfFew(PEND, all.len()),
        None,
        &[
            column(&all, |r| r.shard_key.as_str()),
            column(&all, |r| r.map_id),
            column(&all, |r| r.record_key.as_str()),
            column(&all, |r| r.cells.as_slice()),
            column(&all, |r| r.checkable.as_deref()),
            column(&all, |r| r.is_checked),
            column(&all, |r| r.is_reinserted),
            column(&all, |r| r.notes.as_deref()),
            column(&all, |r| r.changed_at),
            column(&all, |r| r.actor.as_str()),
        ],
    )?;
    Ok(())
}

/// The base of a cell is what its earliest edit says, and of one that is forced the latest of
/// those. Where a row is inserted over a record that it has, it is what that record held. A call
/// waits for its edit also if that goes with the creation of the record.
const PEND: &str = "WITH record AS MATERIALIZED (
        SELECT r.*, c.writes, crm_internal.cells_and(CASE WHEN r.is_checked THEN r.cells ELSE c.cells END, r.checkable) AS edited
        FROM (SELECT r.shard_key, r.map_id, r.record_key, r.cells, r.checkable, r.is_checked, r.is_reinserted, r.notes::jsonb AS notes,
                     r.changed_at, r.actor
              FROM unnest($1::text[], $2::int[], $3::text[], $4::bytea[], $5::bytea[], $6::bool[], $7::bool[], $8::text[],
                          $9::timestamptz[], $10::text[])
                   AS r (shard_key, map_id, record_key, cells, checkable, is_checked, is_reinserted, notes, changed_at, actor)) r
        CROSS JOIN LATERAL (
            SELECT array_agg((n.note ->> 3)::uuid ORDER BY (n.note ->> 0)::bigint) AS writes, crm_internal.cells_union(decode(n.note ->> 1, 'hex')) AS cells
            FROM jsonb_array_elements(r.notes) AS n (note) WHERE n.note ->> 3 IS NOT NULL) c
    ), edit AS MATERIALIZED (
        SELECT r.shard_key, r.map_id, r.record_key, r.edited, r.writes, r.changed_at, r.actor, b.base, b.intended,
               (SELECT nullif(n.note -> 5, 'null') FROM jsonb_array_elements(r.notes) AS n (note)
                ORDER BY (n.note ->> 0)::bigint LIMIT 1) AS snapshot,
               (SELECT l.hashes FROM crm.ledger l
                WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key) AS hashes,
               (SELECT n.note ->> 4 FROM jsonb_array_elements(r.notes) AS n (note)
                WHERE n.note ->> 4 IS NOT NULL ORDER BY (n.note ->> 0)::bigint DESC LIMIT 1) AS correlation_id
        FROM record r
        CROSS JOIN LATERAL (
                SELECT jsonb_object_agg(b.key, b.value - 'n' ORDER BY b.value ? 'force', b.change_id DESC)
                           FILTER (WHERE r.is_checked OR b.value ? 'force') AS base,
                       jsonb_object_agg(b.key, b.value -> 'n' ORDER BY b.change_id) FILTER (WHERE b.value ? 'n') AS intended
                FROM (SELECT b.key, b.value, (n.note ->> 0)::bigint AS change_id
                      FROM jsonb_array_elements(r.notes) AS n (note), jsonb_each(nullif(n.note -> 2, 'null')) b
                      WHERE crm_internal.cells_has(decode(n.note ->> 1, 'hex'), b.key::int)
                      UNION ALL
                      SELECT f.field_id::text, jsonb_build_object('h', encode(substr(l.hashes, 16 * f.field_id + 1, 16), 'hex')), -1
                      FROM crm.ledger l JOIN crm.field_map f USING (map_id)
                      WHERE r.is_reinserted AND l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key
                        AND f.direction = 'bidirectional' AND crm_internal.cells_has(r.cells, f.field_id)
                        AND substr(l.hashes, 16 * f.field_id + 1, 16) NOT IN ('', decode(repeat('00', 16), 'hex'))) b) b
        WHERE (r.is_checked OR r.writes IS NOT NULL) AND crm_internal.cells_count(r.edited) > 0
    ), revived AS (
        DELETE FROM crm.dead_letter d USING edit e
        WHERE d.path = 'reconcile' AND d.shard_key = e.shard_key AND d.map_id = e.map_id AND d.record_key = e.record_key
    )
    INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, write_id, folded, state, cells, base, intended, snapshot,
                                        snapshot_hashes, created_at, changed_at, actor, correlation_id, revision)
    SELECT e.shard_key, e.map_id, e.record_key,
           CASE WHEN e.writes IS NULL OR EXISTS (SELECT FROM crm.pending_write i WHERE i.shard_key = e.shard_key AND i.write_id = e.writes[1])
                THEN gen_random_uuid() ELSE e.writes[1] END,
           e.writes, 'queued', e.edited, coalesce(e.base, '{}'), e.intended, e.snapshot,
           CASE WHEN e.snapshot IS NULL THEN e.hashes ELSE crm_internal.snapshot_hashes(e.hashes, e.snapshot) END, e.changed_at, e.changed_at, e.actor, e.correlation_id, 1
    FROM edit e
    ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
    SET state = 'queued', cells = crm_internal.cells_or(p.cells, excluded.cells), take = crm_internal.cells_minus(p.take, excluded.cells),
        base = excluded.base || p.base || coalesce(
            (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(excluded.base) b
             -- A cell without an edit has no base, but what was sent of it by a call that was rolled back.
             WHERE b.value ? 'force' OR NOT crm_internal.cells_has(p.cells, b.key::int)), '{}'),
        intended = coalesce(p.intended || excluded.intended, p.intended, excluded.intended),
        -- One that only has the row take cells was no edit.
        snapshot = CASE WHEN p.snapshot_hashes IS NULL OR crm_internal.cells_count(p.cells) = 0 THEN excluded.snapshot ELSE p.snapshot END,
        snapshot_hashes = CASE WHEN p.snapshot_hashes IS NULL OR crm_internal.cells_count(p.cells) = 0 THEN excluded.snapshot_hashes
                               ELSE p.snapshot_hashes END,
        folded = p.folded || excluded.folded,
        changed_at = excluded.changed_at, actor = excluded.actor,
        correlation_id = coalesce(excluded.correlation_id, p.correlation_id),
        revision = p.revision + 1, attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL";
