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
             SELECT ctid AS place, shard_key, map_id, record_key, change_id, op, cells, changed_at, actor
             FROM crm.change ORDER BY shard_key, change_id LIMIT $1 FOR UPDATE SKIP LOCKED
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
         ), work AS MATERIALIZED (
             SELECT r.*, h.crm_id, h.state AS old_state,
                    m.on_insert = 'create' AND NOT coalesce(h.detached, false) AS creates, m.on_delete
             FROM record r
             LEFT JOIN held h USING (shard_key, map_id, record_key)
             LEFT JOIN crm.object_map m USING (map_id)
             WHERE h.record_key IS NOT NULL
                OR (SELECT 1 FROM crm.ledger l
                    WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key) IS NULL
         ), whole AS MATERIALIZED (
             SELECT map_id, crm.map_cells(map_id) AS cells
             FROM (SELECT DISTINCT map_id FROM work WHERE crm_id IS NULL AND creates) m
         ), revived AS (
             DELETE FROM crm.dead_letter d USING work w
             WHERE w.old_state = 'dead' AND d.shard_key = w.shard_key AND d.map_id = w.map_id AND d.record_key = w.record_key
         ), gone AS (
             DELETE FROM crm.ledger l USING work w
             WHERE w.deleted AND (w.on_delete <> 'delete' OR w.crm_id IS NULL)
               AND l.shard_key = w.shard_key AND l.map_id = w.map_id AND l.record_key = w.record_key
         ), folded AS (
             INSERT INTO crm.ledger AS l (shard_key, map_id, record_key, state, op, cells, changed_at, actor, revision)
             SELECT shard_key, map_id, record_key,
                    CASE WHEN crm_id IS NOT NULL OR creates THEN 'queued' ELSE 'unlinked' END,
                    CASE WHEN deleted THEN 'd' WHEN crm_id IS NULL THEN 'c' ELSE 'u' END::\"char\",
                    CASE WHEN deleted THEN NULL
                         WHEN crm_id IS NULL AND creates THEN crm.cells_or(w.cells, a.cells) ELSE w.cells END,
                    crm.cells_stamp(NULL, w.cells, changed_at), actor, 1
             FROM work w
             LEFT JOIN whole a USING (map_id)
             WHERE NOT (deleted AND (on_delete <> 'delete' OR crm_id IS NULL)) AND on_delete IS NOT NULL
             ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
             SET state = excluded.state, op = excluded.op, revision = l.revision + 1, actor = excluded.actor,
                 cells = CASE WHEN excluded.op = 'd' THEN NULL WHEN l.cells IS NULL THEN excluded.cells
                              ELSE crm.cells_or(l.cells, excluded.cells) END,
                 changed_at = CASE WHEN l.changed_at IS NULL THEN excluded.changed_at
                                   ELSE crm.cells_merge(l.changed_at, excluded.changed_at) END,
                 attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL
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
