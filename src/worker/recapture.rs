//! Rows that may have changed without firing a trigger are compared with the ledger, a part at a
//! time: each part is a transaction of its own, and other maps have their turn in between.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::context::Context;
use super::process::report;
use super::schedule::IDLE;
use super::step_backoff::{Owner, Step};
use crate::store::capture::compare;
use crate::store::capture::recapture::{self, Phase, Request};
use crate::store::capture::scan_order;
use crate::store::config::{self, Map};
use crate::store::table::read::Bounds;
use crate::store::{StoreError, transaction};

/// Rows of one transaction.
const PART: usize = 1000;
/// How long one turn of the worker may spend on it.
const SHARE: Duration = Duration::from_millis(500);

/// Works on the requests to compare rows; returns when to go on. `unsettled`: records of a map
/// whose last results are not stored yet.
pub fn turn<'u>(cx: &mut Context, unsettled: impl Fn(i32) -> Vec<(&'u str, &'u str)>) -> Duration {
    let mut requests = Vec::new();
    let mut next = cx.backoff.attempt(Owner::Worker, Step::Recapture, || {
        requests = transaction(recapture::requests)?;
        Ok(IDLE)
    });
    let until = Instant::now() + SHARE;
    let maps = cx.maps.clone();
    for mut request in requests {
        let Some(map) = maps.iter().find(|m| m.id == request.map_id) else {
            continue;
        };
        let connection = cx.connections.get(map.connection_id);
        if !map.works() || connection.is_some_and(|c| c.is_away) {
            continue;
        }
        let owner = Owner::Map(map.id);
        if let Some(left) = cx.backoff.left(owner, Step::Recapture) {
            next = next.min(left);
            continue;
        }
        report(&format!("comparing the rows of {}", map.relation));
        let bounds = Bounds::of(&cx.settings);
        let compared = begin(map, &mut request, &unsettled(map.id), bounds.time)
            .and_then(|()| compare_until(map, &mut request, &bounds, until));
        next = next.min(match compared {
            Ok(done) => {
                if done {
                    log!(
                        "pg_crm compared {} rows of {} with the ledger: {} records had changes that were not captured",
                        request.compared,
                        map.relation,
                        request.marked
                    );
                }
                cx.backoff.succeeded(owner, Step::Recapture);
                Duration::ZERO
            }
            Err(error) => {
                let what = "cannot compare the rows of";
                cx.backoff.map_failed(map, Step::Recapture, &error, what)
            }
        });
    }
    next
}

/// Once for each request, before its first row is compared.
fn begin(
    map: &Map,
    request: &mut Request,
    unsettled: &[(&str, &str)],
    limit: Option<Duration>,
) -> Result<(), StoreError> {
    if request.after.is_some() || request.phase == Phase::Ledger {
        return Ok(());
    }
    transaction(|client| recapture::begin(client, map, request, unsettled, limit))
}

/// Goes on with a request; `true` when it is done.
fn compare_until(
    map: &Map,
    request: &mut Request,
    bounds: &Bounds,
    until: Instant,
) -> Result<bool, StoreError> {
    let bounds = bounds.lenient();
    loop {
        let goes_on = transaction(|client| {
            // Read anew: the DDL that made the request may be newer than what this turn knows of
            // the table.
            let maps = config::maps_of(client, Some(map.names.table))?;
            let Some(map) = maps.iter().find(|m| m.id == map.id && m.works()) else {
                return Ok(None);
            };
            match request.phase {
                Phase::Rows => {
                    let order = scan_order::Order::of(client, map)?;
                    let after = request.after.clone();
                    let part = compare::part(client, map, &order, after.as_ref(), PART, &bounds)?;
                    recapture::mark(client, map, request, part, bounds.time)?;
                }
                Phase::Ledger => recapture::mark_lost(client, map, request, PART, &bounds)?,
            }
            Ok(Some(!request.is_done))
        })?;
        crate::failpoint::reach("recapture::part");
        match goes_on {
            Some(true) if Instant::now() < until => {}
            Some(goes_on) => return Ok(!goes_on),
            None => return Ok(false),
        }
    }
}
