//! Rows of mapped tables, as their owners see them.

use pgrx::prelude::*;

use super::or_raise;
use crate::store::table::row_locks;
use crate::store::{config, rights};

/// Whether a row is there; if so, it cannot be deleted before the transaction ends. To be called as
/// `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn hold_row(map_id: i32, shard_key: &str, record_key: &str) -> bool {
    let (shard_keys, record_keys) = (vec![shard_key.to_owned()], vec![record_key.to_owned()]);
    !hold_rows(map_id, shard_keys, record_keys).is_empty()
}

/// The places, from 1 on, of the rows that are there; they cannot be deleted before the transaction
/// ends. To be called as `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn hold_rows(map_id: i32, shard_keys: Vec<String>, record_keys: Vec<String>) -> Vec<i32> {
    or_raise(rights::pinned(|| {
        Spi::connect_mut(|client| {
            let Some(map) = config::map(client, map_id)? else {
                return Ok(Vec::new());
            };
            let keys = shard_keys.iter().zip(&record_keys);
            let keys: Vec<(&str, &str)> = keys.map(|(s, r)| (s.as_str(), r.as_str())).collect();
            let present = row_locks::lock_present(&map, &keys, None)?;
            Ok(present.into_iter().map(|n| n as i32 + 1).collect())
        })
    }))
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.hold_rows(int, text[], text[]) IS 'the places of those rows that the owner of a map''s table sees; they cannot be deleted before the transaction ends';
COMMENT ON FUNCTION crm_internal.hold_row(int, text, text) IS 'whether the owner of a map''s table sees a row; if so, it cannot be deleted before the transaction ends';",
    name = "rows_comments",
    requires = [hold_row, hold_rows]
);
