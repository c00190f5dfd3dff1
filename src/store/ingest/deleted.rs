//! CRM records that are gone: deleted, or merged into another.

use crm_domain::mapping::OnCrmDelete;
use crm_domain::{AuditResult, Operation};
use pgrx::spi::SpiClient;
use serde_json::json;

use crate::store::error::{Fault, StoreError};
use crate::store::ingest::incoming::{Arriving, Incoming};
use crate::store::ingest::locks::lock;
use crate::store::ingest::quarantine;
use crate::store::ingest::result::Arrived;
use crate::store::record::key::Key;
use crate::store::record::{links, remove};

/// Settles those that were linked to a row. Work that waits for a record finds out by itself that
/// it is gone.
pub(super) fn apply(
    client: &mut SpiClient,
    about: &Arriving,
    incoming: &[Incoming],
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    let gone: Vec<&Incoming> = incoming.iter().filter(|r| r.deleted).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let map = about.map;
    let ids: Vec<&str> = gone.iter().map(|r| r.crm_id.as_str()).collect();
    let mut linked = links::linked(client, map, &ids)?;
    let departing: Vec<(&Incoming, Key)> = gone
        .into_iter()
        .enumerate()
        .filter_map(|(n, record)| Some((record, linked.remove(&n)?.key)))
        .collect();
    arrived.counts.ignored += ids.len() - departing.len();
    let keys: Vec<&Key> = departing.iter().map(|(_, key)| key).collect();
    let locked = lock(client, map, about.asked, &keys)?;
    for (n, (record, key)) in departing.iter().enumerate() {
        let Some(locked) = locked
            .get(&n)
            .filter(|l| l.is_settled && !about.is_busy(key))
        else {
            arrived.again(record);
            continue;
        };
        if locked.crm_id.as_deref() != Some(record.crm_id.as_str()) {
            arrived.again(record);
        } else if let Some(into) = &record.merged_into {
            merged(client, about, record, key, into, arrived)?;
        } else if locked.is_queued
            || !locked.edited.is_empty()
            || map.on_crm_delete == OnCrmDelete::Ignore
        {
            arrived.counts.ignored += 1;
        } else {
            deleted(client, about, record, key, arrived)?;
        }
    }
    Ok(())
}

/// The row goes with the record that took its own in, unless that has a row already.
fn merged(
    client: &mut SpiClient,
    about: &Arriving,
    record: &Incoming,
    key: &Key,
    into: &str,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    arrived.counts.applied += 1;
    let fields = json!({ "id": { "old": record.crm_id, "new": into } }).to_string();
    if links::relink(client, about.map, key, into)? {
        arrived.note(
            Some(key),
            record,
            Operation::Relink,
            AuditResult::Applied,
            fields,
        );
        arrived.look.push(into.to_owned());
        return Ok(());
    }
    links::unlink(client, about.map, key)?;
    links::dispute(client, about.map, key, &record.crm_id, into)?;
    arrived.disputed.push(key.clone());
    arrived.note(
        Some(key),
        record,
        Operation::Unlink,
        AuditResult::Conflict,
        fields,
    );
    Ok(())
}

fn deleted(
    client: &mut SpiClient,
    about: &Arriving,
    record: &Incoming,
    key: &Key,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    let (map, limit) = (about.map, about.settings.transform_timeout);
    let nothing = || "{}".to_owned();
    if map.on_crm_delete == OnCrmDelete::Delete {
        match remove::delete_with_row(client, map, &key.shard_key, &key.record_key, limit) {
            Ok(true) => {
                arrived.counts.applied += 1;
                arrived.hazards.deletes += 1;
                arrived.note(
                    Some(key),
                    record,
                    Operation::Delete,
                    AuditResult::Applied,
                    nothing(),
                );
                return Ok(());
            }
            // Its row stays, without a link.
            Ok(false) => {}
            Err(error) => match error.fault() {
                Fault::StaleMapping | Fault::NotReached => {
                    arrived.again(record);
                    return Ok(());
                }
                Fault::MayPass => {
                    let failure = quarantine::refusal(&error);
                    arrived.failed(Some(key), record, failure, quarantine::NONE.to_owned());
                    return Ok(());
                }
                Fault::Row => return Err(error),
            },
        }
    }
    links::unlink(client, map, key)?;
    arrived.counts.applied += 1;
    arrived.hazards.deletes += 1;
    arrived.note(
        Some(key),
        record,
        Operation::Unlink,
        AuditResult::Applied,
        nothing(),
    );
    Ok(())
}
