//! Logs the first dead letter of a map; those that follow are in `crm.dead_letters` alone.

use crm_domain::ErrorClass;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::statement::Cached;

/// Called before a dead letter is written.
pub fn log_first(
    client: &SpiClient,
    map: &Map,
    class: ErrorClass,
    code: &str,
) -> Result<(), StoreError> {
    let there = client.select(
        Cached("SELECT FROM crm.dead_letter WHERE map_id = $1 LIMIT 1"),
        Some(1),
        &[map.id.into()],
    )?;
    if there.is_empty() {
        log!(
            "pg_crm gives up on a record of {} ({}, {code}); see crm.dead_letters for this record and those that follow",
            map.relation,
            class.name()
        );
    }
    Ok(())
}
