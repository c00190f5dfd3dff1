//! `crm_internal.in_filter()`: what capture functions ask about a row before and after a statement.

use pgrx::prelude::*;

use super::or_raise;
use crate::store::map_cache;
use crate::store::table::membership;

/// Whether a row is inside the filter of its map, as the table's owner. `values`: the texts of the
/// columns that the filter reads.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn in_filter(relation: pg_sys::Oid, map_id: i32, values: Vec<Option<String>>) -> bool {
    let maps = or_raise(map_cache::targets(relation));
    match maps.iter().find(|(map, _)| map.id == map_id) {
        Some((map, _)) => or_raise(membership::of_values(map, values)),
        None => true,
    }
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.in_filter(oid, int, text[]) IS 'for capture triggers: whether a row with these values of the filter''s columns is inside the filter of a map';",
    name = "filter_comments",
    requires = [in_filter]
);
