//! Compares rows with the ledger, a part of the table at a time in the order of its key: which
//! cells differ from what the CRM last held, although nothing waits to be sent for them.
//!
//! Guarantees: no more than a part is in memory, and each row is read once or twice, so the cost is
//! linear. A cell is reported as different only if the ledger said the same of it before and after
//! its row was read, and nothing waited for it at either time.

use std::collections::HashMap;

use crm_domain::{Cells, Failure, Value, conflict};
use pgrx::spi::SpiClient;

use crate::store::capture::filtered;
use crate::store::capture::ledger_state::{Known, known};
use crate::store::capture::scan_order::Order;
use crate::store::config::map::Map;
use crate::store::error::StoreError;

pub use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};

/// A part of a table, compared.
#[derive(Default)]
pub struct Part {
    /// Its last row; `None`: there was no row left.
    pub last: Option<Key>,
    pub rows: usize,
    pub differing: Vec<Differing>,
    /// Rows without a ledger entry.
    pub strangers: Vec<Key>,
    /// Rows outside the filter of the map.
    pub outside: Vec<Key>,
}

/// The cells of one row that are not in step.
pub struct Differing {
    pub key: Key,
    pub cells: Cells,
    /// The row cannot be read, so it would not be sent either.
    pub failure: Option<Failure>,
}

/// Compares the next rows of a map's table, as its owner.
pub fn part(
    client: &mut SpiClient,
    map: &Map,
    order: &Order,
    after: Option<&Key>,
    rows: usize,
    bounds: &Bounds,
) -> Result<Part, StoreError> {
    let mut scanned = filtered::rows(map, order, after, rows, bounds)?;
    let inside = scanned.iter().filter(|(_, inside)| *inside);
    let mut keys: Vec<Key> = inside.map(|(key, _)| key.clone()).collect();
    let known = known(client, map, &keys)?;
    let places: Vec<usize> = (0..keys.len())
        .filter(|n| known[*n].as_ref().is_some_and(|k| !k.at_rest.is_empty()))
        .collect();
    let wanted: Vec<Wanted> = places
        .iter()
        .filter_map(|&n| Some(Wanted::of(&keys[n], &known[n].as_ref()?.at_rest)))
        .collect();
    let mut read = read::read(map, &wanted, bounds)?;
    // Rows that there was no time or room for belong to the next part.
    if let Some(unread) = (0..places.len()).find(|n| !read.contains_key(n)) {
        drop(wanted);
        let first = &keys[places[unread]];
        let before = scanned.iter().position(|(key, _)| key == first);
        scanned.truncate(before.unwrap_or_default());
        if scanned.is_empty() {
            return Err(StoreError::Postponed);
        }
        keys.truncate(places[unread]);
    }
    let mut suspects = Vec::new();
    for (place, &n) in places.iter().enumerate().filter(|(_, n)| **n < keys.len()) {
        let Some(known) = &known[n] else { continue };
        let (cells, failure) = match read.remove(&place) {
            Some(RowValues::Found(fields)) => {
                let differs =
                    |(id, value): (u16, Value)| (!is_in_step(map, known, id, value)).then_some(id);
                let fields = fields.into_iter().map(|(id, _, value)| (id, value));
                (fields.filter_map(differs).collect(), None)
            }
            Some(RowValues::Unreadable(failure)) => (known.at_rest.clone(), Some(failure)),
            Some(RowValues::Missing) | None => continue,
        };
        if !Cells::is_empty(&cells) {
            suspects.push((n, cells, failure));
        }
    }
    let mut part = Part {
        last: scanned.last().map(|(key, _)| key.clone()),
        rows: scanned.len(),
        outside: (scanned.into_iter())
            .filter_map(|(key, inside)| (!inside).then_some(key))
            .collect(),
        ..Part::default()
    };
    let whole = bounds.whole();
    leave_out_the_crms_own(map, &keys, &known, &mut suspects, &whole)?;
    if !suspects.is_empty() {
        let at: Vec<Key> = suspects.iter().map(|(n, _, _)| keys[*n].clone()).collect();
        let now = self::known(client, map, &at)?;
        for ((n, cells, failure), now) in suspects.into_iter().zip(now) {
            let (Some(then), Some(now)) = (&known[n], now) else {
                continue;
            };
            let same = |id: &u16| now.at_rest.contains(*id) && now.hash(*id) == then.hash(*id);
            let cells: Cells = cells.iter().filter(same).collect();
            if !cells.is_empty() {
                part.differing.push(Differing {
                    key: keys[n].clone(),
                    cells,
                    failure,
                });
            }
        }
    }
    let strangers = keys.iter().zip(&known).filter(|(_, known)| known.is_none());
    part.strangers = strangers.map(|(key, _)| key.clone()).collect();
    Ok(part)
}

/// Whether the CRM holds what it should with that in the row. For an empty cell it may have been
/// sent nothing, or been created with a default.
fn is_in_step(map: &Map, known: &Known, id: u16, value: Value) -> bool {
    let is_known = |value: &Value| known.is_in_step(id, &conflict::hash(value));
    let Some(field) = map.field(id) else {
        return is_known(&value);
    };
    is_known(&value) || field.is_withheld(&value) || is_known(&field.created_with(value))
}

/// A row may hold more of a value that came from the CRM than would be sent back (decimals, for
/// instance): nothing has changed then.
fn leave_out_the_crms_own(
    map: &Map,
    keys: &[Key],
    known: &[Option<Known>],
    suspects: &mut Vec<(usize, Cells, Option<Failure>)>,
    bounds: &Bounds,
) -> Result<(), StoreError> {
    let raw = Bounds {
        raw: true,
        ..*bounds
    };
    let mut own: Vec<Cells> = Vec::with_capacity(suspects.len());
    while own.len() < suspects.len() {
        let left = &suspects[own.len()..];
        let wanted: Vec<Wanted> = left
            .iter()
            .map(|(n, cells, _)| Wanted::of(&keys[*n], cells))
            .collect();
        let mut rows = read::read(map, &wanted, &raw)?;
        if !rows.contains_key(&0) {
            return Err(StoreError::Postponed);
        }
        for (place, (n, _, _)) in left.iter().enumerate() {
            let Some(row) = rows.remove(&place) else {
                break;
            };
            own.push(match (row, &known[*n]) {
                (RowValues::Found(fields), Some(known)) => fields
                    .iter()
                    .filter(|(id, _, value)| known.is_in_step(*id, &conflict::hash(value)))
                    .map(|(id, _, _)| *id)
                    .collect(),
                _ => Cells::new(),
            });
        }
    }
    for ((_, cells, _), own) in suspects.iter_mut().zip(own) {
        *cells = cells.difference(&own);
    }
    suspects.retain(|(_, cells, _)| !cells.is_empty());
    Ok(())
}

/// Removes cells and rows that have changes which are not folded yet. No index finds a change that
/// names several records, so this reads all changes of the map: call it for many keys at once.
pub fn leave_out_unfolded(
    client: &mut SpiClient,
    map: &Map,
    differing: &mut Vec<Differing>,
    strangers: &mut Vec<Key>,
) -> Result<(), StoreError> {
    let keys: Vec<&Key> = differing
        .iter()
        .map(|d| &d.key)
        .chain(strangers.iter())
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = client.update(
        "SELECT k.shard_key, k.record_key, crm_internal.cells_union(c.cells) AS cells, bool_or(c.op IN ('d', 'x')) AS deleted
         FROM crm.change c CROSS JOIN unnest(c.record_keys) AS r (record_key)
         JOIN unnest($2::text[], $3::text[]) AS k (shard_key, record_key) ON k.shard_key = c.shard_key AND k.record_key = r.record_key
         WHERE c.map_id = $1 GROUP BY k.shard_key, k.record_key",
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut unfolded: HashMap<Key, (Cells, bool)> = HashMap::new();
    for row in rows {
        let key = Key {
            shard_key: row.required("shard_key")?,
            record_key: row.required("record_key")?,
        };
        let cells = Cells::from_bytes(row.optional::<&[u8]>("cells")?.unwrap_or_default());
        unfolded.insert(key, (cells, row.required("deleted")?));
    }
    strangers.retain(|key| !unfolded.contains_key(key));
    for d in differing.iter_mut() {
        match unfolded.get(&d.key) {
            Some((_, true)) => d.cells = Cells::new(),
            Some((cells, false)) => d.cells = d.cells.difference(cells),
            None => {}
        }
    }
    differing.retain(|d| !d.cells.is_empty());
    Ok(())
}

/// Records of the next part of the ledger whose rows are gone, though nothing waits for them; and
/// the last record of the part.
pub fn without_rows(
    client: &mut SpiClient,
    map: &Map,
    after: Option<&Key>,
    rows: usize,
    bounds: &Bounds,
) -> Result<(Vec<Key>, Option<Key>), StoreError> {
    let found = client.update(
        Cached(
            "SELECT l.shard_key, l.record_key,
                    l.crm_id IS NOT NULL AND NOT EXISTS (
                        SELECT FROM crm.queue q WHERE q.shard_key = l.shard_key AND q.map_id = l.map_id AND q.record_key = l.record_key) AS nothing_waits
             FROM crm.ledger l
             WHERE l.map_id = $1 AND (l.shard_key, l.map_id, l.record_key) > ($2, CASE WHEN $5 THEN $1 ELSE -1 END, $3)
             ORDER BY l.shard_key, l.map_id, l.record_key LIMIT $4",
        ),
        None,
        &[
            map.id.into(),
            after.map_or("", |key| key.shard_key.as_str()).into(),
            after.map_or("", |key| key.record_key.as_str()).into(),
            (rows as i64).into(),
            after.is_some().into(),
        ],
    )?;
    let mut keys = Vec::with_capacity(rows);
    let mut last = None;
    for row in found {
        let key = Key {
            shard_key: row.required("shard_key")?,
            record_key: row.required("record_key")?,
        };
        if row.required("nothing_waits")? {
            keys.push(key.clone());
        }
        last = Some(key);
    }
    let none = Cells::new();
    let wanted: Vec<Wanted> = keys.iter().map(|key| Wanted::of(key, &none)).collect();
    let read = read::read(map, &wanted, &bounds.whole().unfiltered())?;
    drop(wanted);
    let is_gone = |(n, key)| matches!(read.get(&n), Some(RowValues::Missing)).then_some(key);
    Ok((
        keys.into_iter().enumerate().filter_map(is_gone).collect(),
        last,
    ))
}
