//! Sets cells of rows to the CRM's values, as the reconciler decided.
//!
//! Guarantee: a cell that was edited meanwhile is left alone.

use std::collections::{BTreeMap, HashSet};

use crm_domain::retry::Backoff;
use crm_domain::{Cells, ErrorClass, Value};
use pgrx::spi::SpiClient;
use serde_json::{Value as Json, json};

use crate::settings::Settings;
use crate::store::config::map::Map;
use crate::store::error::{Fault, StoreError};
use crate::store::outcome::Outcome;
use crate::store::reconcile::outcome::{Conflict, Resolution, keys_of};
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::row_locks;
use crate::store::table::write::{self, CrmValues};

/// Records of whose rows cells are to be set, but whose rows another session is changing.
pub fn rows_in_use(
    map: &Map,
    records: &[Resolution],
    locked: &HashSet<usize>,
    settings: &Settings,
) -> Result<Vec<usize>, StoreError> {
    let taking: Vec<usize> = (0..records.len())
        .filter(|n| !locked.contains(n) && !records[*n].accepts.is_empty())
        .collect();
    if taking.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<(&str, &str)> = taking.iter().map(|&n| keys_of(&records[n])).collect();
    let free = row_locks::lock_free(map, &keys, settings.transform_timeout)?;
    // A row that is gone is not in use.
    let none = Cells::new();
    let wanted: Vec<Wanted> = keys
        .iter()
        .map(|(shard_key, record_key)| Wanted {
            shard_key,
            record_key,
            cells: &none,
        })
        .collect();
    let rows = read::read(map, &wanted, &Bounds::of(settings).whole())?;
    Ok(taking
        .iter()
        .enumerate()
        .filter(|(place, _)| {
            !free.contains(place) && !matches!(rows.get(place), Some(RowValues::Missing))
        })
        .map(|(_, n)| *n)
        .collect())
}

/// Sets cells of rows as their owner. A row that changed since is left alone: its own edit will be
/// reconciled next.
pub fn accept(
    client: &mut SpiClient,
    map: &Map,
    records: &mut [Resolution],
    settings: &Settings,
) -> Result<(), StoreError> {
    let taking: Vec<usize> = (0..records.len())
        .filter(|&n| !records[n].accepts.is_empty())
        .collect();
    if taking.is_empty() {
        return Ok(());
    }
    let cells: Vec<Cells> = taking
        .iter()
        .map(|&n| records[n].accepts.keys().copied().collect())
        .collect();
    let wanted: Vec<Wanted> = taking
        .iter()
        .zip(&cells)
        .map(|(&n, cells)| Wanted {
            shard_key: &records[n].pending.shard_key,
            record_key: &records[n].pending.record_key,
            cells,
        })
        .collect();
    let rows = read::read(map, &wanted, &Bounds::of(settings).whole())?;
    for (place, &n) in taking.iter().enumerate() {
        let current: BTreeMap<u16, &Value> = match rows.get(&place) {
            Some(RowValues::Found(fields)) => {
                fields.iter().map(|(id, _, value)| (*id, value)).collect()
            }
            _ => BTreeMap::new(),
        };
        let record = &mut records[n];
        // An edit that came meanwhile was made without having seen the CRM's value either: it keeps
        // its base.
        for (id, take) in &record.accepts {
            let then = take.local.as_ref();
            let edited = |now: &&Value| then.is_some_and(|then| then != *now);
            if current.get(id).is_some_and(edited) {
                record.known.remove(id);
            }
        }
        record
            .accepts
            .retain(|id, take| match (current.get(id), &take.local) {
                (Some(now), Some(then)) => *now == then && **now != take.crm,
                (Some(now), None) => **now != take.crm,
                (None, _) => false,
            });
    }
    let taking: Vec<usize> = taking
        .into_iter()
        .filter(|&n| !records[n].accepts.is_empty())
        .collect();
    let changes: Vec<CrmValues> = taking
        .iter()
        .map(|&n| CrmValues {
            shard_key: &records[n].pending.shard_key,
            record_key: &records[n].pending.record_key,
            values: records[n]
                .accepts
                .iter()
                .map(|(id, t)| (*id, &t.crm))
                .collect(),
        })
        .collect();
    let mut pace = Pace::new(map, Some(settings.transform_timeout));
    let taken = write::set(client, map, &changes, &mut pace, &Bounds::of(settings))?;
    for (place, error) in taken.refused {
        let record = &mut records[taking[place]];
        let has_attempts = record.pending.attempts + 1 < settings.max_attempts;
        match error.fault() {
            Fault::StaleMapping | Fault::NotReached => return Err(error),
            Fault::MayPass if has_attempts => retry(record, &error),
            Fault::MayPass | Fault::Row => refuse(map, record, &error),
        }
    }
    Ok(())
}

/// The error may pass: the whole edit is retried, and an attempt is charged.
fn retry(record: &mut Resolution, error: &StoreError) {
    for id in std::mem::take(&mut record.accepts).keys() {
        record.known.remove(id);
    }
    let delay = Backoff::RECORD.delay(record.pending.attempts + 1, fastrand::f64());
    record.outcome = Outcome::Retry {
        delay_ms: delay.as_millis() as i64,
        charged: true,
        class: ErrorClass::Transient,
        code: "refused_by_table".to_owned(),
        error: error.message(),
    };
}

/// The table refuses what the CRM holds: a person decides.
fn refuse(map: &Map, record: &mut Resolution, error: &StoreError) {
    for (id, take) in std::mem::take(&mut record.accepts) {
        record.known.remove(&id);
        record.conflicts.push(Conflict {
            field_id: id,
            kind: "mapping_mismatch",
            local: take.local.map_or(Json::Null, |v| v.to_json()),
            crm: take.crm.to_json(),
            base: json!({ "error": error.message() }),
            policy: map.field(id).map_or("crm_wins", |f| f.policy.name()),
        });
    }
}
