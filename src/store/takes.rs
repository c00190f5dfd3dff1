//! Rows that take what the CRM holds: as their owner, in few statements, and never over an edit that came meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crm_domain::conflict;
use crm_domain::{Cells, Value};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use super::apply::{self, Ours, Row};
use super::config::Map;
use super::reconcile::{Conflict, Settled, keys_of};
use super::values::{self, RowValues, Wanted};
use super::{Kept, StoreError, as_owner, edits, subtransaction};
use crate::settings::Settings;

/// How long the transforms of one row may take.
fn limit() -> Duration {
    Settings::current().transform_timeout
}

/// Records of whose rows cells are to be set, but whose rows somebody is changing.
pub(super) fn rows_in_use(
    map: &Map,
    records: &[Settled],
    held: &HashSet<usize>,
) -> Result<Vec<usize>, StoreError> {
    let taking: Vec<usize> = (0..records.len())
        .filter(|n| !held.contains(n) && !records[*n].takes.is_empty())
        .collect();
    if taking.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<(&str, &str)> = taking.iter().map(|&n| keys_of(&records[n])).collect();
    let free: HashSet<String> = as_owner(map.owner, || {
        Spi::connect_mut(|client| apply::lock_free(client, map, &keys))
    })?
    .into_iter()
    .collect();
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
    let rows = values::read(map, &wanted, usize::MAX, Some(limit()))?;
    Ok(taking
        .iter()
        .enumerate()
        .filter(|(place, n)| {
            !free.contains(&records[**n].pending.record_key)
                && !matches!(rows.get(place), Some(RowValues::Missing))
        })
        .map(|(_, n)| *n)
        .collect())
}

/// Sets cells of rows as their owner. A row that changed since is left alone: its own edit is on its way here.
pub(super) fn take(
    client: &mut SpiClient,
    map: &Map,
    records: &mut [Settled],
) -> Result<(), StoreError> {
    let taking: Vec<usize> = (0..records.len())
        .filter(|&n| !records[n].takes.is_empty())
        .collect();
    if taking.is_empty() {
        return Ok(());
    }
    let cells: Vec<Cells> = taking
        .iter()
        .map(|&n| records[n].takes.keys().copied().collect())
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
    let rows = values::read(map, &wanted, usize::MAX, Some(limit()))?;
    // By the columns that change, so that each kind of change is one statement.
    let mut by_cells: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (place, &n) in taking.iter().enumerate() {
        let current: BTreeMap<u16, &Value> = match rows.get(&place) {
            Some(RowValues::Found(fields)) => {
                fields.iter().map(|(id, _, value)| (*id, value)).collect()
            }
            _ => BTreeMap::new(),
        };
        let record = &mut records[n];
        // An edit that came meanwhile was made without having seen the CRM's value either: it keeps its base.
        for (id, take) in &record.takes {
            let then = take.local.as_ref();
            let edited = |now: &&Value| then.is_some_and(|then| then != *now);
            if current.get(id).is_some_and(edited) {
                record.known.remove(id);
            }
        }
        record
            .takes
            .retain(|id, take| match (current.get(id), &take.local) {
                (Some(now), Some(then)) => *now == then && **now != take.crm,
                (Some(now), None) => **now != take.crm,
                (None, _) => false,
            });
        let cells: Cells = record.takes.keys().copied().collect();
        if !cells.is_empty() {
            by_cells.entry(cells.to_bytes()).or_default().push(n);
        }
    }
    for (cells, places) in by_cells {
        for chunk in places.chunks(500) {
            take_together(client, map, records, &cells, chunk)?;
        }
    }
    Ok(())
}

/// One statement for rows of which the same cells change; row by row if one of them is refused.
fn take_together(
    client: &mut SpiClient,
    map: &Map,
    records: &mut [Settled],
    cells: &[u8],
    places: &[usize],
) -> Result<(), StoreError> {
    let ids: Vec<u16> = Cells::from_bytes(cells).iter().collect();
    let columns: Vec<&str> = ids
        .iter()
        .filter_map(|id| map.field(*id))
        .map(|f| f.column.as_str())
        .collect();
    let result = subtransaction(|| {
        let rows = places
            .iter()
            .map(|&n| row(map, &records[n]))
            .collect::<Result<Vec<_>, _>>()?;
        let _ours = Ours::taken(map.id, cells.to_vec(), &rows);
        as_owner(map.owner, || {
            Spi::connect_mut(|client| apply::update(client, map, &columns, &rows))
        })
    });
    match result {
        Ok(_) => recapture(client, map, records, cells, places),
        Err(error) if error.is_transient() => Err(error),
        Err(error) if places.len() == 1 => {
            // The table refuses what the CRM holds: a person decides.
            let record = &mut records[places[0]];
            for (id, take) in std::mem::take(&mut record.takes) {
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
            Ok(())
        }
        Err(_) => {
            for place in places {
                take_together(client, map, records, cells, &[*place])?;
            }
            Ok(())
        }
    }
}

fn row(map: &Map, record: &Settled) -> Result<Row, StoreError> {
    let mut object = JsonMap::new();
    for (id, take) in &record.takes {
        let Some(field) = map.field(*id) else {
            continue;
        };
        let canonical = take.crm.to_json();
        let value = match &field.transform_in {
            Some(transform) => edits::transformed(map, transform, &canonical)?,
            None => field.column_json(&canonical),
        };
        object.insert(field.column.clone(), value);
    }
    Ok(Row {
        shard_key: record.pending.shard_key.clone(),
        record_key: record.pending.record_key.clone(),
        values: Json::Object(object).to_string(),
    })
}

/// What a trigger of the table made of the CRM's value is an edit like any other.
fn recapture(
    client: &mut SpiClient,
    map: &Map,
    records: &[Settled],
    cells: &[u8],
    places: &[usize],
) -> Result<(), StoreError> {
    let cells = Cells::from_bytes(cells);
    let wanted: Vec<Wanted> = places
        .iter()
        .map(|&n| Wanted {
            shard_key: &records[n].pending.shard_key,
            record_key: &records[n].pending.record_key,
            cells: &cells,
        })
        .collect();
    let rows = values::read(map, &wanted, usize::MAX, Some(limit()))?;
    for (place, &n) in places.iter().enumerate() {
        let Some(RowValues::Found(fields)) = rows.get(&place) else {
            continue;
        };
        let mut base = JsonMap::new();
        let mut changed = Cells::new();
        for (id, _, value) in fields {
            let Some(take) = records[n].takes.get(id) else {
                continue;
            };
            if *value != take.crm && map.field(*id).is_some_and(|f| f.is_checked()) {
                let hash = crate::worker::protocol::to_hex(&conflict::hash(&take.crm));
                base.insert(id.to_string(), json!({ "h": hash }));
                changed.insert(*id);
            }
        }
        if !changed.is_empty() {
            client.update("SELECT crm.note_change(true)", None, &[])?;
            client.update(
                Kept("INSERT INTO crm.change (shard_key, map_id, record_keys, op, cells, base, actor)
                 VALUES ($1, $2, ARRAY[$3], 'u', $4, $5::jsonb, 'pg_crm')"),
                None,
                &[
                    records[n].pending.shard_key.as_str().into(),
                    map.id.into(),
                    records[n].pending.record_key.as_str().into(),
                    changed.to_bytes().into(),
                    Json::Object(base).to_string().into(),
                ],
            )?;
        }
    }
    Ok(())
}
