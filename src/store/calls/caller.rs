//! What `crm.write()` and `crm.read_live()` read and write in their caller's transaction.
//!
//! The caller needs no right on pg_crm's own tables: these statements run as the engine with a pinned search_path, and
//! none of them holds anything that a caller wrote but as a parameter. The caller's own row is theirs to change: see
//! [`super::apply`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crm_domain::Cells;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::audit;
use crate::store::config::key_column::KeyColumn;
use crate::store::config::{self, Connection, Map};
use crate::store::rights::as_engine;
use crate::store::statement::Kept;
use crate::store::statement::names::Once;
use crate::store::transaction::StoreError;

/// Runs `work` with a search_path that no caller decides. An error leaves it to the end of the (sub)transaction to put
/// it back, as Postgres itself does.
pub fn pinned<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: as for a function with a SET clause; what is begun here is ended below.
    let level = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        level
    };
    let result = work();
    // SAFETY: see above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}

type Targets = Rc<Vec<(Arc<Map>, Connection)>>;

thread_local! {
    /// By table, until anything changes of what they were read from.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Targets>> = RefCell::default();
    /// Counts those changes; `None`: nobody is told of them yet.
    static CHANGES: Cell<Option<u64>> = const { Cell::new(None) };
}

fn forget() {
    CHANGES.set(CHANGES.get().map(|n| n + 1));
    KNOWN.with_borrow_mut(HashMap::clear);
}

/// Postgres calls these when a table, a function or a role is altered, here or elsewhere; changes of the configuration are told the same way
/// (`crm.tell_of_change()`).
#[pg_guard]
unsafe extern "C-unwind" fn table_changed(_argument: pg_sys::Datum, _table: pg_sys::Oid) {
    forget();
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    forget();
}

/// How many changes this session has heard of.
fn changes() -> u64 {
    // SAFETY: registers two functions that live as long as the process, once; messages may be accepted at any time.
    unsafe {
        if CHANGES.get().is_none() {
            let none = pg_sys::Datum::from(0);
            pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), none);
            // With a role's memberships changes who may have a function run for a table; with a schema or a type, what the names
            // of a mapping mean.
            use pg_sys::SysCacheIdentifier::{
                AUTHMEMMEMROLE, AUTHOID, NAMESPACEOID, PROCOID, TYPEOID,
            };
            for cache in [PROCOID, AUTHMEMMEMROLE, AUTHOID, NAMESPACEOID, TYPEOID] {
                pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(catalog_changed), none);
            }
            CHANGES.set(Some(0));
        }
        pg_sys::AcceptInvalidationMessages();
    }
    CHANGES.get().unwrap_or_default()
}

/// The maps of a table, each with its connection. Of the connection only what configures it is current.
pub fn targets(relation: pg_sys::Oid) -> Result<Targets, StoreError> {
    let before = changes();
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&relation).cloned()) {
        return Ok(known);
    }
    let targets = Rc::new(read_targets(relation)?);
    if changes() == before {
        KNOWN.with_borrow_mut(|known| known.insert(relation, targets.clone()));
    }
    Ok(targets)
}

fn read_targets(relation: pg_sys::Oid) -> Result<Vec<(Arc<Map>, Connection)>, StoreError> {
    as_engine(|| {
        Spi::connect_mut(|client| {
            let connections = config::connections(client)?;
            let maps = config::maps_of(client, Some(relation))?;
            Ok(maps
                .into_iter()
                .filter_map(|map| {
                    let connection = connections.iter().find(|c| c.id == map.connection_id)?;
                    Some((map, connection.clone()))
                })
                .collect())
        })
    })
}

/// A record's keys as capture spells them, of what a caller wrote.
pub fn spelt(map: &Map, shard_key: &str, record_key: &str) -> Result<(String, String), StoreError> {
    let shard_is_spelt = |s: &KeyColumn| shard_key.is_empty() || s.is_spelt(shard_key);
    if map.key.is_spelt(record_key) && map.shard.as_ref().is_none_or(shard_is_spelt) {
        return Ok((shard_key.to_owned(), record_key.to_owned()));
    }
    let statement = "SELECT coalesce(CASE WHEN s.attname IS NULL THEN $2 ELSE crm.key_text(nullif($2, ''), s.atttypid) END, ''),
                            crm.key_text($3, k.atttypid)
         FROM crm.object_map m JOIN pg_attribute k ON k.attrelid = m.relation AND k.attname = m.key_column
         LEFT JOIN pg_attribute s ON s.attrelid = m.relation AND s.attname = m.shard_column
         WHERE m.map_id = $1";
    let keys = as_engine(|| {
        pinned(|| {
            Spi::connect(|client| {
                let args = [map.id.into(), shard_key.into(), record_key.into()];
                let mut rows = client.select(Kept(statement), None, &args)?;
                match rows.next() {
                    Some(row) => Ok::<_, StoreError>(row.get(1)?.zip(row.get(2)?)),
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
}

/// The record's ledger row; `lock`: until the transaction ends, so that nobody else writes the record.
pub fn record(
    map: &Map,
    shard_key: &str,
    record_key: &str,
    lock: bool,
) -> Result<Option<Record>, StoreError> {
    // Looked at in a statement of its own: one that had to wait for the lock does not see what was committed meanwhile.
    const WAITS: &str = "SELECT EXISTS (SELECT FROM crm.change c
                        WHERE c.shard_key = $1 AND c.map_id = $2 AND c.record_keys[1] = $3
                          AND (c.base IS NOT NULL OR c.write_id IS NOT NULL))
                OR EXISTS (SELECT FROM crm.pending_write p
                           WHERE p.shard_key = $1 AND p.map_id = $2 AND p.record_key = $3 AND p.state IN ('queued', 'dead'))";
    let statement = format!(
        "SELECT l.crm_id, l.hashes FROM crm.ledger l
         WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3{}",
        if lock { " FOR UPDATE" } else { "" }
    );
    as_engine(|| {
        Spi::connect_mut(|client| {
            let args = [shard_key.into(), map.id.into(), record_key.into()];
            let rows = client.update(Kept(&statement), None, &args)?;
            let Some(row) = rows.into_iter().next() else {
                return Ok(None);
            };
            let (crm_id, hashes) = (row.get(1)?, row.get::<Vec<u8>>(2)?.unwrap_or_default());
            let edits_wait = client.update(Kept(WAITS), None, &args)?.first().get_one()?;
            Ok(Some(Record {
                crm_id,
                hashes,
                edits_wait: edits_wait.unwrap_or_default(),
            }))
        })
    })
}

/// A new id for a write, who makes it, and what `pg_crm.correlation_id` is set to.
pub fn identity() -> Result<(String, String, Option<String>), StoreError> {
    as_engine(|| {
        Spi::connect(|client| {
            let mut rows = client.select(
                Kept("SELECT gen_random_uuid()::text, session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), ''),
                        nullif(current_setting('pg_crm.correlation_id', true), '')"),
                None,
                &[],
            )?;
            let row = rows.next().ok_or(pgrx::spi::Error::InvalidPosition)?;
            Ok((
                row.get(1)?.unwrap_or_default(),
                row.get(2)?.unwrap_or_default(),
                row.get(3)?,
            ))
        })
    })
}

/// The CRM took the edit: the ledger knows it, the intent is done.
pub fn committed(
    map: &Map,
    shard_key: &str,
    record_key: &str,
    write_id: &str,
    cells: &Cells,
    hashes: &[u8],
) -> Result<(), StoreError> {
    as_engine(|| {
        Spi::connect_mut(|client| {
            client.update(
                Kept("UPDATE crm.ledger l
                 SET hashes = crm.cells_hash(l.hashes, $4, $5), synced_at = crm.cells_stamp(l.synced_at, $4, greatest(clock_timestamp(), now())),
                     changed_at = crm.cells_stamp(l.changed_at, $4, now())
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
                "realtime",
                std::slice::from_ref(entry),
            )
        })
    })
}

/// What an edit of a row is queued with.
pub struct Edit<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub write_id: &'a str,
    pub cells: &'a Cells,
    pub base: Json,
    pub actor: &'a str,
    pub correlation_id: Option<&'a str>,
}

/// The CRM does not have the edit: it waits for the reconciler from the caller's COMMIT on.
pub fn queue(map: &Map, edit: &Edit) -> Result<(), StoreError> {
    as_engine(|| {
        Spi::connect_mut(|client| {
            client.update(
                Kept("INSERT INTO crm.change (shard_key, map_id, record_keys, op, cells, base, write_id, actor, correlation_id)
                 VALUES ($1, $2, ARRAY[$3], 'u', $4, $5::jsonb, $6::uuid, $7, $8)"),
                None,
                &[
                    edit.shard_key.into(),
                    map.id.into(),
                    edit.record_key.into(),
                    edit.cells.to_bytes().into(),
                    edit.base.to_string().into(),
                    edit.write_id.into(),
                    edit.actor.into(),
                    edit.correlation_id.into(),
                ],
            )?;
            close(client, edit.shard_key, edit.write_id)
        })
    })
}

/// Removes an intent. What a transaction's snapshot is too old to see stays, and the reconciler finds nothing to do.
fn close(client: &mut SpiClient, shard_key: &str, write_id: &str) -> Result<(), StoreError> {
    client.update(
        Kept("DELETE FROM crm.pending_write WHERE shard_key = $1 AND write_id = $2::uuid AND state IN ('sending', 'landed', 'failed')"),
        None,
        &[shard_key.into(), write_id.into()],
    )?;
    Ok(())
}

/// JSON values through a column's transform_in, as the table's owner.
pub fn transformed(map: &Map, transform: &str, value: &Json) -> Result<Json, StoreError> {
    pinned(|| {
        crate::store::table::owner::as_owner_of(map, || {
            Spi::connect_mut(|client| {
                let statement =
                    format!("SELECT {transform}($1::pg_catalog.jsonb)::pg_catalog.text");
                let mut rows =
                    client.update(Once(&statement), None, &[value.to_string().into()])?;
                let text = rows.next().map_or(Ok(None), |row| row.get::<String>(1))?;
                Ok(text
                    .and_then(|text| serde_json::from_str(&text).ok())
                    .unwrap_or(Json::Null))
            })
        })
    })
}
