//! Committed changes become queued work: `crm.change` is folded into `crm.ledger`, a slice at a time.
//!
//! A record whose ledger row somebody holds is left for the next fold, with all of its changes, so its order is kept.

use pgrx::spi::SpiClient;

use super::StoreError;

/// Folds at most `rows` changes; returns how many it took. Fewer than `rows` means that no more can be had now.
pub fn fold(client: &mut SpiClient, rows: usize) -> Result<usize, StoreError> {
    let mut taken = 0;
    let result = client.update(
        "WITH slice AS MATERIALIZED (
             SELECT ctid AS place, shard_key, map_id, record_key, change_id, op, cells, base, write_id, changed_at, actor, correlation_id
             FROM crm.change ORDER BY shard_key, change_id LIMIT $1 FOR UPDATE SKIP LOCKED
         ), checked AS MATERIALIZED (
             SELECT map_id, crm.checked_cells(map_id) AS cells FROM (SELECT DISTINCT map_id FROM slice) m
         ), record AS MATERIALIZED (
             SELECT shard_key, map_id, record_key, crm.cells_union(cells) AS cells, max(changed_at) AS changed_at,
                    coalesce(max(change_id) FILTER (WHERE op = 'd') = max(change_id), false) AS deleted,
                    max(actor) AS actor
             FROM slice GROUP BY shard_key, map_id, record_key
         ), held AS MATERIALIZED (
             SELECT l.* FROM (SELECT shard_key, map_id, record_key FROM record ORDER BY 1, 2, 3) r,
                 LATERAL (SELECT l.shard_key, l.map_id, l.record_key, l.crm_id, l.state, l.detached FROM crm.ledger l
                          WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key
                          FOR UPDATE SKIP LOCKED) l
         ), known AS MATERIALIZED (
             SELECT r.*, h.crm_id, h.state AS old_state,
                    m.on_insert = 'create' AND NOT coalesce(h.detached, false) AS creates, m.on_delete,
                    -- A record that the CRM does not have is created as a whole: there is nothing to check it against.
                    CASE WHEN h.crm_id IS NOT NULL OR m.on_insert <> 'create' OR coalesce(h.detached, false) THEN c.cells END AS checked
             FROM record r
             JOIN checked c USING (map_id)
             LEFT JOIN held h USING (shard_key, map_id, record_key)
             LEFT JOIN crm.object_map m USING (map_id)
             WHERE h.record_key IS NOT NULL
                OR (SELECT 1 FROM crm.ledger l
                    WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key) IS NULL
         ), work AS MATERIALIZED (
             SELECT k.*, CASE WHEN checked IS NULL OR deleted THEN true
                              ELSE crm.cells_count(crm.cells_minus(cells, checked)) > 0 END AS writes
             FROM known k
         ), whole AS MATERIALIZED (
             SELECT map_id, crm.map_cells(map_id) AS cells
             FROM (SELECT DISTINCT map_id FROM work WHERE crm_id IS NULL AND creates) m
         ), edit AS MATERIALIZED (
             SELECT w.shard_key, w.map_id, w.record_key, w.changed_at, w.actor, crm.cells_and(w.cells, w.checked) AS cells,
                    (SELECT jsonb_object_agg(b.key, b.value ORDER BY s.change_id DESC) FROM slice s, jsonb_each(s.base) b
                     WHERE s.shard_key = w.shard_key AND s.map_id = w.map_id AND s.record_key = w.record_key) AS base,
                    (SELECT array_agg(s.write_id ORDER BY s.change_id) FROM slice s
                     WHERE s.shard_key = w.shard_key AND s.map_id = w.map_id AND s.record_key = w.record_key
                       AND s.write_id IS NOT NULL) AS writes,
                    (SELECT s.correlation_id FROM slice s
                     WHERE s.shard_key = w.shard_key AND s.map_id = w.map_id AND s.record_key = w.record_key
                       AND s.correlation_id IS NOT NULL ORDER BY s.change_id DESC LIMIT 1) AS correlation_id
             FROM work w WHERE w.checked IS NOT NULL AND NOT w.deleted AND crm.cells_count(crm.cells_and(w.cells, w.checked)) > 0
         ), revived AS (
             DELETE FROM crm.dead_letter d USING work w
             WHERE w.old_state = 'dead' AND w.writes AND d.path = 'batch'
               AND d.shard_key = w.shard_key AND d.map_id = w.map_id AND d.record_key = w.record_key
         ), revived_edits AS (
             DELETE FROM crm.dead_letter d USING edit e
             WHERE d.path = 'reconcile' AND d.shard_key = e.shard_key AND d.map_id = e.map_id AND d.record_key = e.record_key
         ), gone AS (
             DELETE FROM crm.ledger l USING work w
             WHERE w.deleted AND (w.on_delete <> 'delete' OR w.crm_id IS NULL)
               AND l.shard_key = w.shard_key AND l.map_id = w.map_id AND l.record_key = w.record_key
         ), gone_edits AS (
             DELETE FROM crm.pending_write p USING work w
             WHERE w.deleted AND p.state IN ('queued', 'dead')
               AND p.shard_key = w.shard_key AND p.map_id = w.map_id AND p.record_key = w.record_key
         ), gone_conflicts AS (
             DELETE FROM crm.conflict c USING work w
             WHERE w.deleted AND c.shard_key = w.shard_key AND c.map_id = w.map_id AND c.record_key = w.record_key
         ), folded AS (
             INSERT INTO crm.ledger AS l (shard_key, map_id, record_key, state, op, cells, changed_at, actor, revision)
             SELECT shard_key, map_id, record_key,
                    CASE WHEN crm_id IS NOT NULL OR creates THEN 'queued' ELSE 'unlinked' END,
                    CASE WHEN deleted THEN 'd' WHEN crm_id IS NULL THEN 'c' ELSE 'u' END::\"char\",
                    CASE WHEN deleted THEN NULL
                         WHEN crm_id IS NULL AND creates THEN crm.cells_or(w.cells, a.cells)
                         WHEN checked IS NULL THEN w.cells ELSE crm.cells_minus(w.cells, checked) END,
                    crm.cells_stamp(NULL, CASE WHEN checked IS NULL THEN w.cells ELSE crm.cells_minus(w.cells, checked) END, changed_at),
                    actor, 1
             FROM work w
             LEFT JOIN whole a USING (map_id)
             WHERE NOT (deleted AND (on_delete <> 'delete' OR crm_id IS NULL)) AND on_delete IS NOT NULL AND writes
             ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
             SET state = excluded.state, op = excluded.op, revision = l.revision + 1, actor = excluded.actor,
                 cells = CASE WHEN excluded.op = 'd' THEN NULL WHEN l.cells IS NULL THEN excluded.cells
                              ELSE crm.cells_or(l.cells, excluded.cells) END,
                 changed_at = CASE WHEN l.changed_at IS NULL THEN excluded.changed_at
                                   ELSE crm.cells_merge(l.changed_at, excluded.changed_at) END,
                 attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL
         ), met AS (
             -- A record of which only checked cells changed still needs its row: its lock is the record's.
             INSERT INTO crm.ledger (shard_key, map_id, record_key)
             SELECT shard_key, map_id, record_key FROM work
             WHERE NOT writes AND old_state IS NULL AND on_delete IS NOT NULL
             ON CONFLICT DO NOTHING
         ), pended AS (
             INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, write_id, folded, state, cells, base, changed_at, actor,
                                                 correlation_id, revision)
             SELECT e.shard_key, e.map_id, e.record_key,
                    CASE WHEN e.writes IS NULL OR EXISTS (SELECT FROM crm.pending_write i
                                                          WHERE i.shard_key = e.shard_key AND i.write_id = e.writes[1])
                         THEN gen_random_uuid() ELSE e.writes[1] END,
                    e.writes, 'queued', e.cells, coalesce(e.base, '{}'), e.changed_at, e.actor, e.correlation_id, 1
             FROM edit e JOIN crm.object_map m USING (map_id)
             ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
             SET state = 'queued', cells = crm.cells_or(p.cells, excluded.cells), take = crm.cells_minus(p.take, excluded.cells),
                 base = excluded.base || p.base, folded = coalesce(p.folded, '{}') || coalesce(excluded.folded, '{}'),
                 changed_at = excluded.changed_at, actor = excluded.actor,
                 correlation_id = coalesce(excluded.correlation_id, p.correlation_id),
                 revision = p.revision + 1, attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL
         ), deleted AS (
             DELETE FROM crm.change c
             WHERE c.ctid = ANY (ARRAY(SELECT s.place FROM slice s JOIN work w USING (shard_key, map_id, record_key)))
             RETURNING 1
         )
         SELECT count(*) FROM deleted",
        None,
        &[(rows as i64).into()],
    )?;
    for row in result {
        taken = row.get::<i64>(1)?.unwrap_or_default() as usize;
    }
    Ok(taken)
}
