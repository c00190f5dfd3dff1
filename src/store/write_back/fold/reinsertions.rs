//! Rows inserted over a record that they have already: a row was deleted and put back, or its key
//! was taken again.
//!
//! Guarantees: what flows in from the CRM comes anew, since what the ledger knows of it was the
//! former row's.

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::statement::Cached;
use crate::store::write_back::fold::take::{Record, column};

pub fn fold(client: &mut SpiClient, records: &[Record]) -> Result<(), StoreError> {
    let again: Vec<&Record> = records.iter().filter(|r| r.is_reinserted).collect();
    if again.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(FETCH_ANEW),
        None,
        &[
            column(&again, |r| r.shard_key.as_str()),
            column(&again, |r| r.map_id),
            column(&again, |r| r.record_key.as_str()),
        ],
    )?;
    Ok(())
}

const FETCH_ANEW: &str = "WITH forgotten AS (
        UPDATE crm.ledger l
        SET hashes = crm_internal.cells_hash(l.hashes, i.cells, decode(repeat('00', 16 * crm_internal.cells_count(i.cells)), 'hex'))
        FROM unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key),
             LATERAL (SELECT crm_internal.cells_union(crm_internal.cell_mask(f.field_id)) AS cells FROM crm.field_map f
                      WHERE f.map_id = r.map_id AND f.direction = 'inbound') i
        WHERE i.cells IS NOT NULL AND l.hashes IS NOT NULL
          AND l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key
        RETURNING l.map_id, l.crm_id
    )
    INSERT INTO crm.refetch AS r (map_id, crm_id) SELECT map_id, crm_id FROM forgotten
    ON CONFLICT ON CONSTRAINT refetch_pkey DO UPDATE SET revision = excluded.revision, due_at = now()";
