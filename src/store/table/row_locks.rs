//! Locks on users' rows.

use std::collections::HashSet;
use std::time::Duration;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::settings_scope::SettingsScope;
use crate::store::statement::{Cached, names};
use crate::store::table::pace::{self, Pace};

/// Rows that one statement locks.
const PART: usize = 1000;

/// Locks the rows that no other session has locked, and returns their places. A row whose policies
/// fail, or take longer than `limit`, is not among them: reading it says why.
pub fn lock_free(
    map: &Map,
    keys: &[(&str, &str)],
    limit: Duration,
) -> Result<HashSet<usize>, StoreError> {
    let all: Vec<usize> = (0..keys.len()).collect();
    let mut free = HashSet::with_capacity(keys.len());
    let mut pace = Pace::putting_off(map, limit);
    let failed = pace::each(&mut pace, &all, |pace, part| {
        let some: Vec<(&str, &str)> = part.iter().map(|&n| keys[n]).collect();
        let locked = pace.run(part.len(), || {
            Spi::connect_mut(|client| {
                lock_rows(client, map, &some, "FOR NO KEY UPDATE OF t SKIP LOCKED")
            })
        })?;
        free.extend(locked.into_iter().map(|n| part[n]));
        Ok(())
    });
    for (_, error) in failed {
        if matches!(error, StoreError::BeforeOwnersCode { .. }) {
            return Err(error);
        }
    }
    Ok(free)
}

/// Locks a row, however long that takes; `false`: the current user sees none. A session that
/// changed the row first had no lock but this one, so it comes before the record's: two sessions
/// cannot wait for each other.
pub fn lock(map: &Map, shard_key: &str, record_key: &str) -> Result<bool, StoreError> {
    let _settings = SettingsScope::begin();
    Spi::connect_mut(|client| {
        let keys = [(shard_key, record_key)];
        let found = names::restrict_to(&map.names, || {
            lock_rows(client, map, &keys, "FOR NO KEY UPDATE OF t")
        })?;
        Ok(!found.is_empty())
    })
}

/// Keeps other sessions from deleting rows until the transaction ends; returns the places of those
/// that are there.
pub fn lock_present(
    map: &Map,
    keys: &[(&str, &str)],
    limit: Option<Duration>,
) -> Result<HashSet<usize>, StoreError> {
    let mut present = HashSet::with_capacity(keys.len());
    let mut pace = Pace::new(map, limit);
    for (part, keys) in keys.chunks(PART).enumerate() {
        let found = pace.run(keys.len(), || {
            Spi::connect_mut(|client| lock_rows(client, map, keys, "FOR KEY SHARE OF t"))
        })?;
        present.extend(found.into_iter().map(|n| part * PART + n));
    }
    Ok(present)
}

/// The places of those rows that were inserted or updated since a snapshot was taken. An xmin older
/// than 2^31 transactions counts as old.
pub fn newer_than(
    map: &Map,
    keys: &[(&str, &str)],
    snapshot: &str,
    limit: Option<Duration>,
) -> Result<HashSet<usize>, StoreError> {
    let statement = format!(
        "SELECT k.ord - 1 AS ord FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))
                              WITH ORDINALITY AS k (shard_key, record_key, ord)
         JOIN {relation} AS t ON {row}
         WHERE NOT pg_catalog.pg_visible_in_snapshot(
             (pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8 OPERATOR(pg_catalog.-) pg_catalog.age(t.xmin))
                 ::pg_catalog.text::pg_catalog.xid8, $3::pg_catalog.pg_snapshot)",
        relation = map.relation,
        row = map.is_row("k.shard_key", "k.record_key"),
    );
    let mut newer = HashSet::new();
    let mut pace = Pace::new(map, limit);
    for (part, keys) in keys.chunks(PART).enumerate() {
        let (shards, records): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
        let args = [shards.into(), records.into(), snapshot.into()];
        pace.run(keys.len(), || {
            Spi::connect_mut(|client| {
                for row in client.update(Cached(&statement), None, &args)? {
                    newer.insert(part * PART + row.number("ord")?);
                }
                Ok(())
            })
        })?;
    }
    Ok(newer)
}

fn lock_rows(
    client: &mut SpiClient,
    map: &Map,
    keys: &[(&str, &str)],
    lock: &str,
) -> Result<HashSet<usize>, StoreError> {
    let statement = format!(
        "SELECT k.ord - 1 AS ord FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))
                              WITH ORDINALITY AS k (shard_key, record_key, ord)
         JOIN {relation} AS t ON {row} {lock}",
        relation = map.relation,
        row = map.is_row("k.shard_key", "k.record_key"),
    );
    let result = client.update(
        Cached(&statement),
        None,
        &[
            keys.iter()
                .map(|(shard, _)| *shard)
                .collect::<Vec<_>>()
                .into(),
            keys.iter().map(|(_, key)| *key).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut found = HashSet::with_capacity(result.len());
    for row in result {
        found.insert(row.number("ord")?);
    }
    Ok(found)
}

/// Whether the current user sees the row. What a policy sets on the way is none of the user's
/// doing.
pub fn is_visible(map: &Map, shard_key: &str, record_key: &str) -> Result<bool, StoreError> {
    let statement = format!(
        "SELECT 1 FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS k (shard_key, record_key)
         JOIN {relation} AS t ON {row}",
        relation = map.relation,
        row = map.is_row("k.shard_key", "k.record_key"),
    );
    let _settings = SettingsScope::begin();
    Spi::connect_mut(|client| {
        let args = [vec![shard_key].into(), vec![record_key].into()];
        let rows = names::restrict_to(&map.names, || {
            client.update(Cached(&statement), None, &args)
        })?;
        Ok(!rows.is_empty())
    })
}
