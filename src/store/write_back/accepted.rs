//! Records that the CRM accepted.

use crm_domain::Operation;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::stored_forms::refetch_overwritten;
use crate::store::outcome::Outcome;
use crate::store::row::Columns;
use crate::store::write_back::outcome::{Settled, column};

/// Records that the CRM accepted are removed from the queue and recorded in the ledger. The first
/// two lines find the rows: where they were when the record was claimed (the ledger row is locked,
/// so it still is there), or by their key.
pub const APPLIED: &str = "WITH record AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[], $8::tid[], $9::tid[], $10::bytea[])
        WITH ORDINALITY AS r (shard_key, record_key, crm_id, cells, hashes, revision, queue_place, ledger_place, unsent, ord)
), done AS (
    DELETE FROM crm.queue q USING record r
    WHERE QUEUE AND q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key AND q.revision = r.revision
    RETURNING r.*, CASE WHEN r.unsent IS NULL THEN q.changed_at ELSE crm_internal.cells_stamp(q.changed_at, r.unsent, NULL) END AS changed_at
), known AS (
    UPDATE crm.ledger l
    SET crm_id = coalesce(r.crm_id, l.crm_id),
        changed_at = CASE WHEN l.changed_at IS NULL THEN r.changed_at ELSE crm_internal.cells_merge(l.changed_at, r.changed_at) END,
        synced_at = crm_internal.cells_synced(l.synced_at, r.cells, now(), l.changed_at, r.changed_at),
        hashes = crm_internal.cells_hash(l.hashes, r.cells, r.hashes)
    FROM done r
    WHERE LEDGER AND l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
)
SELECT ord - 1 AS ord FROM record WHERE ord NOT IN (SELECT ord FROM done)";

pub const IN_PLACE: (&str, &str) = ("q.ctid = r.queue_place", "l.ctid = r.ledger_place");

pub const BY_KEY: (&str, &str) = ("true", "true");

/// Settles what the CRM took; returns what is left to be settled otherwise.
pub fn applied<'a>(
    client: &mut SpiClient,
    map: &Map,
    records: &[&'a Settled],
    (queue, ledger): (&str, &str),
) -> Result<Vec<&'a Settled>, StoreError> {
    let (taken, mut rest): (Vec<&Settled>, Vec<&Settled>) =
        records.iter().partition(|r| r.outcome == Outcome::Applied);
    if taken.is_empty() {
        return Ok(rest);
    }
    let rows = client.update(
        &APPLIED.replace("QUEUE", queue).replace("LEDGER", ledger),
        None,
        &[
            map.id.into(),
            column(&taken, |r| r.shard_key.as_str()),
            column(&taken, |r| r.record_key.as_str()),
            column(&taken, |r| r.crm_id.as_deref()),
            column(&taken, |r| r.cells.to_bytes()),
            column(&taken, |r| r.hashes.as_slice()),
            column(&taken, |r| r.revision),
            column(&taken, |r| r.place.queue),
            column(&taken, |r| r.place.ledger),
            column(&taken, |r| {
                (!r.unsent.is_empty()).then(|| r.unsent.to_bytes())
            }),
        ],
    )?;
    let updated = taken.iter().filter(|r| r.operation == Operation::Update);
    let updated: Vec<&str> = updated.filter_map(|r| r.crm_id.as_deref()).collect();
    for row in rows {
        rest.push(taken[row.number("ord")?]);
    }
    refetch_overwritten(client, map.id, &updated)?;
    Ok(rest)
}
