//! Maps whose tables were altered while no event trigger could follow: it was disabled, or another
//! session had locked what it needed.

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::transaction::transaction;

/// Maps that are not as their tables are.
pub fn due(client: &SpiClient) -> Result<Vec<i32>, StoreError> {
    let rows = client.select(
        Cached("SELECT crm_internal.maps_to_follow() AS map_id"),
        None,
        &[],
    )?;
    rows.map(|row| row.required("map_id")).collect()
}

/// Maps whose edits are not captured: their ids, their tables, and why.
pub fn uncaptured(client: &SpiClient) -> Result<Vec<(i32, String, String)>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT m.map_id, m.relation::text, t.trouble FROM crm.object_map m, crm_internal.capture_trouble(m.map_id) AS t (trouble)
             WHERE t.trouble IS NOT NULL",
        ),
        None,
        &[],
    )?;
    let mut uncaptured = Vec::new();
    for row in rows {
        uncaptured.push((
            row.required("map_id")?,
            row.required("relation")?,
            row.required("trouble")?,
        ));
    }
    Ok(uncaptured)
}

/// Follows one of them, in a transaction of its own: it takes a strong lock on the table. Whoever
/// comes after the worker for that table waits as long as it does, so it hardly waits.
pub fn follow(map_id: i32) -> Result<(), StoreError> {
    transaction(|client| {
        client.update(
            "SELECT pg_catalog.set_config('lock_timeout', '50ms', true)",
            None,
            &[],
        )?;
        client.update("SELECT crm_internal.follow_map($1)", None, &[map_id.into()])?;
        Ok(())
    })
}

/// It cannot be followed for that reason, which the map shows.
pub fn later(map_id: i32, why: &str) -> Result<(), StoreError> {
    transaction(|client| {
        client.update(
            "SELECT crm_internal.follow_later($1, $2)",
            None,
            &[map_id.into(), why.into()],
        )?;
        Ok(())
    })
}
