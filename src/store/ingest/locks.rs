//! Records that are to be settled, locked, with what is at work on them.

use std::collections::{HashMap, HashSet};

use crm_domain::Cells;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::reconcile::pending_writes;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// A record whose ledger row is ours until the transaction ends.
pub(super) struct Locked {
    pub crm_id: Option<String>,
    pub hashes: Vec<u8>,
    /// Cells in which both sides once held the same, of a record that is not the one they did it
    /// with.
    pub synced: Cells,
    /// Cells in which both sides held the same, of the record that it is linked to.
    pub agreed: Cells,
    /// Nothing happened to it since the CRM was asked, and no call of `crm.write()` is under way.
    pub is_settled: bool,
    /// Something waits to be written back.
    pub is_queued: bool,
    /// Cells that wait to be written back, whatever the CRM holds.
    pub queued: Cells,
    /// Cells with edits that the reconciler has to settle.
    pub edited: Cells,
    /// Cells that wait for a person.
    pub disputed: Cells,
}

/// Locks the records that nobody else holds, by place.
///
/// A record changed since a moment if the transaction that wrote its ledger row had not ended by
/// then. Rows older than the numbering of transactions reaches are older than any moment. What this
/// transaction wrote itself, a link, is new by our own doing.
pub(super) fn lock(
    client: &mut SpiClient,
    map: &Map,
    asked: &str,
    keys: &[&Key],
) -> Result<HashMap<usize, Locked>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT k.ord - 1 AS ord, l.crm_id, l.hashes,
                    (l.age <= 0 OR pg_visible_in_snapshot((pg_current_xact_id()::text::bigint - l.age)::text::xid8, $4::pg_snapshot))
                    AND NOT EXISTS (SELECT FROM crm.pending_write p
                                    WHERE p.shard_key = k.shard_key AND p.map_id = $1 AND p.record_key = k.record_key
                                      AND p.state IN ('sending', 'landed', 'failed')) AS is_settled,
                    EXISTS (SELECT FROM crm.queue q
                            WHERE q.shard_key = k.shard_key AND q.map_id = $1 AND q.record_key = k.record_key AND q.state = 'queued') AS is_queued,
                    (SELECT crm_internal.cells_union(x.cells)
                     FROM (SELECT crm_internal.cells_or(p.cells, coalesce(p.take, p.cells)) AS cells FROM crm.pending_write p
                           WHERE p.shard_key = k.shard_key AND p.map_id = $1 AND p.record_key = k.record_key AND p.state IN ('queued', 'dead')
                           UNION ALL
                           SELECT c.cells FROM crm.change c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_keys[1] = k.record_key
                             AND (c.base IS NOT NULL OR c.write_id IS NOT NULL)) x) AS edited,
                    ARRAY(SELECT c.field_id FROM crm.conflict c
                          WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_key = k.record_key AND c.field_id >= 0) AS disputed,
                    ARRAY(SELECT s.ord::smallint - 1 FROM unnest(l.synced_at) WITH ORDINALITY AS s (at, ord)
                          WHERE s.at IS NOT NULL)::smallint[] AS agreed,
                    (SELECT q.cells FROM crm.queue q
                     WHERE q.shard_key = k.shard_key AND q.map_id = $1 AND q.record_key = k.record_key AND q.state = 'queued') AS queued
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord),
                  LATERAL (SELECT l.crm_id, l.hashes, l.synced_at, age(l.xmin) AS age FROM crm.ledger l
                           WHERE l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key
                           FOR UPDATE SKIP LOCKED) l",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
            asked.into(),
        ],
    )?;
    let mut locked = HashMap::with_capacity(rows.len());
    for row in rows {
        let disputed: Vec<i16> = row.required("disputed")?;
        let agreed: Vec<i16> = row.required("agreed")?;
        let agreed = agreed.into_iter().map(|id| id as u16).collect();
        let hashes = row.optional::<&[u8]>("hashes")?;
        let (synced, agreed) = match hashes {
            None => (agreed, Cells::new()),
            Some(_) => (Cells::new(), agreed),
        };
        let record = Locked {
            crm_id: row.optional("crm_id")?,
            hashes: hashes.unwrap_or_default().to_vec(),
            synced,
            agreed,
            is_settled: row.required("is_settled")?,
            is_queued: row.required("is_queued")?,
            queued: Cells::from_bytes(row.optional::<&[u8]>("queued")?.unwrap_or_default()),
            edited: Cells::from_bytes(row.optional::<&[u8]>("edited")?.unwrap_or_default()),
            disputed: disputed.into_iter().map(|id| id as u16).collect(),
        };
        locked.insert(row.number("ord")?, record);
    }
    Ok(locked)
}

/// Those of these records that have edits which are not folded yet.
pub(super) fn unfolded(
    client: &SpiClient,
    map: &Map,
    keys: &[&Key],
) -> Result<HashSet<Key>, StoreError> {
    let keys: Vec<(&str, &str)> = keys.iter().map(|key| key.parts()).collect();
    let edited = pending_writes::edited_since(client, map, &keys)?.into_iter();
    let key = |(shard_key, record_key)| Key {
        shard_key,
        record_key,
    };
    Ok(edited.map(key).collect())
}
