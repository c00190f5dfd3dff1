//! Records that were created with a default where their rows have nothing: the rows take it, where
//! the field flows in as well.

use crm_domain::Operation;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::outcome::Outcome;
use crate::store::statement::Cached;
use crate::store::write_back::outcome::{Settled, column};

/// Has the reconciler set the cells of such rows, unless they are edited before.
pub fn take(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    let is_created = |r: &Settled| {
        r.outcome == Outcome::Applied && r.operation != Operation::Delete && !r.defaulted.is_empty()
    };
    let created: Vec<&Settled> = records.iter().copied().filter(|r| is_created(r)).collect();
    if created.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(
            "INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, state, cells, take, actor)
             SELECT r.shard_key, $1, r.record_key, 'queued', '\\x0000000000000000', r.take, r.actor
             FROM unnest($2::text[], $3::text[], $4::bytea[], $5::text[]) AS r (shard_key, record_key, take, actor)
             ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
             SET take = crm_internal.cells_minus(crm_internal.cells_or(coalesce(p.take, excluded.take), excluded.take), p.cells),
                 revision = p.revision + 1",
        ),
        None,
        &[
            map.id.into(),
            column(&created, |r| r.shard_key.as_str()),
            column(&created, |r| r.record_key.as_str()),
            column(&created, |r| r.defaulted.to_bytes()),
            column(&created, |r| r.actor.as_deref()),
        ],
    )?;
    Ok(())
}
