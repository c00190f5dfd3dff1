//! Rounds: a map's write-back from its first slice to the moment when nothing is due any more.

use std::sync::Arc;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::config::lock_definition;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

pub fn begin(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.map_state SET round_start = now(), round_id = gen_random_uuid(), round_total = 0, round_done = 0, round_written = 0, round_failed = 0 WHERE map_id = $1 AND round_start IS NULL"),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// The id of the running round, or of the last one.
pub fn round_id(client: &SpiClient, map_id: i32) -> Result<Option<Arc<str>>, StoreError> {
    let mut rows = client.select(
        Cached("SELECT round_id::text AS round_id FROM crm.map_state WHERE map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    let id: Option<String> = match rows.next() {
        Some(row) => row.optional("round_id")?,
        None => None,
    };
    Ok(id.map(Arc::from))
}

/// Adds records to the open round; whether they are its first.
pub fn add_to_round(
    client: &mut SpiClient,
    map_id: i32,
    records: usize,
) -> Result<bool, StoreError> {
    let mut rows = client.update(
        Cached(
            "UPDATE crm.map_state SET round_total = round_total + $2 WHERE map_id = $1
             RETURNING round_start IS NOT NULL AND $2 > 0 AND round_total = $2 AS is_first",
        ),
        None,
        &[map_id.into(), (records as i64).into()],
    )?;
    rows.next()
        .map_or(Ok(false), |row| row.required("is_first"))
}

/// What came of a batch.
#[derive(Default)]
pub struct Progress<'a> {
    pub settled: usize,
    pub written: usize,
    pub failed: usize,
    pub error: Option<&'a str>,
}

/// Adds what came of a batch to the round.
pub fn add_progress(
    client: &mut SpiClient,
    map_id: i32,
    progress: &Progress,
) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.map_state
         SET round_done = round_done + $2, round_written = round_written + $3, round_failed = round_failed + $4,
             last_success = CASE WHEN $3 > 0 THEN now() ELSE last_success END,
             last_error = coalesce($5, last_error), last_error_at = CASE WHEN $5 IS NULL THEN last_error_at ELSE now() END
         WHERE map_id = $1"),
        None,
        &[
            map_id.into(),
            (progress.settled as i64).into(),
            (progress.written as i64).into(),
            (progress.failed as i64).into(),
            progress.error.into(),
        ],
    )?;
    Ok(())
}

/// Notes why something of the map failed.
pub fn note_error(client: &mut SpiClient, map_id: i32, error: &str) -> Result<(), StoreError> {
    let progress = Progress {
        error: Some(error),
        ..Progress::default()
    };
    add_progress(client, map_id, &progress)
}

/// A round that ended.
pub struct Round {
    pub id: Option<String>,
    pub records: i64,
    pub written: i64,
    pub failed: i64,
}

/// Ends the round, if it had any records; the next begins a write_interval from now.
pub fn end(client: &mut SpiClient, map_id: i32) -> Result<Option<Round>, StoreError> {
    // Another session may be changing the interval.
    lock_definition(client, map_id)?;
    let mut rows = client.update(
        Cached("UPDATE crm.map_state s SET round_start = NULL, next_write_at = now() + m.write_interval
         FROM crm.object_map m WHERE m.map_id = s.map_id AND s.map_id = $1
         RETURNING s.round_id::text AS round_id, s.round_total, s.round_written, s.round_failed"),
        None,
        &[map_id.into()],
    )?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let round = Round {
        id: row.optional("round_id")?,
        records: row.required("round_total")?,
        written: row.required("round_written")?,
        failed: row.required("round_failed")?,
    };
    Ok(Some(round).filter(|round| round.records > 0))
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
