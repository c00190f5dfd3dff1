//! Filters of maps: what capture functions ask about a row before and after a statement, and
//! whether a filter can be evaluated at all.

use pgrx::prelude::*;

use super::or_raise;
use crate::store::capture::condition;
use crate::store::table::membership;
use crate::store::{config, map_cache, rights};

/// Whether a row is inside the filter of its map, as the table's owner; NULL: the filter fails for
/// it. `values`: the texts of the columns that the filter reads.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn in_filter(relation: pg_sys::Oid, map_id: i32, values: Vec<Option<String>>) -> Option<bool> {
    let maps = or_raise(map_cache::targets(relation));
    match maps.iter().find(|(map, _)| map.id == map_id) {
        Some((map, _)) => or_raise(membership::of_values(map, values)),
        None => Some(true),
    }
}

/// Why the filter of a map can be evaluated for no row; NULL: it can, or there is none, or that
/// cannot be told now. To be called as `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn filter_trouble(map_id: i32) -> Option<String> {
    let checked = rights::pinned(|| {
        Spi::connect_mut(|client| {
            let map = config::map(client, map_id)?;
            let filter = map.as_ref().and_then(|map| map.condition());
            Ok(map
                .as_ref()
                .zip(filter)
                .map(|(map, filter)| condition::check(map, filter)))
        })
    });
    match or_raise(checked)? {
        Ok(_) => None,
        Err(error) if error.ends_the_statement() => or_raise(Err(error)),
        Err(error) if error.is_transient() => None,
        Err(error) => Some(error.message()),
    }
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.in_filter(oid, int, text[]) IS 'for capture triggers: whether a row with these values of the filter''s columns is inside the filter of a map; NULL: the filter fails for it';
COMMENT ON FUNCTION crm_internal.filter_trouble(int) IS 'why the filter of a map cannot be evaluated; NULL: it can, or there is none';
"#,
    name = "filter_comments",
    requires = [in_filter, filter_trouble]
);
