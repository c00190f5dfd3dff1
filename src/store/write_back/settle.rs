//! Settles a batch by the CRM's results: queue, ledger, dead letters, audit and claim change in one
//! transaction.

use std::collections::HashSet;

use crm_domain::Path;
use pgrx::spi::SpiClient;

use crate::store::audit;
use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::outcome::Outcome;
use crate::store::record::locks::lock_records;
use crate::store::row::Columns;
use crate::store::write_back::accepted::{Find, applied};
use crate::store::write_back::defaults;
use crate::store::write_back::deleted::delete_gone;
use crate::store::write_back::failed::{dead_letters, not_applied};
use crate::store::write_back::outcome::{Settled, column};

/// Settles records. Returns the indexes of those whose ledger row another session has locked, to be
/// settled later.
pub fn settle(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    records: &[&Settled],
) -> Result<Vec<usize>, StoreError> {
    let moved = moved(client, map, records)?;
    let (locked, found) = if moved.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        locked(client, map, records, &moved)?
    };
    let part = |skip: &[usize]| -> Vec<&Settled> {
        let skip: HashSet<usize> = skip.iter().copied().collect();
        let rest = records.iter().enumerate();
        rest.filter(|(i, _)| !skip.contains(i))
            .map(|(_, r)| *r)
            .collect()
    };
    let mut rest = applied(client, map, &part(&moved), Find::ByPlace)?;
    rest.extend(found.iter().map(|&i| records[i]));
    let rest = applied(client, map, &rest, Find::ByKey)?;
    not_applied(client, map, &rest)?;
    let records = part(&locked);
    if records.is_empty() {
        return Ok(locked);
    }
    delete_gone(client, map, &records)?;
    defaults::take(client, map, &records)?;
    dead_letters(client, map, &records)?;
    let entries: Vec<audit::Entry> = records
        .iter()
        .filter(|r| r.outcome != Outcome::NothingToDo)
        .map(|r| {
            let (error_class, vendor_code, error) = r.outcome.failure();
            audit::Entry {
                crm_id: r.crm_id.as_deref(),
                fields: &r.fields,
                attempt: r.attempt,
                error_class,
                vendor_code,
                error,
                request_id: r.request_id.as_deref(),
                actor: r.actor.as_deref(),
                correlation_id: r.correlation_id.as_deref(),
                operation_id: r.operation_id.as_deref(),
                ..audit::Entry::new(
                    (&r.shard_key, &r.record_key),
                    r.operation,
                    r.outcome.result(),
                )
            }
        })
        .collect();
    audit::write(client, connection, map, Path::Batch, &entries)?;
    Ok(locked)
}

/// Locks the records' ledger rows where they were when they were claimed; the answer names those
/// that are not there any more, or that another session has locked.
fn moved(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<Vec<usize>, StoreError> {
    let rows = client.update(
        "SELECT r.ord - 1 AS ord FROM unnest($2::text[], $3::text[], $4::tid[]) WITH ORDINALITY AS r (shard_key, record_key, place, ord)
         LEFT JOIN LATERAL (SELECT true AS locked FROM crm.ledger l
                            WHERE l.ctid = r.place AND l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
                            FOR UPDATE SKIP LOCKED) l ON true
         WHERE l.locked IS NULL",
        None,
        &[
            map.id.into(),
            column(records, |r| r.shard_key.as_str()),
            column(records, |r| r.record_key.as_str()),
            column(records, |r| r.place.ledger),
        ],
    )?;
    let mut moved = Vec::new();
    for row in rows {
        moved.push(row.number("ord")?);
    }
    Ok(moved)
}

/// Locks the ledger rows of some records, found by their key. Returns first those that another
/// session has locked.
fn locked(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
    some: &[usize],
) -> Result<(Vec<usize>, Vec<usize>), StoreError> {
    let keys: Vec<(&str, &str)> = some
        .iter()
        .map(|&i| {
            (
                records[i].shard_key.as_str(),
                records[i].record_key.as_str(),
            )
        })
        .collect();
    let locked = lock_records(client, map, &keys)?;
    let locked: Vec<usize> = locked.into_iter().map(|n| some[n]).collect();
    let free = some
        .iter()
        .copied()
        .filter(|i| !locked.contains(i))
        .collect();
    Ok((locked, free))
}
