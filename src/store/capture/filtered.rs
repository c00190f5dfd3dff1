//! The rows of a scan, judged by the filter of their map.
//!
//! Guarantees: a row for which the filter fails holds up no other one. It is not known to be
//! outside, so it counts as inside, and whoever reads it is told why it cannot be read.

use crm_domain::Cells;

use crate::store::capture::scan_order::Order;
use crate::store::config::map::Map;
use crate::store::error::{Fault, StoreError};
use crate::store::record::key::Key;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};

/// The keys of the next rows, and whether they are not outside the filter.
pub fn rows(
    map: &Map,
    order: &Order,
    after: Option<&Key>,
    rows: usize,
    bounds: &Bounds,
) -> Result<Vec<(Key, bool)>, StoreError> {
    let mut pace = Pace::new(map, bounds.time);
    let rows = rows.min(pace.room());
    match pace.run(rows, || order.rows(map, after, rows, map.condition())) {
        Err(error) if map.filter.is_some() && error.fault() == Fault::Row => {}
        scanned => return scanned,
    }
    let keys = pace.run(rows, || order.keys(map, after, rows))?;
    let none = Cells::new();
    let wanted: Vec<Wanted> = keys.iter().map(|key| Wanted::of(key, &none)).collect();
    let read = read::read(map, &wanted, &bounds.whole())?;
    drop(wanted);
    // Rows that there was no time for belong to the next part.
    let reached = (0..keys.len()).take_while(|n| read.contains_key(n)).count();
    if reached == 0 && !keys.is_empty() {
        return Err(StoreError::Postponed);
    }
    let judge = |(n, key)| (key, !matches!(read.get(&n), Some(RowValues::Missing)));
    Ok(keys
        .into_iter()
        .take(reached)
        .enumerate()
        .map(judge)
        .collect())
}
