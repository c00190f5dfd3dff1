//! What the ledger says of records whose rows are compared or pushed.

use std::collections::HashMap;

use crm_domain::cells::CellHashes;
use crm_domain::conflict::ShortHash;
use crm_domain::mapping::OnInsert;
use crm_domain::{Cells, hex};
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// What the ledger says of a record.
pub struct Known {
    pub hashes: Vec<u8>,
    /// Cells that should equal the CRM's, since nothing waits for them.
    pub at_rest: Cells,
    /// Hashes of values that the CRM keeps in a form of its own.
    pub forms: HashMap<u16, ShortHash>,
}

impl Known {
    pub fn hash(&self, id: u16) -> Option<&[u8]> {
        CellHashes(&self.hashes).get(id)
    }

    pub fn is_in_step(&self, id: u16, hash: &ShortHash) -> bool {
        self.hash(id) == Some(&hash[..]) || self.forms.get(&id) == Some(hash)
    }
}

/// What the ledger says of these records; `None`: nothing.
pub fn known(
    client: &mut SpiClient,
    map: &Map,
    keys: &[Key],
) -> Result<Vec<Option<Known>>, StoreError> {
    let written = map.cells(|f| f.written);
    let rows = client.update(
        Cached(
            "SELECT l.record_key IS NOT NULL AS is_known, coalesce(l.crm_id IS NOT NULL AND NOT l.detached, false) AS is_linked, l.hashes,
                    ARRAY(SELECT (s.ord - 1)::smallint FROM unnest(l.synced_at) WITH ORDINALITY AS s (at, ord) WHERE s.at > '-infinity') AS synced,
                    (SELECT crm_internal.cells_union(x.cells)
                     FROM (SELECT CASE WHEN q.cells IS NULL THEN crm_internal.map_cells($1) ELSE q.cells END AS cells FROM crm.queue q
                           WHERE q.shard_key = k.shard_key AND q.map_id = $1 AND q.record_key = k.record_key
                           UNION ALL
                           SELECT crm_internal.cells_or(p.cells, coalesce(p.take, p.cells)) FROM crm.pending_write p
                           WHERE p.shard_key = k.shard_key AND p.map_id = $1 AND p.record_key = k.record_key
                           UNION ALL
                           SELECT c.cells FROM crm.change c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_keys[1] = k.record_key
                             AND (c.base IS NOT NULL OR c.write_id IS NOT NULL)
                           UNION ALL
                           SELECT crm_internal.cell_mask(c.field_id) FROM crm.conflict c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_key = k.record_key AND c.field_id >= 0) x) AS waits,
                    f.fields, f.sent
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             -- OFFSET 0: looked up one by one, whatever is known of the table.
             LEFT JOIN LATERAL (SELECT * FROM crm.ledger l
                                WHERE l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key OFFSET 0) l ON true
             LEFT JOIN LATERAL (SELECT array_agg(o.field_id) AS fields, array_agg(encode(o.sent, 'hex')) AS sent FROM crm.overwritten_cell o
                                WHERE o.map_id = $1 AND o.crm_id = l.crm_id AND o.is_stored_form
                                  AND o.held = substr(l.hashes, 16 * o.field_id + 1, 16)) f ON true
             ORDER BY k.ord",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut known = Vec::with_capacity(keys.len());
    for row in rows {
        if !row.required::<bool>("is_known")? {
            known.push(None);
            continue;
        }
        let hashes = row
            .optional::<&[u8]>("hashes")?
            .unwrap_or_default()
            .to_vec();
        let synced: Vec<i16> = row.required("synced")?;
        let waits = Cells::from_bytes(row.optional::<&[u8]>("waits")?.unwrap_or_default());
        let is_linked = row.required::<bool>("is_linked")?;
        let at_rest = |id: &u16| {
            is_linked
                && written.contains(*id)
                && !waits.contains(*id)
                && CellHashes(&hashes).get(*id).is_some()
        };
        let at_rest = synced.iter().map(|id| *id as u16).filter(at_rest).collect();
        let fields: Vec<i16> = row.optional("fields")?.unwrap_or_default();
        let sent: Vec<String> = row.optional("sent")?.unwrap_or_default();
        let forms = fields
            .iter()
            .zip(sent)
            .filter_map(|(id, sent)| Some((*id as u16, hex::decode(&sent)?)));
        known.push(Some(Known {
            forms: forms.collect(),
            at_rest,
            hashes,
        }));
    }
    Ok(known)
}

/// What becomes of a row's CRM record when the row is pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Created,
    Updated,
    /// It has no CRM record and gets none.
    Skipped,
}

/// What a push makes of each of these rows, and the hashes of what its CRM record holds.
pub fn fates(
    client: &mut SpiClient,
    map: &Map,
    keys: &[Key],
) -> Result<Vec<(Fate, Vec<u8>)>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT l.crm_id IS NOT NULL AS is_linked, coalesce(l.detached, false) AS is_detached, l.hashes
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             -- OFFSET 0: looked up one by one, whatever is known of the table.
             LEFT JOIN LATERAL (SELECT * FROM crm.ledger l
                                WHERE l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key OFFSET 0) l ON true
             ORDER BY k.ord",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut fates = Vec::with_capacity(keys.len());
    for row in rows {
        let fate = match (row.required("is_linked")?, row.required("is_detached")?) {
            (true, _) => Fate::Updated,
            (false, false) if map.on_insert == OnInsert::Create => Fate::Created,
            (false, _) => Fate::Skipped,
        };
        fates.push((fate, row.optional("hashes")?.unwrap_or_default()));
    }
    Ok(fates)
}
