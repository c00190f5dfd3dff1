//! Rounds: a map's write-back from its first slice to the moment when nothing is due any more.

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::statement::Cached;

pub fn begin(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.map_state SET round_start = now(), round_total = 0, round_done = 0 WHERE map_id = $1 AND round_start IS NULL"),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

pub fn add_to_round(client: &mut SpiClient, map_id: i32, records: usize) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.map_state SET round_total = round_total + $2 WHERE map_id = $1"),
        None,
        &[map_id.into(), (records as i64).into()],
    )?;
    Ok(())
}

pub fn record_progress(
    client: &mut SpiClient,
    map_id: i32,
    records: usize,
    succeeded: bool,
    error: Option<&str>,
) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.map_state
         SET round_done = round_done + $2, last_success = CASE WHEN $3 THEN now() ELSE last_success END,
             last_error = coalesce($4, last_error), last_error_at = CASE WHEN $4 IS NULL THEN last_error_at ELSE now() END
         WHERE map_id = $1"),
        None,
        &[map_id.into(), (records as i64).into(), succeeded.into(), error.into()],
    )?;
    Ok(())
}

/// Ends the round; the next begins a write_interval from now.
pub fn end(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.map_state s SET round_start = NULL, next_write_at = now() + m.write_interval
         FROM crm.object_map m WHERE m.map_id = s.map_id AND s.map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// Stops a map that cannot work as the CRM answers, until crm.replay_all(), which knows such a
/// reason by its end.
pub fn stop(client: &mut SpiClient, map_id: i32, reason: &str) -> Result<(), StoreError> {
    let reason = format!("{reason}; fix the mapping, then call crm.replay_all()");
    let stopped = client.update(
        Cached(
            "UPDATE crm.map_state SET state = 'error', reason = $2
              WHERE map_id = $1 AND (state, reason) IS DISTINCT FROM ('error', $2)",
        ),
        None,
        &[map_id.into(), reason.as_str().into()],
    )?;
    if !stopped.is_empty() {
        log!("pg_crm stops map {map_id}: {reason}");
    }
    Ok(())
}
