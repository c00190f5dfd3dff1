//! Records that the CRM accepted.

use crm_domain::Operation;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::stored_forms::refetch_overwritten;
use crate::store::outcome::Outcome;
use crate::store::record::{crm_forms, unseen_writes};
use crate::store::row::Columns;
use crate::store::write_back::outcome::{Settled, column};

/// How the rows of a record are found.
#[derive(Clone, Copy)]
pub enum Find {
    /// Where they were when it was claimed: its ledger row is locked, so they still are there.
    ByPlace,
    ByKey,
}

/// Records that the CRM accepted are removed from the queue and recorded in the ledger.
fn statement(find: Find) -> String {
    let (queue, ledger) = match find {
        Find::ByPlace => ("q.ctid = r.queue_place", "l.ctid = r.ledger_place"),
        Find::ByKey => ("true", "true"),
    };
    format!(
        "WITH record AS MATERIALIZED (
            SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[], $8::tid[], $9::tid[], $10::bytea[])
                WITH ORDINALITY AS r (shard_key, record_key, crm_id, cells, hashes, revision, queue_place, ledger_place, unsent, ord)
        ), done AS (
            DELETE FROM crm.queue q USING record r
            WHERE {queue} AND q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key AND q.revision = r.revision
            RETURNING r.*, CASE WHEN r.unsent IS NULL THEN q.changed_at ELSE crm_internal.cells_stamp(q.changed_at, r.unsent, NULL) END AS changed_at
        ), known AS (
            UPDATE crm.ledger l
            SET crm_id = coalesce(r.crm_id, l.crm_id),
                changed_at = CASE WHEN l.changed_at IS NULL THEN r.changed_at ELSE crm_internal.cells_merge(l.changed_at, r.changed_at) END,
                synced_at = crm_internal.cells_synced(l.synced_at, r.cells, now(), l.changed_at, r.changed_at),
                hashes = crm_internal.cells_hash(l.hashes, r.cells, r.hashes)
            FROM done r
            WHERE {ledger} AND l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
        )
        SELECT ord - 1 AS ord FROM record WHERE ord NOT IN (SELECT ord FROM done)"
    )
}

/// Settles what the CRM accepted; returns what is left to be settled otherwise.
pub fn applied<'a>(
    client: &mut SpiClient,
    map: &Map,
    records: &[&'a Settled],
    find: Find,
) -> Result<Vec<&'a Settled>, StoreError> {
    let (accepted, mut rest): (Vec<&Settled>, Vec<&Settled>) =
        records.iter().partition(|r| r.outcome == Outcome::Applied);
    if accepted.is_empty() {
        return Ok(rest);
    }
    let rows = client.update(
        &statement(find),
        None,
        &[
            map.id.into(),
            column(&accepted, |r| r.shard_key.as_str()),
            column(&accepted, |r| r.record_key.as_str()),
            column(&accepted, |r| r.crm_id.as_deref()),
            column(&accepted, |r| r.cells.to_bytes()),
            column(&accepted, |r| r.hashes.as_slice()),
            column(&accepted, |r| r.revision),
            column(&accepted, |r| r.place.queue),
            column(&accepted, |r| r.place.ledger),
            column(&accepted, |r| {
                (!r.unsent.is_empty()).then(|| r.unsent.to_bytes())
            }),
        ],
    )?;
    let updated = accepted.iter().filter(|r| r.operation == Operation::Update);
    let updated: Vec<&str> = updated.filter_map(|r| r.crm_id.as_deref()).collect();
    let mut is_done = vec![true; accepted.len()];
    for row in rows {
        let place = row.number("ord")?;
        is_done[place] = false;
        rest.push(accepted[place]);
    }
    let done = accepted.iter().zip(is_done).filter(|(_, is_done)| *is_done);
    let done: Vec<&Settled> = done.map(|(r, _)| *r).collect();
    let unseen = done.iter();
    let unseen = unseen.filter_map(|r| Some((r.crm_id.as_deref()?, r.unseen.as_deref()?)));
    unseen_writes::remember(client, map, &unseen.collect::<Vec<_>>())?;
    let forms = done.iter().flat_map(|r| {
        let key = (r.shard_key.as_str(), r.record_key.as_str());
        crm_forms::of(key, &r.forms)
    });
    crm_forms::remember(client, map, &forms.collect::<Vec<_>>())?;
    refetch_overwritten(client, map.id, &updated)?;
    Ok(rest)
}
