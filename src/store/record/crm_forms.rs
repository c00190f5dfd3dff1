//! Cells in which row and CRM record agree although they differ: each holds its own form of one
//! value.
//!
//! The ledger knows what the CRM holds; `crm.overwritten_cell` knows what the row does, for as long
//! as the CRM holds that. Once the ledger says something else, an entry counts for nothing.

use std::collections::BTreeMap;

use crm_domain::conflict::ShortHash;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::statement::Cached;

/// A cell whose forms differ.
pub struct CrmForm<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub field_id: u16,
    /// What the row holds.
    pub row: ShortHash,
    /// What the CRM holds.
    pub crm: ShortHash,
}

/// The cells of one record by field_id: what the row holds, and what the CRM does.
pub fn of<'a>(
    (shard_key, record_key): (&'a str, &'a str),
    forms: &'a BTreeMap<u16, (ShortHash, ShortHash)>,
) -> impl Iterator<Item = CrmForm<'a>> {
    forms.iter().map(move |(id, (row, crm))| CrmForm {
        shard_key,
        record_key,
        field_id: *id,
        row: *row,
        crm: *crm,
    })
}

/// Remembers both forms of cells whose records are linked.
pub fn remember(client: &mut SpiClient, map: &Map, forms: &[CrmForm]) -> Result<(), StoreError> {
    if forms.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(
            "INSERT INTO crm.overwritten_cell (map_id, crm_id, field_id, sent, held, is_stored_form)
             SELECT $1, l.crm_id, f.field_id, f.sent, f.held, true
             FROM unnest($2::text[], $3::text[], $4::smallint[], $5::bytea[], $6::bytea[]) AS f (shard_key, record_key, field_id, sent, held),
                  LATERAL (SELECT l.crm_id FROM crm.ledger l
                           WHERE l.shard_key = f.shard_key AND l.map_id = $1 AND l.record_key = f.record_key OFFSET 0) l
             WHERE l.crm_id IS NOT NULL
             ON CONFLICT (map_id, crm_id, field_id) DO UPDATE SET sent = excluded.sent, held = excluded.held, is_stored_form = true",
        ),
        None,
        &[
            map.id.into(),
            forms.iter().map(|f| f.shard_key).collect::<Vec<_>>().into(),
            forms.iter().map(|f| f.record_key).collect::<Vec<_>>().into(),
            forms.iter().map(|f| f.field_id as i16).collect::<Vec<_>>().into(),
            forms.iter().map(|f| f.row.to_vec()).collect::<Vec<_>>().into(),
            forms.iter().map(|f| f.crm.to_vec()).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}
