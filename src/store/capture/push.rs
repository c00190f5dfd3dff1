//! Rows that are there, captured as if their cells had just been edited.
//!
//! Guarantees: what people typed in the CRM is not overwritten, since the base of an edit is what
//! the ledger knows when its turn comes. A record that the CRM deleted is not created again.

use std::collections::HashMap;
use std::time::Duration;

use crm_domain::Cells;
use pgrx::PgSqlErrorCode;
use pgrx::spi::SpiClient;

use crate::store::capture::compare::Differing;
use crate::store::capture::filtered;
use crate::store::capture::ledger_state::{self, Fate};
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
    let found = next(
        map,
        order,
        request.after.as_ref(),
        rows,
        condition.as_deref(),
        bounds,
    )?;
    let last = found.last().map(|(key, _)| key.clone());
    request.compared += found.len() as i64;
    let (mut wanted, mut outside) = (Vec::new(), Vec::new());
    for (key, place) in found {
        match place {
            Place::Wanted => wanted.push(key),
            Place::Outside => outside.push(key),
            Place::Other => {}
        }
    }
    recapture::leave(client, map, &request.actor, outside, bounds)?;
    let pushed: Vec<Differing> = wanted_cells(client, map, wanted, &cells, &written)?;
    if !pushed.is_empty() {
        // Its creations were asked for, and what it clears.
        fuse::begin_load(client, map.id)?;
    }
    recapture::capture(client, map, &request.actor, &pushed, bounds.time)?;
    request.marked += pushed.len() as i64;
    scan_request::advance(client, request, last)
}

/// What a push is to do about a row.
#[derive(Clone, Copy)]
enum Place {
    Wanted,
    /// The condition holds for it, but it is outside the filter of the map.
    Outside,
    /// The condition does not hold for it, or it is gone.
    Other,
}

/// The next rows.
fn next(
    map: &Map,
    order: &Order,
    after: Option<&Key>,
    rows: usize,
    condition: Option<&str>,
    bounds: &Bounds,
) -> Result<Vec<(Key, Place)>, StoreError> {
    let scan = |rows| filtered::rows(map, order, after, rows, bounds);
    let Some(condition) = condition else {
        let place = |inside| match inside {
            true => Place::Wanted,
            false => Place::Outside,
        };
        let found = scan(rows)?.into_iter();
        return Ok(found.map(|(key, inside)| (key, place(inside))).collect());
    };
    let mut found = judged(map, order, after, rows, condition, bounds)?;
    let mut inside: HashMap<Key, bool> = HashMap::new();
    if map.filter.is_some() && !found.is_empty() {
        inside.extend(scan(found.len())?);
        // This scan sees more: rows inserted meanwhile take the places of the last ones, which are
        // left to the next part.
        let seen = found.iter().rposition(|(key, _)| inside.contains_key(key));
        found.truncate(seen.map_or(0, |last| last + 1));
        if found.is_empty() {
            return Err(StoreError::Postponed);
        }
    }
    let is_inside = |key: &Key| match &map.filter {
        Some(_) => inside.get(key).copied(),
        None => Some(true),
    };
    let placed = |(key, holds): (Key, bool)| {
        let place = match is_inside(&key) {
            Some(true) if holds => Place::Wanted,
            Some(false) if holds => Place::Outside,
            _ => Place::Other,
        };
        (key, place)
    };
    Ok(found.into_iter().map(placed).collect())
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
            message: format!(
                "evaluating it takes longer than {} s for one row",
                limit.as_secs_f64()
            ),
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
    let fates = ledger_state::fates(client, map, &keys)?;
    let pushed = keys.into_iter().zip(fates).filter_map(|(key, (fate, _))| {
        let cells = match fate {
            Fate::Updated => cells,
            Fate::Created => written,
            Fate::Skipped => return None,
        };
        (!cells.is_empty()).then(|| Differing {
            key,
            cells: cells.clone(),
            failure: None,
        })
    });
    Ok(pushed.collect())
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
