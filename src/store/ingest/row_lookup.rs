//! Looks for rows by the keys that CRM records carry.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::pace::{self, Pace};
use crate::store::table::read_statement;

/// What a text is as a key of a table.
pub struct Sought {
    /// As capture spells it.
    pub record_key: String,
    /// Of the row that has it.
    pub row: Option<Key>,
    /// The row is not outside the filter of the map.
    pub is_inside: bool,
}

/// What a look for rows by their keys has found, by the place of the key.
pub struct Looked {
    /// Without those that cannot be a key of the table.
    pub found: HashMap<usize, Sought>,
    /// Keys for which the look failed, so that it is not known whether there is a row.
    pub unknown: HashMap<usize, StoreError>,
}

/// Looks for the rows of a map's table that have these keys.
pub fn rows_of(map: &Map, keys: &[&str], limit: Duration) -> Result<Looked, StoreError> {
    let all: Vec<usize> = (0..keys.len()).collect();
    let (mut found, mut unknown) = (HashMap::new(), HashMap::new());
    let mut pace = Pace::putting_off(map, limit);
    let failed = pace::each(&mut pace, &all, |pace, part| {
        let some: Vec<&str> = part.iter().map(|&n| keys[n]).collect();
        let rows = pace.run(part.len(), || read_rows(map, &some, true))?;
        found.extend(rows.into_iter().map(|(n, key)| (part[n], key)));
        Ok(())
    });
    for (n, error) in failed {
        if matches!(error, StoreError::BeforeOwnersCode { .. }) {
            return Err(error);
        }
        // Otherwise the text is not a value of the key's type, unless the filter failed.
        let is_key =
            map.filter.is_some() && pace.run(1, || read_rows(map, &[keys[n]], false)).is_ok();
        if !error.is_about_values() || is_key {
            unknown.insert(n, error);
        }
    }
    Ok(Looked { found, unknown })
}

fn read_rows(
    map: &Map,
    keys: &[&str],
    filtered: bool,
) -> Result<HashMap<usize, Sought>, StoreError> {
    let statement = format!(
        "SELECT k.ord - 1 AS ord, {} AS sought, {} AS shard_key, {} AS record_key,
                CASE WHEN t.{} IS NULL THEN true ELSE {} END AS inside
         FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS k (key, ord)
         LEFT JOIN {} AS t ON {}",
        map.record_key_of("k.key"),
        map.shard_key("t"),
        map.record_key("t"),
        quote_identifier(&map.key.name),
        read_statement::inside(map, filtered),
        map.relation,
        map.has_key("k.key"),
    );
    Spi::connect_mut(|client| {
        let mut found = HashMap::new();
        for row in client.update(Cached(&statement), None, &[keys.to_vec().into()])? {
            let (shard_key, record_key) = (row.required("shard_key")?, row.optional("record_key")?);
            let sought = Sought {
                record_key: row.required("sought")?,
                row: record_key.map(|record_key| Key {
                    shard_key,
                    record_key,
                }),
                is_inside: row.required("inside")?,
            };
            found.insert(row.number("ord")?, sought);
        }
        Ok(found)
    })
}

/// Places of texts that were seen before in the list.
pub fn repeated(keys: &[&str]) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let repeats = keys
        .iter()
        .enumerate()
        .filter(|(_, key)| !seen.insert(**key));
    repeats.map(|(n, _)| n).collect()
}
