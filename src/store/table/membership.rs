//! Which rows of a table are inside the filter of its map, by the filter's own columns and as the
//! table's owner.
//!
//! A filter is made of immutable functions, so what it says of some values it says of them each
//! time: most tables have few that it distinguishes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use pgrx::prelude::*;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;
use crate::store::table::owner::as_owner_of;

/// Values of which it is remembered what a filter says; no more than that many.
const REMEMBERED: usize = 1000;
/// Bytes of the longest values that are remembered.
const LONGEST: usize = 1024;

type Values = Vec<Option<String>>;
/// Of the map that was last asked about, as it was then.
type Known = Option<(Arc<Map>, HashMap<Values, bool>)>;

thread_local! {
    static KNOWN: RefCell<Known> = const { RefCell::new(None) };
}

/// Whether a row is inside that holds these texts in the columns of the filter.
pub fn of_values(map: &Arc<Map>, values: Values) -> Result<bool, StoreError> {
    if values.iter().flatten().map(String::len).sum::<usize>() > LONGEST {
        return evaluate(map, &values);
    }
    if let Some(known) = known(map, &values) {
        return Ok(known);
    }
    let is_inside = evaluate(map, &values)?;
    KNOWN.with_borrow_mut(|slot| match slot {
        Some((of, known)) if Arc::ptr_eq(of, map) && known.len() < REMEMBERED => {
            known.insert(values, is_inside);
        }
        _ => *slot = Some((map.clone(), HashMap::from([(values, is_inside)]))),
    });
    Ok(is_inside)
}

fn known(map: &Arc<Map>, values: &Values) -> Option<bool> {
    KNOWN.with_borrow(|slot| match slot {
        Some((of, known)) if Arc::ptr_eq(of, map) => known.get(values).copied(),
        _ => None,
    })
}

fn evaluate(map: &Map, values: &Values) -> Result<bool, StoreError> {
    let Some(filter) = &map.filter else {
        return Ok(true);
    };
    let statement = filter.of_values();
    as_owner_of(map, || {
        Spi::connect_mut(|client| {
            let rows = client.update(Cached(&statement), None, &[values.clone().into()])?;
            row::only(rows)?.required("inside")
        })
    })
}
