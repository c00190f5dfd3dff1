//! Sets cells of rows to the CRM's values, as the table's owner and in few statements.
//!
//! The caller has locked the records and their rows, and has decided. Guarantees: a row that the
//! table refuses does not keep the others from being written; a value that its column would change
//! is refused.

use std::collections::BTreeMap;

use crm_domain::{Cells, Value, conflict, hex};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::crm_forms::{self, CrmForm};
use crate::store::statement::Cached;
use crate::store::table::capture_guard::SuppressCapture;
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::{self, Pace};
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::spelling;
use crate::store::table::update::{self, Row};

pub use crate::store::table::crm_values::{Altered, CrmValues, columns};

/// What became of rows whose cells were to be set, by their places.
#[derive(Default)]
pub struct WriteResult {
    /// Rows that the table refuses, whose code takes too long, or that would have had to wait for a
    /// lock, and why.
    pub refused: Vec<(usize, StoreError)>,
    /// What rows hold instead of what they were to hold.
    pub altered: Vec<(usize, Altered)>,
}

/// Sets the cells. `bounds`: for reading what the rows hold then.
pub fn set(
    client: &mut SpiClient,
    map: &Map,
    changes: &[CrmValues],
    pace: &mut Pace,
    bounds: &Bounds,
) -> Result<WriteResult, StoreError> {
    let (mut altered, mut fault) = (Vec::new(), None);
    let refused = pace::in_any_order((0..changes.len()).collect(), |places| {
        // By the columns that change, so that each kind of change is one statement.
        let mut by_cells: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for &n in places {
            let cells: Cells = changes[n].values.keys().copied().collect();
            by_cells.entry(cells.to_bytes()).or_default().push(n);
        }
        let mut refused = Vec::new();
        for (cells, places) in by_cells {
            refused.extend(pace::each(pace, &places, |pace, places| {
                let as_given = set_together(map, changes, &cells, places, pace)?;
                if fault.is_some() {
                    return Ok(());
                }
                let set: Vec<&CrmValues> = places.iter().map(|&n| &changes[n]).collect();
                let cells = Cells::from_bytes(&cells);
                match recapture(client, map, &cells, &set, &as_given, bounds) {
                    Ok(found) => altered.extend(found.into_iter().map(|(n, a)| (places[n], a))),
                    Err(error) => fault = Some(error),
                }
                Ok(())
            }));
        }
        refused
    });
    // Not a row's fault: everything is rolled back.
    fault.map_or(Ok(WriteResult { refused, altered }), Err)
}

/// One statement for rows of which the same cells change; says for each whether it holds what it
/// was given.
fn set_together(
    map: &Map,
    changes: &[CrmValues],
    cells: &[u8],
    places: &[usize],
    pace: &mut Pace,
) -> Result<Vec<bool>, StoreError> {
    let columns: Vec<&str> = Cells::from_bytes(cells)
        .iter()
        .filter_map(|id| map.field(id))
        .map(|f| f.column.as_str())
        .collect();
    pace.run_nested(places.len(), || {
        let rows = places
            .iter()
            .map(|&n| row(map, &changes[n]))
            .collect::<Result<Vec<_>, _>>()?;
        let _ours = SuppressCapture::of_crm_values(map.id, cells.to_vec(), &rows);
        let changed = as_owner_of(map, || {
            let objects: Vec<&str> = rows.iter().map(|r| r.values.as_str()).collect();
            spelling::refuse_rounded(map, columns.iter().copied(), &objects)?;
            Spi::connect_mut(|client| update::update_looking(client, map, &columns, &rows))
        })?;
        // They are locked, so they are there.
        if changed.len() < rows.len() {
            return Err(StoreError::prevented("changed"));
        }
        let mut as_given = vec![true; rows.len()];
        for row in changed {
            as_given[row.place] = row.as_given;
        }
        Ok(as_given)
    })
}

fn row(map: &Map, taking: &CrmValues) -> Result<Row, StoreError> {
    Ok(Row {
        shard_key: taking.shard_key.to_owned(),
        record_key: taking.record_key.to_owned(),
        values: Json::Object(columns(map, &taking.values)?).to_string(),
    })
}

/// Captures what the table's triggers made of the CRM's values: an edit like any other if edits of
/// the cell go to the CRM. What the column's type makes of a value is none: both forms are
/// remembered. Returns all such values; for cells whose edits are not sent, only those in which the
/// row does not hold what it was given.
pub fn recapture(
    client: &mut SpiClient,
    map: &Map,
    cells: &Cells,
    changes: &[&CrmValues],
    as_given: &[bool],
    bounds: &Bounds,
) -> Result<Vec<(usize, Altered)>, StoreError> {
    let is_checked = |id: &u16| map.field(*id).is_some_and(|f| f.is_checked());
    let checked: Cells = cells.iter().filter(is_checked).collect();
    let places: Vec<usize> = (0..changes.len())
        .filter(|&n| !as_given[n] || !checked.is_empty())
        .collect();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<Wanted> = places
        .iter()
        .map(|&n| Wanted {
            shard_key: changes[n].shard_key,
            record_key: changes[n].record_key,
            cells: if as_given[n] { &checked } else { cells },
        })
        .collect();
    let mut rows = read::read(map, &wanted, &bounds.whole().lenient())?;
    let mut all: Vec<(usize, Altered)> = Vec::new();
    for (place, &n) in places.iter().enumerate() {
        let Some(RowValues::Found(fields)) = rows.remove(&place) else {
            continue;
        };
        // Where the CRM holds more than it is known to keep of what it is sent, the row holds as
        // much.
        let differs = |id: u16, value: &Value| {
            let crm = changes[n].values.get(&id);
            crm.is_some_and(|crm| {
                value != *crm
                    && map
                        .field(id)
                        .is_none_or(|f| f.stored((*crm).clone()) != *value)
            })
        };
        let fields = fields.into_iter().map(|(id, _, value)| (id, value));
        let altered: Altered = fields.filter(|(id, value)| differs(*id, value)).collect();
        if !altered.is_empty() {
            all.push((n, altered));
        }
    }
    let spelled = spelling::spelled(map, changes, &all, bounds);
    let mut forms = Vec::with_capacity(spelled.len());
    for (n, altered) in &all {
        let taking = changes[*n];
        let mut base = JsonMap::new();
        let mut changed = Cells::new();
        for (id, value) in altered {
            let crm = conflict::hash(taking.values[id]);
            if spelled.contains(&(*n, *id)) {
                forms.push(CrmForm {
                    shard_key: taking.shard_key,
                    record_key: taking.record_key,
                    field_id: *id,
                    row: conflict::hash(value),
                    crm,
                });
            } else if is_checked(id) {
                base.insert(id.to_string(), json!({ "h": hex::encode(&crm) }));
                changed.insert(*id);
            }
        }
        if !changed.is_empty() {
            let (shard_key, record_key) = (taking.shard_key, taking.record_key);
            edited(client, map, shard_key, record_key, &changed, base)?;
        }
    }
    forms.retain(|form| map.field(form.field_id).is_some_and(|f| f.written));
    crm_forms::remember(client, map, &forms)?;
    Ok(all)
}

/// Captures an edit of checked cells, as the trigger of the table would.
pub fn edited(
    client: &mut SpiClient,
    map: &Map,
    shard_key: &str,
    record_key: &str,
    cells: &Cells,
    base: JsonMap<String, Json>,
) -> Result<(), StoreError> {
    client.update(Cached("SELECT crm_internal.note_change(true)"), None, &[])?;
    client.update(
        Cached(
            "INSERT INTO crm.change (shard_key, map_id, record_keys, op, cells, base, actor)
             VALUES ($1, $2, ARRAY[$3], 'u', $4, $5::jsonb, 'pg_crm')",
        ),
        None,
        &[
            shard_key.into(),
            map.id.into(),
            record_key.into(),
            cells.to_bytes().into(),
            Json::Object(base).to_string().into(),
        ],
    )?;
    Ok(())
}
