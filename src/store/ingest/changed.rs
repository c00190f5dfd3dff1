//! Fields that changed in the CRM, of records that have a row: records and rows are locked and
//! compared, each field is decided ([`decide`]), rows accept the CRM's values, and the rest is
//! written down ([`decisions`]).

use std::collections::{HashMap, HashSet};

use crm_domain::cells::CellHashes;
use crm_domain::{Cells, Value};
use pgrx::spi::SpiClient;

use crate::failpoint;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::decide::{Decided, decide};
use crate::store::ingest::incoming::{Arriving, Field, Incoming};
use crate::store::ingest::locks::{Locked, lock, unfolded};
use crate::store::ingest::result::{Arrived, note_altered};
use crate::store::ingest::stored_forms::WrittenOver;
use crate::store::ingest::{decisions, quarantine, refused_fields};
use crate::store::record::key::Key;
use crate::store::record::links::Known;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::row_locks;
use crate::store::table::write::{self, CrmValues};

/// Whether a record holds nothing but what the CRM was known to hold.
pub(super) fn is_echo(fields: &[Field], hashes: &[u8]) -> bool {
    let known = CellHashes(hashes);
    fields.iter().all(|f| known.get(f.id) == Some(&f.hash[..]))
}

/// Compares records with their rows and makes the two agree, as each field's direction and policy
/// have it.
pub(super) fn apply(
    client: &mut SpiClient,
    about: &Arriving,
    changed: Vec<(&Incoming, Known)>,
    written_over: &WrittenOver,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let map = about.map;
    let keys: Vec<&Key> = changed.iter().map(|(_, known)| &known.key).collect();
    let mut locked = lock(client, map, about.asked, &keys)?;
    let mut at_hand: Vec<(&Incoming, Key, Locked)> = Vec::with_capacity(changed.len());
    for (n, (record, known)) in changed.into_iter().enumerate() {
        let linked = |l: &Locked| l.crm_id.as_deref() == Some(record.crm_id.as_str());
        match locked.remove(&n) {
            Some(locked) if linked(&locked) && locked.is_settled && !about.is_busy(&known.key) => {
                at_hand.push((record, known.key, locked));
            }
            _ => arrived.again(record),
        }
    }
    failpoint::reach("ingest_records::locked");
    let rows = read_rows(about, &mut at_hand, arrived)?;
    let edited = edited_meanwhile(client, map, &at_hand)?;
    let mut decided = Vec::with_capacity(at_hand.len());
    for ((record, key, locked), row) in at_hand.into_iter().zip(rows) {
        if edited.contains(&key) {
            arrived.again(record);
            continue;
        }
        match row {
            RowValues::Found(local) => {
                let local: HashMap<u16, Value> = local
                    .into_iter()
                    .map(|(id, _, value)| (id, value))
                    .collect();
                let record = decide(map, record, key, &locked, &local, written_over);
                arrived.counts.overwritten += record.overwrites.len();
                decided.push(record);
            }
            // Gone without having been captured (on_delete => 'ignore'), or hidden from the table's
            // owner.
            RowValues::Missing => arrived.counts.ignored += 1,
            RowValues::Unreadable(failure) => {
                let fields = quarantine::NONE.to_owned();
                arrived.refuse(client, map, Some(&key), record, failure, fields)?;
            }
        }
    }
    take(client, about, &mut decided, arrived)?;
    decisions::record(client, map, decided, written_over, arrived)
}

/// Locks rows and reads the fields that changed. Records whose rows another session has locked are
/// read again later.
fn read_rows(
    about: &Arriving,
    at_hand: &mut Vec<(&Incoming, Key, Locked)>,
    arrived: &mut Arrived,
) -> Result<Vec<RowValues>, StoreError> {
    let (map, settings) = (about.map, about.settings);
    let keys: Vec<(&str, &str)> = at_hand
        .iter()
        .map(|(_, key, _)| (key.shard_key.as_str(), key.record_key.as_str()))
        .collect();
    let free = row_locks::lock_free(map, &keys, settings.transform_timeout)?;
    let cells: Vec<Cells> = at_hand
        .iter()
        .map(|(record, _, locked)| {
            let known = CellHashes(&locked.hashes);
            let fields = record.values.iter().flatten();
            let changed = fields.filter(|f| known.get(f.id) != Some(&f.hash[..]));
            changed.map(|f| f.id).collect()
        })
        .collect();
    let wanted: Vec<Wanted> = at_hand
        .iter()
        .zip(&cells)
        .map(|((_, key, _), cells)| Wanted {
            shard_key: &key.shard_key,
            record_key: &key.record_key,
            cells,
        })
        .collect();
    let raw = Bounds {
        raw: true,
        // A row outside the filter takes what the CRM changes as long as it is linked.
        ..Bounds::of(settings).lenient().unfiltered()
    };
    let mut read = read::read(map, &wanted, &raw)?;
    let mut rows = Vec::with_capacity(at_hand.len());
    let mut places = 0..;
    at_hand.retain(|(record, _, _)| {
        let place = places.next().unwrap_or_default();
        match read.remove(&place) {
            Some(RowValues::Missing) => rows.push(RowValues::Missing),
            Some(row @ RowValues::Unreadable(_)) => rows.push(row),
            Some(row) if free.contains(&place) => rows.push(row),
            _ => {
                arrived.again(record);
                return false;
            }
        }
        true
    });
    Ok(rows)
}

/// Records with edits that are not folded yet, by now that their rows are locked. What the CRM
/// holds must not go over these edits; and the fold takes their snapshots from the ledger, which is
/// to know nothing yet that came after them. So the records are read again.
fn edited_meanwhile(
    client: &mut SpiClient,
    map: &Map,
    at_hand: &[(&Incoming, Key, Locked)],
) -> Result<HashSet<Key>, StoreError> {
    if !map.realtime || at_hand.is_empty() {
        return Ok(HashSet::new());
    }
    let keys: Vec<&Key> = at_hand.iter().map(|(_, key, _)| key).collect();
    unfolded(client, map, &keys)
}

/// Rows take what the CRM holds. What the table refuses is quarantined, with everything else of
/// that record.
fn take(
    client: &mut SpiClient,
    about: &Arriving,
    decided: &mut Vec<Decided>,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    let (map, settings) = (about.map, about.settings);
    let places: Vec<usize> = (0..decided.len())
        .filter(|&n| !decided[n].accepts.is_empty())
        .collect();
    let changes: Vec<CrmValues> = places
        .iter()
        .map(|&n| CrmValues {
            shard_key: &decided[n].key.shard_key,
            record_key: &decided[n].key.record_key,
            values: decided[n].accepts.clone(),
        })
        .collect();
    let mut pace = Pace::putting_off(map, settings.transform_timeout);
    let taken = write::set(client, map, &changes, &mut pace, &Bounds::of(settings))?;
    drop(changes);
    for (place, altered) in &taken.altered {
        note_altered(map, altered, &mut decided[places[*place]].audit);
    }
    let mut gone = HashSet::new();
    for (place, error) in taken.refused {
        let record = &decided[places[place]];
        gone.insert(places[place]);
        if error.reached_no_row() {
            arrived.again(record.incoming);
            continue;
        }
        let fields =
            refused_fields::of_row(client, map, &record.key, &record.accepts, &error, settings);
        let failure = quarantine::refusal(&error);
        let key = Some(&record.key);
        arrived.refuse(client, map, key, record.incoming, failure, fields)?;
    }
    let mut n = 0;
    decided.retain(|_| {
        n += 1;
        !gone.contains(&(n - 1))
    });
    let is_cleared = |d: &&Decided| d.accepts.values().any(|value| **value == Value::Null);
    arrived.hazards.clears += decided.iter().filter(is_cleared).count() as i64;
    Ok(())
}
