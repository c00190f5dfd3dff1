//! CRM records that no row is linked to.

use std::collections::HashSet;

use crm_domain::mapping::{OnCrmDelete, OnCrmInsert, OnFilterOut};
use crm_domain::{AuditResult, ErrorClass, Failure, Operation};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, json};

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::incoming::{Arriving, Incoming};
use crate::store::ingest::result::{Arrived, note_altered};
use crate::store::ingest::row_lookup::{self, Looked};
use crate::store::ingest::{new_rows, quarantine, refused_fields};
use crate::store::record::former_links::{self, Ended};
use crate::store::record::key::Key;
use crate::store::record::key_rivals::{self, Rival};
use crate::store::record::links::{self, Candidate, Known};
use crate::store::record::orphaned_creates;
use crate::store::table::write::Altered;

/// What became of records that no row was linked to.
#[derive(Default)]
pub(super) struct Met<'a> {
    /// They have a row now, with which they are still to be compared.
    pub linked: Vec<(&'a Incoming, Known)>,
    /// Their rows are in the way of other rows, or miss one: to be tried again once the others took
    /// what came.
    pub waiting: Vec<&'a Incoming>,
}

/// A record, and the key of the row that it belongs to.
type Keyed<'a> = (&'a Incoming, String);

/// Links records to the rows whose keys they carry, and inserts rows for others.
pub(super) fn link_or_insert<'a>(
    client: &mut SpiClient,
    about: &Arriving,
    strangers: Vec<&'a Incoming>,
    arrived: &mut Arrived,
) -> Result<Met<'a>, StoreError> {
    let map = about.map;
    let inserts = map.on_crm_insert == OnCrmInsert::Insert;
    if strangers.is_empty()
        || (map.external_id_field.is_none() && !inserts && map.on_crm_delete == OnCrmDelete::Ignore)
    {
        arrived.counts.ignored += strangers.len();
        return Ok(Met::default());
    }
    let (keyed, mut keyless) = with_keys(client, about, strangers, arrived)?;
    let claiming = find_rows(client, about, keyed, &mut keyless, arrived)?;
    let linked = claim(client, about, claiming, arrived)?;
    let mut waiting = Vec::new();
    if inserts {
        waiting = insert(client, about, keyless, Turn::First, arrived)?;
    } else {
        arrived.counts.ignored += keyless.len();
    }
    Ok(Met { linked, waiting })
}

/// Records with the keys by which their rows are looked up, and records without one. Those that are
/// to have no row are left out.
fn with_keys<'a>(
    client: &mut SpiClient,
    about: &Arriving,
    strangers: Vec<&'a Incoming>,
    arrived: &mut Arrived,
) -> Result<(Vec<Keyed<'a>>, Vec<&'a Incoming>), StoreError> {
    let map = about.map;
    let ids: Vec<&str> = strangers.iter().map(|r| r.crm_id.as_str()).collect();
    let elsewhere = links::elsewhere(client, map, &ids)?;
    let former = former_links::former(client, map, about.asked, &ids)?;
    let (mut keyed, mut keyless) = (Vec::new(), Vec::new());
    for record in strangers {
        // A CRM record has one row over all tables.
        if elsewhere.contains(&record.crm_id) {
            arrived.counts.ignored += 1;
            continue;
        }
        let former = former.get(&record.crm_id);
        let key = match former.map(|f| (&f.ended, f.record_key.as_str())) {
            Some((Ended::ByCrm, key)) => Some(key),
            // Its row was deleted, or an operator would not have it: it stays out.
            Some((Ended::ByUs, _)) => {
                arrived.counts.ignored += 1;
                continue;
            }
            Some((Ended::JustNow, _)) => {
                arrived.again(record);
                continue;
            }
            None => record.external_id.as_deref(),
        };
        match key {
            Some(key) => keyed.push((record, key.to_owned())),
            None => keyless.push(record),
        }
    }
    Ok((keyed, keyless))
}

/// The rows that records with keys are to be linked to. Records that are to get a row are added to
/// `rowless`.
fn find_rows<'a>(
    client: &mut SpiClient,
    about: &Arriving,
    keyed: Vec<Keyed<'a>>,
    rowless: &mut Vec<&'a Incoming>,
    arrived: &mut Arrived,
) -> Result<Vec<(&'a Incoming, Key)>, StoreError> {
    let map = about.map;
    // Of two with one key, the second is looked at when the first is linked.
    let keys: Vec<&str> = keyed.iter().map(|(_, key)| key.as_str()).collect();
    let Looked {
        found: mut rows,
        unknown,
    } = row_lookup::rows_of(map, &keys, about.settings.transform_timeout)?;
    let keys: Vec<String> = keyed
        .iter()
        .enumerate()
        .map(|(n, (_, key))| rows.get(&n).map_or(key, |s| &s.record_key).clone())
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let repeated = row_lookup::repeated(&keys);
    let without_row: Vec<&str> = (0..keys.len())
        .filter(|n| rows.get(n).is_none_or(|s| s.row.is_none() || !s.is_inside))
        .map(|n| keys[n])
        .collect();
    let orphans = orphaned_creates::orphaned_creates(client, map, &without_row)?;
    let texts: Vec<(&str, &str)> = keys.iter().map(|key| ("", *key)).collect();
    let mut rivals = key_rivals::rivals(map, &texts, &[])?;
    let mut claiming: Vec<(&Incoming, Key)> = Vec::new();
    let mut claimed: HashSet<Key> = HashSet::new();
    for (n, (record, _)) in keyed.iter().enumerate() {
        let mut others = rivals.remove(&n).unwrap_or_default();
        let sought = rows.remove(&n);
        // A row outside the filter has no record, and this one no other row. If it was created as
        // the row was leaving, it goes where on_filter_out says so.
        if sought.as_ref().is_some_and(|s| !s.is_inside) {
            if let (Some(gone), OnFilterOut::Delete) = (orphans.get(keys[n]), map.on_filter_out) {
                orphaned_creates::delete_orphan(client, map, gone, &record.crm_id, true)?;
            }
            arrived.counts.ignored += 1;
            continue;
        }
        let row = sought.and_then(|s| s.row);
        others.retain(|o| {
            row.as_ref()
                .is_none_or(|r| r.shard_key != o.shard_key || r.record_key != o.record_key)
        });
        // Whether it is the record of one of them, whose creation is in flight, is soon known.
        let is_awaited = others.iter().any(Rival::is_in_flight);
        match unknown.get(&n) {
            Some(error) if error.reached_no_row() => {
                arrived.again(record);
                continue;
            }
            Some(error) => {
                let (failure, fields) = (quarantine::refusal(error), quarantine::NONE.to_owned());
                arrived.refuse(client, map, None, record, failure, fields)?;
                continue;
            }
            None => {}
        }
        match (row, orphans.get(keys[n])) {
            _ if repeated.contains(&n) => arrived.again(record),
            (Some(_), _) if is_awaited => arrived.again(record),
            (Some(key), _) => claiming.push((record, key)),
            // The CRM keeps the key in another form, and this is the row that it was sent for.
            (None, None) if others.len() == 1 => {
                let Rival {
                    shard_key,
                    record_key,
                    ..
                } = others.swap_remove(0);
                let key = Key {
                    shard_key,
                    record_key,
                };
                match claimed.insert(key.clone()) {
                    true => claiming.push((record, key)),
                    false => arrived.again(record),
                }
            }
            (None, None) if !others.is_empty() => {
                let failure = ambiguous_key(keys[n], &others);
                let fields = quarantine::NONE.to_owned();
                arrived.quarantine(client, map, None, record, failure, fields)?;
            }
            (None, Some(gone))
                if orphaned_creates::delete_orphan(client, map, gone, &record.crm_id, false)? =>
            {
                arrived.counts.ignored += 1;
            }
            (None, Some(gone)) => claiming.push((record, gone.clone())),
            (None, None) => rowless.push(record),
        }
    }
    Ok(claiming)
}

fn ambiguous_key(key: &str, others: &[Rival]) -> Failure {
    let known: Vec<String> = others
        .iter()
        .map(|o| format!("\"{}\"", o.record_key))
        .collect();
    let error = format!(
        "the CRM considers its key \"{key}\" equal to the keys of several rows: {}",
        known.join(", ")
    );
    Failure::record(ErrorClass::Conflict, "duplicate_identity", error)
}

/// Links records to rows that have no other record yet.
fn claim<'a>(
    client: &mut SpiClient,
    about: &Arriving,
    claiming: Vec<(&'a Incoming, Key)>,
    arrived: &mut Arrived,
) -> Result<Vec<(&'a Incoming, Known)>, StoreError> {
    let map = about.map;
    let keys: Vec<&Key> = claiming.iter().map(|(_, key)| key).collect();
    let candidates = links::candidates(client, map, &keys)?;
    let mut linked = Vec::new();
    for ((record, key), candidate) in claiming.into_iter().zip(candidates) {
        match candidate {
            // A creation of ours in flight may have made the record.
            _ if about.is_busy(&key) => arrived.again(record),
            Candidate::Locked => arrived.again(record),
            Candidate::Taken(other) => {
                if links::dispute(client, map, &key, &other, &record.crm_id)? {
                    let fields = json!({ "id": { "old": other, "new": record.crm_id } });
                    arrived.counts.applied += 1;
                    arrived.note(
                        Some(&key),
                        record,
                        Operation::Link,
                        AuditResult::Conflict,
                        fields.to_string(),
                    );
                    arrived.disputed.push(key);
                } else {
                    arrived.counts.echoes += 1;
                }
            }
            Candidate::Free => linked.push((record, key)),
        }
    }
    let links: Vec<(&Key, &str)> = linked.iter().map(|(r, k)| (k, r.crm_id.as_str())).collect();
    links::link(client, map, &links)?;
    for (record, key) in &linked {
        arrived.note(
            Some(key),
            record,
            Operation::Link,
            AuditResult::Applied,
            "{}".to_owned(),
        );
    }
    let (readable, unreadable): (Vec<_>, Vec<_>) =
        linked.into_iter().partition(|(r, _)| r.values.is_ok());
    for (record, key) in unreadable {
        if let Err(unreadable) = &record.values {
            arrived.quarantine_unreadable(client, map, Some(&key), record, unreadable)?;
        }
    }
    let known = |key| Known {
        key,
        hashes: Vec::new(),
    };
    Ok(readable
        .into_iter()
        .map(|(record, key)| (record, known(key)))
        .collect())
}

/// Inserts the rows that had to wait; what the table refuses now, it refuses.
pub(super) fn insert_waiting(
    client: &mut SpiClient,
    about: &Arriving,
    waiting: Vec<&Incoming>,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    insert(client, about, waiting, Turn::Last, arrived).map(|_| ())
}

#[derive(PartialEq)]
enum Turn {
    First,
    Last,
}

/// Inserts rows; returns the records whose rows are to wait for others.
fn insert<'a>(
    client: &mut SpiClient,
    about: &Arriving,
    records: Vec<&'a Incoming>,
    turn: Turn,
    arrived: &mut Arrived,
) -> Result<Vec<&'a Incoming>, StoreError> {
    let (map, settings) = (about.map, about.settings);
    let (readable, unreadable): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|r| r.values.is_ok());
    for record in unreadable {
        if let Err(unreadable) = &record.values {
            arrived.quarantine_unreadable(client, map, None, record, unreadable)?;
        }
    }
    let mut waiting = Vec::new();
    if readable.is_empty() {
        return Ok(waiting);
    }
    let inserted = new_rows::insert(client, map, &readable, settings)?;
    let mut released = HashSet::new();
    for (record, result) in readable.into_iter().zip(inserted) {
        match result {
            Ok(row) => {
                arrived.counts.applied += 1;
                let fields = inserted_fields(map, record, &row.altered);
                arrived.note(
                    Some(&row.key),
                    record,
                    Operation::Insert,
                    AuditResult::Applied,
                    fields,
                );
                released.insert(record.crm_id.as_str());
            }
            Err(error) if error.reached_no_row() => arrived.again(record),
            Err(error) if turn == Turn::First && error.is_about_other_rows() => {
                waiting.push(record);
            }
            Err(error) => {
                let values = record.values.iter().flatten();
                let values = values.filter(|v| !v.value.is_null());
                let values = values.map(|v| (v.id, &v.value)).collect();
                let limit = settings.transform_timeout;
                let fields = refused_fields::of_new_row(map, &values, &error, limit);
                let failure = quarantine::refusal(&error);
                arrived.refuse(client, map, None, record, failure, fields)?
            }
        }
    }
    quarantine::release(client, map, &released.into_iter().collect::<Vec<_>>())?;
    Ok(waiting)
}

/// What a new row took, as the audit has it.
fn inserted_fields(map: &Map, record: &Incoming, altered: &Altered) -> String {
    let mut fields = JsonMap::new();
    for value in record.values.iter().flatten() {
        if let Some(field) = map.field(value.id)
            && !value.value.is_null()
        {
            fields.insert(
                field.field.name.clone(),
                json!({ "new": crm_domain::excerpt::of(&value.value) }),
            );
        }
    }
    note_altered(map, altered, &mut fields);
    serde_json::Value::Object(fields).to_string()
}
