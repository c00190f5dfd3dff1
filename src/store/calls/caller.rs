//! What `crm.write()` and `crm.read_live()` read and write in their caller's transaction.
//!
//! The caller needs no right on pg_crm's own tables: these statements run as the engine with a
//! pinned search_path, and none of them holds anything that a caller wrote but as a parameter. The
//! caller's own row is theirs to change: see [`super::apply`].

use std::collections::BTreeMap;

use crm_domain::conflict::ShortHash;
use crm_domain::storable::storable;
use crm_domain::{Cells, Path};
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::audit;
use crate::store::config::connection::Connection;
use crate::store::config::key_column::KeyColumn;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::sightings::{self, Sighted};
use crate::store::record::unseen_writes::{self, OurFields};
use crate::store::record::{crm_forms, locks};
use crate::store::rights::{as_engine, pinned};
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;
use crate::store::transaction::subtransaction;

/// A record's keys as capture spells them, of what a caller wrote.
pub fn spelt(map: &Map, shard_key: &str, record_key: &str) -> Result<(String, String), StoreError> {
    let shard_is_spelt = |s: &KeyColumn| shard_key.is_empty() || s.is_spelt(shard_key);
    if map.key.is_spelt(record_key) && map.shard.as_ref().is_none_or(shard_is_spelt) {
        return Ok((shard_key.to_owned(), record_key.to_owned()));
    }
    let statement = "SELECT coalesce(CASE WHEN s.attname IS NULL THEN $2 ELSE crm_internal.key_text(nullif($2, ''), s.atttypid) END, '') AS shard_key,
                            crm_internal.key_text($3, k.atttypid) AS record_key
         FROM crm.object_map m JOIN pg_attribute k ON k.attrelid = m.relation AND k.attname = m.key_column
         LEFT JOIN pg_attribute s ON s.attrelid = m.relation AND s.attname = m.shard_column
         WHERE m.map_id = $1";
    let keys = as_engine(|| {
        pinned(|| {
            Spi::connect(|client| {
                let args = [map.id.into(), shard_key.into(), record_key.into()];
                let mut rows = client.select(Cached(statement), None, &args)?;
                match rows.next() {
                    Some(row) => Ok::<_, StoreError>(
                        row.optional("shard_key")?.zip(row.optional("record_key")?),
                    ),
                    None => Ok(None),
                }
            })
        })
    })?;
    // The table is not as it was mapped: that is said elsewhere.
    Ok(keys.unwrap_or_else(|| (shard_key.to_owned(), record_key.to_owned())))
}

/// A record as the ledger knows it.
pub struct Record {
    pub crm_id: Option<String>,
    pub hashes: Vec<u8>,
    /// Edits wait that the CRM does not have yet, perhaps this transaction's own.
    pub edits_wait: bool,
    /// What was written to the CRM's record before.
    pub ours: OurFields,
}

/// The record's ledger row; `lock`: until the transaction ends, so that nobody else writes the
/// record.
pub fn record(
    map: &Map,
    shard_key: &str,
    record_key: &str,
    lock: bool,
) -> Result<Option<Record>, StoreError> {
    // Looked at in a statement of its own: one that had to wait for the lock does not see what was
    // committed meanwhile.
    const WAITS: &str = "SELECT EXISTS (SELECT FROM crm.change c
                        WHERE c.shard_key = $1 AND c.map_id = $2 AND c.record_keys[1] = $3
                          AND (c.base IS NOT NULL OR c.write_id IS NOT NULL))
                OR EXISTS (SELECT FROM crm.pending_write p
                           WHERE p.shard_key = $1 AND p.map_id = $2 AND p.record_key = $3 AND p.state IN ('queued', 'dead')) AS edits_wait";
    let statement = format!(
        "SELECT l.crm_id, l.hashes FROM crm.ledger l
         WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3{}",
        if lock { " FOR UPDATE" } else { "" }
    );
    as_engine(|| {
        Spi::connect_mut(|client| {
            let args = [shard_key.into(), map.id.into(), record_key.into()];
            let rows = client.update(Cached(&statement), None, &args)?;
            let Some(row) = rows.into_iter().next() else {
                return Ok(None);
            };
            let (crm_id, hashes) = (
                row.optional::<String>("crm_id")?,
                row.optional::<Vec<u8>>("hashes")?.unwrap_or_default(),
            );
            let waits = row::only(client.update(Cached(WAITS), None, &args)?)?;
            let edits_wait = waits.required("edits_wait")?;
            let ours = match &crm_id {
                Some(id) => unseen_writes::ours(client, map, &[(id.as_str(), &hashes)])?.remove(id),
                None => None,
            };
            Ok(Some(Record {
                crm_id,
                hashes,
                edits_wait,
                ours: ours.unwrap_or_default(),
            }))
        })
    })
}

/// A new id for a write, who makes it, and what `pg_crm.correlation_id` is set to.
pub fn identity() -> Result<(String, String, Option<String>), StoreError> {
    as_engine(|| {
        Spi::connect(|client| {
            let mut rows = client.select(
                Cached("SELECT gen_random_uuid()::text AS write_id, session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '') AS actor,
                        nullif(current_setting('pg_crm.correlation_id', true), '') AS correlation_id"),
                None,
                &[],
            )?;
            let row = rows.next().ok_or(pgrx::spi::Error::InvalidPosition)?;
            Ok((
                row.required("write_id")?,
                row.required("actor")?,
                row.optional("correlation_id")?,
            ))
        })
    })
}

/// The CRM was read. What this transaction may not change, or its snapshot is too old to see, is
/// left to the next read.
pub fn seen(map: &Map, connection: &Connection, record: &Sighted) -> Result<(), StoreError> {
    if record.cells.is_empty() {
        return Ok(());
    }
    let recorded = as_engine(|| {
        subtransaction(|| {
            Spi::connect_mut(|client| {
                match locks::lock_records(client, map, &[record.key])?.is_empty() {
                    true => sightings::record(
                        client,
                        (connection, map),
                        Path::RealTime,
                        std::slice::from_ref(record),
                    ),
                    false => Ok(()),
                }
            })
        })
    });
    match recorded {
        Err(StoreError::Postgres {
            code:
                PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION
                | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            ..
        }) => Ok(()),
        recorded => recorded,
    }
}

/// The CRM took the edit: the ledger knows what it holds, the intent is done. `forms`: the cells in
/// which that is another form of what the row holds; `unseen`: what the CRM may hold in another
/// form, by its record.
pub fn committed(
    map: &Map,
    (shard_key, record_key): (&str, &str),
    write_id: &str,
    (cells, hashes): (&Cells, &[u8]),
    forms: &BTreeMap<u16, (ShortHash, ShortHash)>,
    unseen: Option<(&str, &str)>,
) -> Result<(), StoreError> {
    as_engine(|| {
        Spi::connect_mut(|client| {
            client.update(
                Cached("UPDATE crm.ledger l
                 SET hashes = crm_internal.cells_hash(l.hashes, $4, $5), synced_at = crm_internal.cells_stamp(l.synced_at, $4, greatest(clock_timestamp(), now())),
                     changed_at = crm_internal.cells_stamp(l.changed_at, $4, now())
                 WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3"),
                None,
                &[
                    shard_key.into(),
                    map.id.into(),
                    record_key.into(),
                    cells.to_bytes().into(),
                    hashes.into(),
                ],
            )?;
            unseen_writes::remember(client, map, unseen.as_slice())?;
            let forms = crm_forms::of((shard_key, record_key), forms);
            crm_forms::remember(client, map, &forms.collect::<Vec<_>>())?;
            close(client, shard_key, write_id)
        })
    })
}

/// Writes down what became of a call without the worker's doing.
pub fn audited(map: &Map, connection: &Connection, entry: &audit::Entry) -> Result<(), StoreError> {
    as_engine(|| {
        Spi::connect_mut(|client| {
            audit::write(
                client,
                connection,
                map,
                Path::RealTime,
                std::slice::from_ref(entry),
            )
        })
    })
}

/// What an edit of a row is queued with.
pub struct QueuedEdit<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub write_id: &'a str,
    pub cells: &'a Cells,
    pub base: Json,
    /// What was read of the CRM's record, field_id -> canonical value; `None`: it was not.
    pub snapshot: Option<Json>,
    pub actor: &'a str,
    pub correlation_id: Option<&'a str>,
}

/// The CRM does not have the edit: it waits for the reconciler from the caller's COMMIT on.
pub fn queue(map: &Map, edit: &QueuedEdit) -> Result<(), StoreError> {
    as_engine(|| {
        Spi::connect_mut(|client| {
            client.update(
                Cached("INSERT INTO crm.change (shard_key, map_id, record_keys, op, cells, base, write_id, actor, correlation_id, snapshot)
                 VALUES ($1, $2, ARRAY[$3], 'u', $4, $5::jsonb, $6::uuid, $7, $8, $9::jsonb)"),
                None,
                &[
                    edit.shard_key.into(),
                    map.id.into(),
                    edit.record_key.into(),
                    edit.cells.to_bytes().into(),
                    storable(&edit.base.to_string()).as_ref().into(),
                    edit.write_id.into(),
                    edit.actor.into(),
                    edit.correlation_id.into(),
                    edit.snapshot.as_ref().map(Json::to_string).into(),
                ],
            )?;
            close(client, edit.shard_key, edit.write_id)
        })
    })
}

/// Removes an intent. What a transaction's snapshot is too old to see stays, and the reconciler
/// finds nothing to do.
fn close(client: &mut SpiClient, shard_key: &str, write_id: &str) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.pending_write WHERE shard_key = $1 AND write_id = $2::uuid AND state IN ('sending', 'landed', 'failed')"),
        None,
        &[shard_key.into(), write_id.into()],
    )?;
    Ok(())
}
