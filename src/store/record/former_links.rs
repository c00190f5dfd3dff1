//! Links that ended, as long as something that speaks of them may still come in.

use std::collections::HashMap;

use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// How a link ended that a CRM record once had.
pub struct Former {
    pub record_key: String,
    pub ended: Ended,
}

pub enum Ended {
    /// The CRM deleted the record.
    ByCrm,
    /// The row was deleted, or an operator has rejected it.
    ByUs,
    /// Both went, after the CRM was asked.
    JustNow,
}

pub fn former(
    client: &SpiClient,
    map: &Map,
    asked: &str,
    crm_ids: &[&str],
) -> Result<HashMap<String, Former>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT f.crm_id, f.record_key, f.ended_by
             FROM (SELECT f.crm_id, f.record_key, f.ended_by, age(f.xmin) AS age FROM crm.former_link f
                   WHERE f.map_id = $1 AND f.crm_id = ANY ($2)) f
             WHERE f.ended_by <> 'both_deleted'
                OR f.age >= 0 AND NOT pg_visible_in_snapshot((pg_current_xact_id()::text::bigint - f.age)::text::xid8, $3::pg_snapshot)",
        ),
        None,
        &[map.id.into(), crm_ids.to_vec().into(), asked.into()],
    )?;
    let mut former = HashMap::new();
    for row in rows {
        let ended = match row.required::<&str>("ended_by")? {
            "crm_deleted" => Ended::ByCrm,
            "both_deleted" => Ended::JustNow,
            _ => Ended::ByUs,
        };
        let record_key = row.required("record_key")?;
        former.insert(row.required("crm_id")?, Former { record_key, ended });
    }
    Ok(former)
}

/// How a statement ends that deletes rows of the ledger, `known`, whose records went too: what was
/// read of these before may still be in flight.
pub const BOTH_WENT: &str = "INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
    SELECT k.shard_key, k.map_id, k.crm_id, k.record_key, 'both_deleted' FROM known k JOIN crm.object_map m USING (map_id)
    WHERE k.crm_id IS NOT NULL AND m.on_crm_insert = 'insert'
    ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now()";

/// Deletes what no response in flight can mention any more.
pub fn prune_former(client: &mut SpiClient) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.former_link WHERE ended_by = 'both_deleted' AND ended_at < now() - interval '1 day'"),
        None,
        &[],
    )?;
    Ok(())
}
