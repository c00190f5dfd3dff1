//! Scans of mapped tables: rows that may have changed without firing a trigger are compared with
//! the ledger, rows that are pushed are captured. A part at a time: each is a transaction of its
//! own, and other maps have their turn in between.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::context::{Between, Context};
use super::process::report;
use super::schedule::IDLE;
use super::step_backoff::{Owner, Step};
use crate::failpoint;
use crate::store::capture::scan_order::{MOMENT, Order};
use crate::store::capture::scan_request::{self, Phase, Request, Task};
use crate::store::capture::{compare, push, recapture};
use crate::store::config::{self, Map};
use crate::store::table::read::Bounds;
use crate::store::{StoreError, map_state, transaction};

/// Rows of one transaction at most.
const PART: usize = 1000;
/// How long one turn of the worker may spend on it.
const SHARE: Duration = Duration::from_millis(500);
/// How soon a push looks again whether the edits that it waits for were sent.
const HELD_BACK: Duration = Duration::from_millis(200);

/// What one turn has made of a request.
enum Progress {
    Done,
    GoesOn,
    /// Edits wait, which are to be sent before more are captured.
    HeldBack,
    /// It was cancelled, or its map does not work any more.
    Stopped,
}

/// Works on the requests; returns when to go on. `unsettled`: records of a map whose last results
/// are not stored yet.
pub fn turn<'u>(
    cx: &mut Context,
    unsettled: impl Fn(i32) -> Vec<(&'u str, &'u str)>,
    between: Between,
) -> Duration {
    let mut requests = Vec::new();
    let mut next = cx.backoff.attempt(Owner::Worker, Step::Scans, || {
        requests = transaction(scan_request::requests)?;
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
        let (owner, step) = (Owner::Map(map.id), step(&request));
        if let Some(left) = cx.backoff.left(owner, step) {
            next = next.min(left);
            continue;
        }
        report(&format!("scanning {}", map.relation));
        let bounds = Bounds::of(&cx.settings);
        let begun = begin(map, &mut request, &unsettled(map.id), bounds.time);
        let scanned = match begun {
            Ok(()) => scan_until(cx, map, &mut request, (&bounds, until), between),
            Err(error) => Err(error),
        };
        next = next.min(match scanned {
            Ok(progress) => {
                cx.backoff.succeeded(owner, step);
                match progress {
                    Progress::Done => {
                        log_end(map, &request);
                        Duration::ZERO
                    }
                    Progress::GoesOn => Duration::ZERO,
                    Progress::HeldBack => HELD_BACK,
                    Progress::Stopped => IDLE,
                }
            }
            Err(error) => match end_if_to_blame(map, &request, &error) {
                Ok(true) => Duration::ZERO,
                _ => cx.backoff.map_failed(map, step, &error, what(&request)),
            },
        });
    }
    next
}

fn step(request: &Request) -> Step {
    match request.task {
        Task::Recapture { .. } => Step::Recapture,
        Task::Push { .. } => Step::Push,
    }
}

fn what(request: &Request) -> &'static str {
    match request.task {
        Task::Recapture { .. } => "cannot compare the rows of",
        Task::Push { .. } => "cannot push the rows of",
    }
}

fn log_end(map: &Map, request: &Request) {
    let Request {
        id,
        compared,
        marked,
        ..
    } = request;
    let relation = &map.relation;
    match request.task {
        Task::Recapture { .. } => log!(
            "pg_crm compared {compared} rows of {relation} with the ledger: {marked} records had changes that were not captured"
        ),
        Task::Push { .. } => {
            log!("pg_crm pushed {marked} of {compared} rows of {relation} (push {id})");
        }
    }
}

/// A condition that fails would fail again: the push ends, and says why.
fn end_if_to_blame(map: &Map, request: &Request, error: &StoreError) -> Result<bool, StoreError> {
    let reason = format!(
        "push {} of {} ended after {} rows, because its condition failed: {}",
        request.id,
        map.relation,
        request.compared,
        error.message()
    );
    let is_to_blame = transaction(|client| {
        let is_to_blame = push::is_to_blame(client, map, request, error)?;
        if is_to_blame {
            scan_request::end(client, request)?;
            map_state::note_error(client, map.id, &reason)?;
        }
        Ok(is_to_blame)
    })?;
    if is_to_blame {
        log!("pg_crm: {reason}");
    }
    Ok(is_to_blame)
}

/// Once for each request, before its first row is compared.
fn begin(
    map: &Map,
    request: &mut Request,
    unsettled: &[(&str, &str)],
    limit: Option<Duration>,
) -> Result<(), StoreError> {
    let begins = matches!(
        request.task,
        Task::Recapture {
            phase: Phase::Rows,
            ..
        }
    );
    if !begins || request.after.is_some() {
        return Ok(());
    }
    transaction(|client| recapture::begin(client, map, request, unsettled, limit))
}

/// Goes on with a request.
fn scan_until(
    cx: &mut Context,
    map: &Map,
    request: &mut Request,
    (bounds, until): (&Bounds, Instant),
    between: Between,
) -> Result<Progress, StoreError> {
    let bounds = bounds.lenient();
    let (owner, step) = (Owner::Map(map.id), step(request));
    let until = match request.task {
        // It may be slow.
        Task::Push {
            condition: Some(_), ..
        } => until.min(Instant::now() + MOMENT),
        _ => until,
    };
    loop {
        let began = Instant::now();
        let rows = cx.steps.room(owner, step, PART);
        let progress = transaction(|client| {
            failpoint::reach("recapture::store");
            part(client, map, request, rows, &bounds)
        })?;
        failpoint::reach("recapture::part");
        cx.steps.note(owner, step, rows, began);
        between(cx);
        match progress {
            Progress::GoesOn if Instant::now() < until => {}
            progress => return Ok(progress),
        }
    }
}

fn part(
    client: &mut pgrx::spi::SpiClient,
    map: &Map,
    request: &mut Request,
    rows: usize,
    bounds: &Bounds,
) -> Result<Progress, StoreError> {
    // Read anew: the DDL that made the request may be newer than what this turn knows of the table.
    let maps = config::maps_of(client, Some(map.names.table))?;
    let Some(map) = maps.iter().find(|m| m.id == map.id && m.works()) else {
        return Ok(Progress::Stopped);
    };
    if !scan_request::lock(client, request)? {
        return Ok(Progress::Stopped);
    }
    match request.task {
        Task::Push { .. } => {
            if push::is_held_back(client, map)? {
                return Ok(Progress::HeldBack);
            }
            let order = Order::of(client, map)?;
            push::part(client, map, &order, request, rows, bounds)?;
        }
        Task::Recapture {
            phase: Phase::Rows, ..
        } => {
            let order = Order::of(client, map)?;
            let after = request.after.clone();
            let part = compare::part(client, map, &order, after.as_ref(), rows, bounds)?;
            recapture::mark(client, map, request, part, bounds)?;
        }
        Task::Recapture {
            phase: Phase::Ledger,
            ..
        } => recapture::mark_lost(client, map, request, rows, bounds)?,
    }
    Ok(match request.is_done {
        true => Progress::Done,
        false => Progress::GoesOn,
    })
}
