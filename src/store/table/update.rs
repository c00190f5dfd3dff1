//! Setting cells of users' rows, so that their triggers fire and our own know whose doing it is.

use std::cell::RefCell;
use std::collections::HashSet;

use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier};

use crate::store::config::Map;
use crate::store::settings_scope::SettingsScope;
use crate::store::statement::{Kept, names};
use crate::store::table::pace::{self, Pace};
use crate::store::table::write;
use crate::store::transaction::StoreError;

/// Cells of a map's records that are being set right now.
struct Applying {
    map_id: i32,
    cells: Vec<u8>,
    /// As [`record_name`] makes them.
    records: Vec<String>,
    /// They take what the CRM holds; else they are a user's edit.
    from_crm: bool,
}

thread_local! {
    static OURS: RefCell<Vec<Applying>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, the capture triggers of the map leave these cells of these records alone: whoever holds it knows of
/// the change. What users' own triggers change on the way is captured as ever.
pub struct Ours;

impl Ours {
    /// A user's edit, that goes to the CRM.
    pub fn edited(map_id: i32, cells: Vec<u8>, rows: &[Row]) -> Ours {
        Ours::set(map_id, cells, rows, false)
    }

    /// What the CRM holds.
    pub fn taken(map_id: i32, cells: Vec<u8>, rows: &[Row]) -> Ours {
        Ours::set(map_id, cells, rows, true)
    }

    /// A row for a CRM record that had none.
    pub fn born(map_id: i32) -> Ours {
        Ours::set(map_id, Vec::new(), &[], true)
    }

    fn set(map_id: i32, cells: Vec<u8>, rows: &[Row], from_crm: bool) -> Ours {
        let records = rows
            .iter()
            .map(|r| record_name(&r.shard_key, &r.record_key))
            .collect();
        let applying = Applying {
            map_id,
            cells,
            records,
            from_crm,
        };
        OURS.with_borrow_mut(|ours| ours.push(applying));
        Ours
    }
}

/// One text for both keys of a record, as the triggers make it.
fn record_name(shard_key: &str, record_key: &str) -> String {
    format!("{shard_key}/{record_key}")
}

impl Drop for Ours {
    fn drop(&mut self) {
        OURS.with_borrow_mut(|ours| ours.pop());
    }
}

pub fn applying(map_id: i32) -> Option<Vec<u8>> {
    OURS.with_borrow(|ours| {
        let last = ours.last()?;
        (last.map_id == map_id).then(|| last.cells.clone())
    })
}

pub fn applying_to(map_id: i32) -> Option<Vec<String>> {
    OURS.with_borrow(|ours| {
        let last = ours.last()?;
        (last.map_id == map_id).then(|| last.records.clone())
    })
}

pub fn applying_from_crm(map_id: i32) -> bool {
    OURS.with_borrow(|ours| {
        ours.last()
            .is_some_and(|last| last.map_id == map_id && last.from_crm)
    })
}

/// A row to change: its keys, and column -> value as a JSON object.
pub struct Row {
    pub shard_key: String,
    pub record_key: String,
    pub values: String,
}

/// A row that was changed.
pub struct Changed {
    /// Its place among those that were to be.
    pub place: usize,
    /// It holds what it was to hold: no trigger made something else of it.
    pub as_given: bool,
}

/// Sets these columns of rows; returns those that were changed. Runs as the current user, and names only what the mapping refers
/// to: an UPDATE of the caller's own would have resolved these names before the CRM was asked.
pub fn update(
    client: &mut SpiClient,
    map: &Map,
    columns: &[&str],
    rows: &[Row],
) -> Result<Vec<Changed>, StoreError> {
    names::held_to(&map.names, || {
        update_returning(client, map, columns, rows, "true")
    })
}

/// The same, and looks at what the rows then hold, which takes the right to read these columns. Compared byte by byte: not
/// every type has an equality.
pub fn update_looking(
    client: &mut SpiClient,
    map: &Map,
    columns: &[&str],
    rows: &[Row],
) -> Result<Vec<Changed>, StoreError> {
    let list = |alias: &str| {
        let columns = columns
            .iter()
            .map(|column| format!("{alias}.{}", quote_identifier(column)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let (held, given) = (list("t"), list("r"));
    let as_given = format!("pg_catalog.record_image_eq(ROW({held}), ROW({given}))");
    update_returning(client, map, columns, rows, &as_given)
}

fn update_returning(
    client: &mut SpiClient,
    map: &Map,
    columns: &[&str],
    rows: &[Row],
    as_given: &str,
) -> Result<Vec<Changed>, StoreError> {
    let set: Vec<String> = columns
        .iter()
        .map(|column| format!("{0} = r.{0}", quote_identifier(column)))
        .collect();
    let statement = format!(
        "UPDATE {relation} AS t SET {set}
         FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[]))
                  WITH ORDINALITY AS k (shard_key, record_key, changes, ord),
              LATERAL pg_catalog.jsonb_to_record(k.changes::pg_catalog.jsonb) AS r ({record})
         WHERE {row} RETURNING k.ord - 1, {as_given}",
        relation = map.relation,
        set = set.join(", "),
        record = map.record_type(columns.iter().copied()),
        row = map.is_row("k.shard_key", "k.record_key"),
    );
    let result = client.update(
        Kept(&statement),
        None,
        &[
            rows.iter()
                .map(|r| r.shard_key.as_str())
                .collect::<Vec<_>>()
                .into(),
            rows.iter()
                .map(|r| r.record_key.as_str())
                .collect::<Vec<_>>()
                .into(),
            rows.iter()
                .map(|r| r.values.as_str())
                .collect::<Vec<_>>()
                .into(),
        ],
    )?;
    let mut changed = Vec::with_capacity(result.len());
    for row in result {
        changed.push(Changed {
            place: row.get::<i64>(1)?.unwrap_or_default() as usize,
            as_given: row.get(2)?.unwrap_or_default(),
        });
    }
    Ok(changed)
}

/// Locks rows that nobody else holds; returns the places of those that it got. One whose policies fail or take too long is
/// not among them: reading it says why.
pub fn lock_free(map: &Map, keys: &[(&str, &str)]) -> Result<HashSet<usize>, StoreError> {
    let all: Vec<usize> = (0..keys.len()).collect();
    let mut free = HashSet::with_capacity(keys.len());
    let mut pace = Pace::putting_off(map, write::limit());
    let failed = pace::each(&mut pace, &all, |pace, part| {
        let some: Vec<(&str, &str)> = part.iter().map(|&n| keys[n]).collect();
        let locked = pace.run(part.len(), || {
            Spi::connect_mut(|client| lock_rows(client, map, &some, " SKIP LOCKED"))
        })?;
        free.extend(locked.into_iter().map(|n| part[n]));
        Ok(())
    });
    for (_, error) in failed {
        if matches!(error, StoreError::Before { .. }) {
            return Err(error);
        }
    }
    Ok(free)
}

/// Locks a row, however long that takes; `false`: the current user sees none. Whoever changed the row first had no lock
/// but this one, so it comes before the record's: two sessions cannot wait for each other.
pub fn lock(map: &Map, shard_key: &str, record_key: &str) -> Result<bool, StoreError> {
    let _settings = SettingsScope::begin();
    Spi::connect_mut(|client| {
        let keys = [(shard_key, record_key)];
        let found = names::held_to(&map.names, || lock_rows(client, map, &keys, ""))?;
        Ok(!found.is_empty())
    })
}

fn lock_rows(
    client: &mut SpiClient,
    map: &Map,
    keys: &[(&str, &str)],
    otherwise: &str,
) -> Result<HashSet<usize>, StoreError> {
    let statement = format!(
        "SELECT k.ord - 1 FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))
                              WITH ORDINALITY AS k (shard_key, record_key, ord)
         JOIN {relation} AS t ON {row} FOR NO KEY UPDATE OF t{otherwise}",
        relation = map.relation,
        row = map.is_row("k.shard_key", "k.record_key"),
    );
    let result = client.update(
        Kept(&statement),
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
        found.insert(row.get::<i64>(1)?.unwrap_or_default() as usize);
    }
    Ok(found)
}

/// Whether the current user sees the row. What a policy sets on the way is none of the user's doing.
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
        let rows = names::held_to(&map.names, || client.update(Kept(&statement), None, &args))?;
        Ok(!rows.is_empty())
    })
}
