//! Records that were deleted on both sides.

use crm_domain::Operation;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::outcome::Outcome;
use crate::store::record::former_links::BOTH_WENT;
use crate::store::record::remove;
use crate::store::write_back::outcome::Settled;

/// A record that was deleted on both sides leaves the ledger.
pub fn delete_gone(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<(), StoreError> {
    let is_unlinked = |r: &Settled| matches!(r.outcome, Outcome::Unlinked { .. });
    // The CRM deleted it, and so did an edit that was folded meanwhile.
    let unlinked: Vec<&&Settled> = records.iter().filter(|r| is_unlinked(r)).collect();
    if !unlinked.is_empty() {
        let shard_keys: Vec<&str> = unlinked.iter().map(|r| r.shard_key.as_str()).collect();
        let record_keys: Vec<&str> = unlinked.iter().map(|r| r.record_key.as_str()).collect();
        client.update(
            "WITH void AS (
                 DELETE FROM crm.queue q USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
                 WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key AND q.op = 'd'
                 RETURNING q.shard_key, q.record_key
             )
             DELETE FROM crm.ledger l USING void v
             WHERE l.shard_key = v.shard_key AND l.map_id = $1 AND l.record_key = v.record_key",
            None,
            &[map.id.into(), shard_keys.into(), record_keys.into()],
        )?;
    }
    for r in records.iter().filter(|r| r.row_gone) {
        remove::forget(client, map, &r.shard_key, &r.record_key)?;
    }
    let gone: Vec<&&Settled> = records
        .iter()
        .filter(|r| {
            r.operation == Operation::Delete && (r.outcome == Outcome::Applied || is_unlinked(r))
        })
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let shard_keys: Vec<&str> = gone.iter().map(|r| r.shard_key.as_str()).collect();
    let record_keys: Vec<&str> = gone.iter().map(|r| r.record_key.as_str()).collect();
    client.update(
        &format!("WITH known AS (
             DELETE FROM crm.ledger l USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND NOT EXISTS (
                 SELECT FROM crm.queue q WHERE q.shard_key = l.shard_key AND q.map_id = $1 AND q.record_key = l.record_key)
             RETURNING l.shard_key, l.map_id, l.crm_id, l.record_key
         ) {BOTH_WENT}"),
        None,
        &[map.id.into(), shard_keys.clone().into(), record_keys.clone().into()],
    )?;
    // What was to be decided about the CRM record needs no decision any more. Neither do edits,
    // unless the row was inserted again.
    client.update(
        "WITH gone AS (
             SELECT r.shard_key, r.record_key, l.record_key IS NULL AS wholly FROM unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             LEFT JOIN crm.ledger l ON l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
         ), edits AS (
             DELETE FROM crm.pending_write p USING gone g
             WHERE g.wholly AND p.shard_key = g.shard_key AND p.map_id = $1 AND p.record_key = g.record_key AND p.state IN ('queued', 'dead')
         ), letters AS (
             DELETE FROM crm.dead_letter d USING gone g
             WHERE g.wholly AND d.shard_key = g.shard_key AND d.map_id = $1 AND d.record_key = g.record_key
         )
         DELETE FROM crm.conflict c USING gone g
         WHERE c.shard_key = g.shard_key AND c.map_id = $1 AND c.record_key = g.record_key",
        None,
        &[map.id.into(), shard_keys.clone().into(), record_keys.clone().into()],
    )?;
    // Inserted again meanwhile: it has no CRM record any more and is created or waits for a link.
    client.update(
        "WITH left_over AS (
             UPDATE crm.ledger l SET crm_id = NULL, hashes = NULL, synced_at = NULL, detached = false
             FROM unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
             RETURNING l.shard_key, l.record_key
         )
         UPDATE crm.queue q
         SET op = 'c', next_attempt_at = '-infinity',
             state = CASE m.on_insert WHEN 'create' THEN 'queued' ELSE 'unlinked' END,
             cells = CASE m.on_insert WHEN 'create' THEN crm_internal.map_cells(m.map_id) ELSE q.cells END
         FROM left_over l, crm.object_map m
         WHERE q.shard_key = l.shard_key AND q.map_id = $1 AND q.record_key = l.record_key AND m.map_id = $1",
        None,
        &[map.id.into(), shard_keys.into(), record_keys.into()],
    )?;
    Ok(())
}
