//! Settles a page of records that came in.

use std::collections::HashMap;

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::ingest::result::write_audit;
use crate::store::ingest::stored_forms::WrittenOver;
use crate::store::ingest::{Arrived, Arriving, Incoming, changed, deleted, state, unlinked};
use crate::store::record::links::{self, Known};
use crate::store::record::{key_rivals, unseen_writes};

/// Settles records that came in.
pub fn apply(
    client: &mut SpiClient,
    about: &Arriving,
    incoming: &[Incoming],
) -> Result<Arrived, StoreError> {
    let mut arrived = Arrived::default();
    arrived.counts.read = incoming.len();
    let map = about.map;
    deleted::apply(client, about, incoming, &mut arrived)?;
    let gone = incoming.iter().filter(|r| r.deleted);
    let gone: Vec<&str> = gone.map(|r| r.crm_id.as_str()).collect();
    unseen_writes::forget(client, map, &gone)?;
    let mut live: Vec<&Incoming> = incoming.iter().filter(|r| !r.deleted).collect();
    // Of one that is in the page twice, what came last.
    let last: HashMap<&str, usize> = live
        .iter()
        .enumerate()
        .map(|(n, r)| (r.crm_id.as_str(), n))
        .collect();
    if last.len() < live.len() {
        let mut n = 0;
        live.retain(|r| {
            n += 1;
            last[r.crm_id.as_str()] == n - 1
        });
        arrived.counts.echoes += n - live.len();
    }
    let ids: Vec<&str> = live.iter().map(|r| r.crm_id.as_str()).collect();
    let mut known = links::linked(client, map, &ids)?;
    let mut written_over = WrittenOver::of(client, map, &ids)?;
    written_over.forget_echoes(client, map, &live)?;
    let carried: Vec<(&str, Option<&str>, &str)> = live
        .iter()
        .enumerate()
        .filter_map(|(n, record)| {
            let key = known.get(&n)?.key.record_key.as_str();
            Some((record.crm_id.as_str(), record.external_id.as_deref(), key))
        })
        .collect();
    key_rivals::carry(client, map, &carried)?;
    let mut changed: Vec<(&Incoming, Known)> = Vec::new();
    let mut echoes: Vec<&str> = Vec::new();
    let mut strangers: Vec<&Incoming> = Vec::new();
    for (n, record) in live.into_iter().enumerate() {
        let Some(known) = known.remove(&n) else {
            strangers.push(record);
            continue;
        };
        match &record.values {
            Ok(fields) if changed::is_echo(fields, &known.hashes) => {
                arrived.counts.echoes += 1;
                echoes.push(&record.crm_id);
            }
            Ok(_) => changed.push((record, known)),
            Err(unreadable) => {
                arrived.quarantine_unreadable(client, map, Some(&known.key), record, unreadable)?;
            }
        }
    }
    let echoes = written_over.unseen_among(echoes.into_iter());
    unseen_writes::forget(client, map, &echoes)?;
    let met = unlinked::link_or_insert(client, about, strangers, &mut arrived)?;
    changed.extend(met.linked);
    changed::apply(client, about, changed, &written_over, &mut arrived)?;
    unlinked::insert_waiting(client, about, met.waiting, &mut arrived)?;
    arrived.charge(client, map, about.settings.max_attempts)?;
    write_audit(client, about.connection, map, &arrived.notes)?;
    arrived.is_first = state::count(client, map.id, &arrived.counts)?;
    Ok(arrived)
}
