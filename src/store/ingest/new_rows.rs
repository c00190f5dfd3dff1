//! Inserts rows for CRM records that have none (`on_crm_insert => 'insert'`).
//!
//! Guarantees: rows are inserted as the table's owner, with its defaults, rules and triggers. A new
//! row gets every mapped field, `outbound` ones too.

use std::collections::{BTreeMap, HashMap};

use crm_domain::cells::HASH_BYTES;
use crm_domain::{Cells, Value};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier};
use serde_json::{Map as JsonMap, Value as Json};

use crate::settings::Settings;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::incoming::Incoming;
use crate::store::ingest::key_source::{KeySource, key_source};
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::capture_guard::SuppressCapture;
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::{self, Pace};
use crate::store::table::read::Bounds;
use crate::store::table::spelling;
use crate::store::table::write::{self, Altered, CrmValues};

/// What became of a CRM record that was to get a row.
pub type Inserted = Result<InsertedRow, StoreError>;

/// A row that was inserted.
pub struct InsertedRow {
    pub key: Key,
    /// Where it holds another value than the CRM.
    pub altered: Altered,
}

/// Inserts rows for records that came in with values; one result for each, in order.
pub fn insert(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Incoming],
    settings: &Settings,
) -> Result<Vec<Inserted>, StoreError> {
    let source = key_source(client, map)?;
    let mut pace = Pace::putting_off(map, settings.transform_timeout);
    let mut objects: Vec<Result<JsonMap<String, Json>, StoreError>> =
        Vec::with_capacity(records.len());
    for record in records {
        if pace.is_over() {
            objects.push(Err(StoreError::Postponed));
        } else {
            objects.push(pace.run_nested(1, || columns(map, &source, record)));
        }
    }
    let mut results: Vec<Option<Inserted>> = records.iter().map(|_| None).collect();
    let mut rows: HashMap<usize, JsonMap<String, Json>> = HashMap::new();
    for (n, object) in objects.into_iter().enumerate() {
        match object {
            Ok(object) => {
                rows.insert(n, object);
            }
            Err(error @ StoreError::BeforeOwnersCode { .. }) => return Err(error),
            Err(error) => results[n] = Some(Err(error)),
        }
    }
    let mut all: Vec<usize> = rows.keys().copied().collect();
    all.sort_unstable();
    let failed = pace::in_any_order(all, |places| {
        // By the columns that are set: the others take their defaults.
        let mut alike: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
        for &n in places {
            let names = rows[&n].keys().cloned().collect();
            alike.entry(names).or_default().push(n);
        }
        let mut failed = Vec::new();
        for (names, places) in alike {
            failed.extend(pace::each(&mut pace, &places, |pace, part| {
                let json: Vec<String> = part
                    .iter()
                    .map(|n| Json::Object(rows[n].clone()).to_string())
                    .collect();
                let keys =
                    pace.run_nested(part.len(), || insert_rows(map, &source, &names, &json))?;
                for (n, key) in part.iter().zip(keys) {
                    let altered = Altered::new();
                    results[*n] = Some(Ok(InsertedRow { key, altered }));
                }
                Ok(())
            }));
        }
        failed
    });
    for (n, error) in failed {
        results[n] = Some(Err(error));
    }
    let mut inserted: Vec<Inserted> = results
        .into_iter()
        .map(|result| result.expect("each record has a result"))
        .collect();
    link_and_recapture(client, map, records, &mut inserted, &Bounds::of(settings))?;
    Ok(inserted)
}

/// What the new row is to hold: column -> value. What is empty in the CRM is left to the column's
/// default.
fn columns(
    map: &Map,
    source: &KeySource,
    record: &Incoming,
) -> Result<JsonMap<String, Json>, StoreError> {
    let values: BTreeMap<u16, &Value> = record
        .values
        .iter()
        .flatten()
        .filter(|v| !v.value.is_null())
        .map(|v| (v.id, &v.value))
        .collect();
    let mut object = write::columns(map, &values)?;
    object.retain(|name, _| !source.generated.contains(name));
    if !object.contains_key(&map.key.name) && !source.generated.contains(&map.key.name) {
        let key = record.external_id.clone();
        let key =
            key.or_else(|| (source.is_text && !source.by_default).then(|| record.crm_id.clone()));
        if let Some(key) = key {
            object.insert(map.key.name.clone(), key.into());
        }
    }
    Ok(object)
}

/// One statement for rows of which the same columns are set.
fn insert_rows(
    map: &Map,
    source: &KeySource,
    names: &[String],
    rows: &[String],
) -> Result<Vec<Key>, StoreError> {
    let list = |prefix: &str| -> String {
        let names = names
            .iter()
            .map(|n| format!("{prefix}{}", quote_identifier(n)));
        names.collect::<Vec<_>>().join(", ")
    };
    let relation = &map.relation;
    let keys = format!(
        "{} AS shard_key, {} AS record_key",
        map.shard_key("t"),
        map.record_key("t")
    );
    let statement = match names {
        [] => format!(
            "INSERT INTO {relation} AS t DEFAULT VALUES RETURNING {keys}"
        ),
        _ => format!(
            "INSERT INTO {relation} AS t ({}) OVERRIDING SYSTEM VALUE
             SELECT {} FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS k (row, ord),
                    LATERAL pg_catalog.jsonb_to_record(k.row::pg_catalog.jsonb) AS r ({})
             ORDER BY k.ord RETURNING {keys}",
            list(""),
            list("r."),
            map.record_type(names.iter().map(String::as_str)),
        ),
    };
    let _ours = SuppressCapture::of_new_rows(map.id);
    as_owner_of(map, || {
        Spi::connect_mut(|client| {
            let mut keys = Vec::with_capacity(rows.len());
            let json: Vec<&str> = rows.iter().map(String::as_str).collect();
            spelling::refuse_rounded(map, names.iter().map(String::as_str), &json)?;
            let times = if names.is_empty() { rows.len() } else { 1 };
            for _ in 0..times {
                let args = [json.clone().into()];
                let args = if names.is_empty() {
                    &args[..0]
                } else {
                    &args[..]
                };
                for row in client.update(Cached(&statement), None, args)? {
                    keys.push(Key {
                        shard_key: row.required("shard_key")?,
                        record_key: row.required("record_key")?,
                    });
                }
            }
            if keys.len() < rows.len() {
                return Err(StoreError::prevented("inserted"));
            }
            if names.contains(&map.key.name)
                && let Some(sequence) = &source.sequence
            {
                sequence.leave_behind(keys.iter().filter_map(|k| k.record_key.parse().ok()))?;
            }
            Ok(keys)
        })
    })
}

/// Links the new rows to their records, and captures what the table's code made of the values.
fn link_and_recapture(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Incoming],
    inserted: &mut [Inserted],
    bounds: &Bounds,
) -> Result<(), StoreError> {
    let places: Vec<usize> = (0..inserted.len())
        .filter(|&n| inserted[n].is_ok())
        .collect();
    let rows: Vec<(&Incoming, &Key)> = places
        .iter()
        .filter_map(|&n| Some((records[n], &inserted[n].as_ref().ok()?.key)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    add_to_ledger(client, map, &rows)?;
    queue_keys(client, map, &rows)?;
    let changes: Vec<CrmValues> = rows
        .iter()
        .map(|(record, key)| CrmValues {
            shard_key: &key.shard_key,
            record_key: &key.record_key,
            values: record
                .values
                .iter()
                .flatten()
                .map(|v| (v.id, &v.value))
                .collect(),
        })
        .collect();
    let every: Cells = map.fields.iter().map(|f| f.id).collect();
    let (all, unknown) = (
        changes.iter().collect::<Vec<_>>(),
        vec![false; changes.len()],
    );
    let altered = write::recapture(client, map, &every, &all, &unknown, bounds)?;
    for (n, altered) in altered {
        if let Ok(row) = &mut inserted[places[n]] {
            row.altered = altered;
        }
    }
    Ok(())
}

/// The ledger's rows of the new rows, with what the CRM holds.
fn add_to_ledger(
    client: &mut SpiClient,
    map: &Map,
    rows: &[(&Incoming, &Key)],
) -> Result<(), StoreError> {
    let mut cells = Vec::with_capacity(rows.len());
    let mut hashes = Vec::with_capacity(rows.len());
    for (record, _) in rows {
        let values = || record.values.iter().flatten();
        cells.push(values().map(|v| v.id).collect::<Cells>().to_bytes());
        let mut packed = Vec::with_capacity(values().count() * HASH_BYTES);
        values().for_each(|v| packed.extend(v.hash));
        hashes.push(packed);
    }
    client.update(
        Cached(
            "INSERT INTO crm.ledger (shard_key, map_id, record_key, crm_id, hashes, synced_at, changed_at)
             SELECT k.shard_key, $1, k.record_key, k.crm_id, crm_internal.cells_hash(NULL, k.cells, k.hashes), crm_internal.cells_stamp(NULL, k.cells, now()),
                    crm_internal.cells_stamp(NULL, k.cells, now())
             FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[]) AS k (shard_key, record_key, crm_id, cells, hashes)
             ON CONFLICT ON CONSTRAINT ledger_pkey DO UPDATE
             SET crm_id = excluded.crm_id, hashes = excluded.hashes, synced_at = excluded.synced_at, changed_at = excluded.changed_at,
                 detached = false",
        ),
        None,
        &[
            map.id.into(),
            rows.iter().map(|(_, k)| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            rows.iter().map(|(_, k)| k.record_key.as_str()).collect::<Vec<_>>().into(),
            rows.iter().map(|(r, _)| r.crm_id.as_str()).collect::<Vec<_>>().into(),
            cells.into(),
            hashes.into(),
        ],
    )?;
    Ok(())
}

/// Queues the keys of the new rows for the CRM, if the map has a field for them.
fn queue_keys(
    client: &mut SpiClient,
    map: &Map,
    rows: &[(&Incoming, &Key)],
) -> Result<(), StoreError> {
    let keyless: Vec<&Key> = rows
        .iter()
        .filter(|(r, k)| r.external_id.as_deref() != Some(k.record_key.as_str()))
        .map(|(_, k)| *k)
        .collect();
    if map.external_id_field.is_some() && !keyless.is_empty() {
        client.update(
            Cached(
                "INSERT INTO crm.queue (shard_key, map_id, record_key, op, cells, next_attempt_at)
                 SELECT k.shard_key, $1, k.record_key, 'k', '\\x0000000000000000', now()
                 FROM unnest($2::text[], $3::text[]) AS k (shard_key, record_key)
                 ON CONFLICT (shard_key, map_id, record_key) DO UPDATE SET op = 'k', next_attempt_at = now(), revision = excluded.revision",
            ),
            None,
            &[
                map.id.into(),
                keyless.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
                keyless.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
            ],
        )?;
    }
    Ok(())
}
