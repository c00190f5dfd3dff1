//! Rows that are there, captured as if their cells had just been edited.
//!
//! Guarantees: what people typed in the CRM is not overwritten, since the base of an edit is what
//! the ledger knows when its turn comes. A record that the CRM deleted is not created again.

use std::collections::HashSet;
use std::time::Duration;

use crm_domain::Cells;
use crm_domain::mapping::OnInsert;
use pgrx::PgSqlErrorCode;
use pgrx::spi::SpiClient;

use crate::store::capture::compare::Differing;
use crate::store::capture::recapture;
use crate::store::capture::scan_order::Order;
use crate::store::capture::scan_request::{self, Request, Task};
use crate::store::config::map::Map;
use crate::store::error::{Fault, StoreError};
use crate::store::fuse;
use crate::store::record::key::Key;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;
use crate::store::table::pace::Pace;
use crate::store::table::read::Bounds;

/// Edits of checked cells that may wait before a push adds more: they are sent in the order in
/// which they came, and those of users have to wait for them.
const WAITING: i64 = 5000;

/// What a condition may take for one row: other maps wait meanwhile.
const LONGEST: Duration = Duration::from_secs(1);

/// Captures cells of the next rows.
pub fn part(
    client: &mut SpiClient,
    map: &Map,
    order: &Order,
    request: &mut Request,
    rows: usize,
    bounds: &Bounds,
) -> Result<(), StoreError> {
    let Task::Push { cells, condition } = &request.task else {
        return Ok(());
    };
    let written = map.cells(|f| f.written);
    let cells = cells
        .as_ref()
        .map_or_else(|| written.clone(), |c| c.intersection(&written));
    let mut pace = Pace::new(map, bounds.time);
    let rows = rows.min(pace.room());
    let after = request.after.clone();
    let found = match condition {
        Some(condition) => judged(map, order, after.as_ref(), rows, condition, bounds)?,
        None => pace.run(rows, || order.rows(map, after.as_ref(), rows, None))?,
    };
    let last = found.last().map(|(key, _)| key.clone());
    let scanned = found.len();
    request.compared += scanned as i64;
    let mut wanted: Vec<Key> = found
        .into_iter()
        .filter_map(|(key, holds)| holds.then_some(key))
        .collect();
    if let Some(filter) = &map.filter {
        let condition = Some(filter.condition.as_str());
        let judged = pace.run(scanned, || {
            order.rows(map, after.as_ref(), scanned, condition)
        })?;
        let inside: HashSet<Key> = judged
            .into_iter()
            .filter_map(|(key, inside)| inside.then_some(key))
            .collect();
        let (kept, outside) = wanted.into_iter().partition(|key| inside.contains(key));
        wanted = kept;
        recapture::leave(client, map, &request.actor, outside, bounds)?;
    }
    // Its creations were asked for, and what it clears.
    fuse::begin_load(client, map.id)?;
    let pushed: Vec<Differing> = wanted_cells(client, map, wanted, &cells, &written)?;
    recapture::capture(client, map, &request.actor, &pushed, bounds.time)?;
    request.marked += pushed.len() as i64;
    scan_request::advance(client, request, last)
}

/// The next rows, and whether the condition holds for them.
fn judged(
    map: &Map,
    order: &Order,
    after: Option<&Key>,
    rows: usize,
    condition: &str,
    bounds: &Bounds,
) -> Result<Vec<(Key, bool)>, StoreError> {
    let limit = bounds.time.map_or(LONGEST, |time| time.min(LONGEST));
    match order.rows_in_a_moment(map, after, rows, condition, limit) {
        Err(StoreError::RowTimeout(limit)) => Err(StoreError::Postgres {
            code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            message: format!("it takes longer than {limit:?} for one row"),
        }),
        judged => judged,
    }
}

/// The cells to be captured of each row that has a CRM record, or is to get one.
fn wanted_cells(
    client: &mut SpiClient,
    map: &Map,
    keys: Vec<Key>,
    cells: &Cells,
    written: &Cells,
) -> Result<Vec<Differing>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT k.ord - 1 AS ord, l.crm_id IS NOT NULL AS is_linked, coalesce(l.detached, false) AS is_detached
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             LEFT JOIN crm.ledger l ON l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut pushed = Vec::with_capacity(keys.len());
    for row in rows {
        let cells = match (row.required("is_linked")?, row.required("is_detached")?) {
            (true, _) => cells,
            (false, false) if map.on_insert == OnInsert::Create => written,
            (false, _) => continue,
        };
        if !cells.is_empty() {
            pushed.push(Differing {
                key: keys[row.number("ord")?].clone(),
                cells: cells.clone(),
                failure: None,
            });
        }
    }
    Ok(pushed)
}

/// Whether a part failed because of the request's condition: without it the table can be read.
pub fn is_to_blame(
    client: &mut SpiClient,
    map: &Map,
    request: &Request,
    error: &StoreError,
) -> Result<bool, StoreError> {
    let has_condition = matches!(
        request.task,
        Task::Push {
            condition: Some(_),
            ..
        }
    );
    let is_final = matches!(error.fault(), Fault::Row | Fault::StaleMapping);
    if !has_condition || !is_final || matches!(error, StoreError::RowTimeout(_)) {
        return Ok(false);
    }
    let order = Order::of(client, map)?;
    let mut pace = Pace::new(map, None);
    Ok(pace.run(1, || order.rows(map, None, 1, None)).is_ok())
}

/// Whether so many edits of checked cells wait for the CRM that a push has to wait as well.
pub fn is_held_back(client: &SpiClient, map: &Map) -> Result<bool, StoreError> {
    if !map.realtime {
        return Ok(false);
    }
    let rows = client.select(
        Cached(
            "SELECT count(*) >= $2 AS is_held_back
             FROM (SELECT FROM crm.pending_write p WHERE p.map_id = $1 AND p.state = 'queued' AND p.next_attempt_at = '-infinity'
                   AND (SELECT l.crm_id FROM crm.ledger l WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id
                        AND l.record_key = p.record_key) IS NOT NULL LIMIT $2) x",
        ),
        None,
        &[map.id.into(), WAITING.into()],
    )?;
    row::only(rows)?.required("is_held_back")
}
