//! The maps of a table as a session of a caller knows them, until anything changes that they were
//! read from.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use pgrx::prelude::*;

use crate::store::config::connection::{self, Connection};
use crate::store::config::map::Map;
use crate::store::config::read;
use crate::store::error::StoreError;
use crate::store::rights::as_engine;

type Targets = Rc<Vec<(Arc<Map>, Connection)>>;

thread_local! {
    /// By table, until anything changes of what they were read from.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Targets>> = RefCell::default();
    /// Counts those changes; `None`: the callbacks are not registered yet.
    static CHANGES: Cell<Option<u64>> = const { Cell::new(None) };
}

fn forget() {
    CHANGES.set(CHANGES.get().map(|n| n + 1));
    KNOWN.with_borrow_mut(HashMap::clear);
}

/// Postgres calls these when a table, a function or a role is altered, here or elsewhere; changes
/// of the configuration are announced the same way (`crm_internal.invalidate_configuration()`).
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
    // SAFETY: registers two functions that live as long as the process, once; messages may be
    // accepted at any time.
    unsafe {
        if CHANGES.get().is_none() {
            let none = pg_sys::Datum::from(0);
            pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), none);
            // With a role's memberships changes who may have a function run for a table; with a
            // schema or a type, what the names of a mapping mean.
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

/// The maps of a table, each with its connection. Of the connection only what configures it is
/// current.
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
            let connections = connection::connections(client)?;
            let maps = read::maps_of(client, Some(relation))?;
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
