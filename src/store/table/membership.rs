//! Which rows of a table are inside the filter of its map, by the filter's own columns and as the
//! table's owner.
//!
//! Guarantees: no statement of an application fails because a filter does. A row for which it fails
//! is neither inside nor outside.
//!
//! A filter is made of immutable functions, so what it says of some values it says of them each
//! time: most tables have few that it distinguishes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use pgrx::prelude::*;

use crate::store::config::map::Map;
use crate::store::error::{Fault, StoreError};
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;
use crate::store::table::owner::as_owner_of;
use crate::store::transaction::subtransaction;

/// Values of which it is remembered what a filter says; no more than that many.
const REMEMBERED: usize = 1000;
/// Bytes of the longest values that are remembered.
const LONGEST: usize = 1024;

type Values = Vec<Option<String>>;
/// Of the map that was last asked about, as it was then.
type Known = Option<(Arc<Map>, HashMap<Values, Option<bool>>)>;

thread_local! {
    static KNOWN: RefCell<Known> = const { RefCell::new(None) };
}

/// Whether a row is inside that holds these texts in the columns of the filter; `None`: the filter
/// fails for it. An error: the statement as a whole is to end.
pub fn of_values(map: &Arc<Map>, values: Values) -> Result<Option<bool>, StoreError> {
    let is_long = values.iter().flatten().map(String::len).sum::<usize>() > LONGEST;
    if let Some(known) = known(map, &values).filter(|_| !is_long) {
        return Ok(known);
    }
    let is_inside = match subtransaction(|| evaluate(map, &values)) {
        Ok(is_inside) => Some(is_inside),
        Err(error) if error.ends_the_statement() => return Err(error),
        // Another time it may not.
        Err(error) if error.fault() != Fault::Row => return Ok(None),
        Err(_) => None,
    };
    if is_long {
        return Ok(is_inside);
    }
    KNOWN.with_borrow_mut(|slot| match slot {
        Some((of, known)) if Arc::ptr_eq(of, map) && known.len() < REMEMBERED => {
            known.insert(values, is_inside);
        }
        _ => *slot = Some((map.clone(), HashMap::from([(values, is_inside)]))),
    });
    Ok(is_inside)
}

fn known(map: &Arc<Map>, values: &Values) -> Option<Option<bool>> {
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
