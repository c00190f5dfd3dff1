//! Settles batches: results go into the ledger, the queue and the audit. Whatever goes wrong with
//! one, it keeps no other from being settled, and a result that cannot be stored now is kept until
//! it can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::bisect::{Undone, bisect};
use crm_domain::mapping::OnCrmDelete;
use crm_domain::retry::Backoff;
use crm_domain::{ErrorClass, Failure};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::results::stop_reason;
use crate::failpoint;
use crate::store::config::{Connection, Map};
use crate::store::map_state::{self, Progress};
use crate::store::outcome::Outcome;
use crate::store::reconcile::pending_writes;
use crate::store::table::delete;
use crate::store::write_back::outcome::Settled;
use crate::store::write_back::{claims, failed, settle};
use crate::store::{StoreError, transaction};
use crate::worker::connections::health;
use crate::worker::context::{Between, Context};
use crate::worker::process::complain;
use crate::worker::retry_policy;
use crate::worker::step_backoff::{Owner, Step};
use crm_domain::Operation;

/// Results of records of one map.
pub struct Results {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    pub settled: Vec<Settled>,
}

impl Results {
    fn of(&self, settled: Vec<Settled>) -> Results {
        Results {
            map: self.map.clone(),
            connection: self.connection.clone(),
            settled,
        }
    }
}

/// How a result is stored, if it cannot be as it is.
#[derive(Clone, Copy)]
enum Rung {
    AsItIs,
    /// As the failure that it caused.
    Blamed,
    /// Without what may be at fault.
    Bare,
}

#[derive(Default)]
pub struct Settler {
    /// Results whose ledger rows another session has locked, or that cannot be stored now.
    unsettled: Vec<Results>,
}

impl Settler {
    pub fn is_empty(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// The records of a map whose results are not settled yet.
    pub fn unsettled(&self, map_id: i32) -> impl Iterator<Item = (&str, &str)> {
        let of_map = self.unsettled.iter().filter(move |r| r.map.id == map_id);
        of_map
            .flat_map(|results| &results.settled)
            .map(|s| (s.shard_key.as_str(), s.record_key.as_str()))
    }

    /// Settles a batch in steps. The last one releases its claims and records its connection's
    /// health.
    pub fn settle(
        &mut self,
        cx: &mut Context,
        mut results: Results,
        claim_ids: &[i64],
        outage: Option<&Failure>,
        between: Between,
    ) {
        let stop = stop_reason(&results.map, &mut results.settled);
        let (map, connection) = (results.map.clone(), results.connection.clone());
        let owner = Owner::Map(map.id);
        let note = |client: &mut SpiClient| {
            for id in claim_ids {
                claims::release(client, *id)?;
            }
            health::record(client, &connection, outage)?;
            if let Some(reason) = &stop {
                map_state::stop(client, map.id, reason)?;
            }
            Ok(())
        };
        let timeout = cx.settings.transform_timeout;
        let mut left = std::mem::take(&mut results.settled).into_iter();
        loop {
            let began = Instant::now();
            let room = cx.steps.room(owner, Step::Settle, left.len());
            let mut part: Vec<Settled> = left.by_ref().take(room).collect();
            let is_last = left.len() == 0;
            let written = transaction(|client| {
                let locked = write(client, &connection, &map, &mut part, timeout)?;
                if is_last {
                    note(client)?;
                }
                failpoint::reach("settle::before_commit");
                Ok(locked)
            });
            failpoint::reach("settle::after_commit");
            match written {
                Ok(locked) => {
                    cx.backoff.succeeded(owner, Step::Settle);
                    cx.steps.note(owner, Step::Settle, part.len(), began);
                    self.keep(results.of(only(part, &locked)));
                }
                // The extension was dropped meanwhile; the next turn notices.
                Err(error) if error.is_undefined() => return,
                Err(error) => {
                    if !error.is_transient() {
                        log!("pg_crm settles a batch record by record: {error}");
                    }
                    if let Err(e) = transaction(note) {
                        complain(&e, &format!("pg_crm could not release a claim: {e}"));
                        cx.release_lost_claims_soon();
                    }
                    part.extend(left);
                    return self.settle_in_parts(cx, results.of(part), between);
                }
            }
            if is_last {
                return;
            }
            between(cx);
        }
    }

    /// Settles in parts, so that one result that cannot be stored does not keep the others from it:
    /// it counts as a failed attempt, and as a dead letter if no retry can help.
    pub fn settle_in_parts(&mut self, cx: &mut Context, mut results: Results, between: Between) {
        let owner = Owner::Map(results.map.id);
        let mut left = std::mem::take(&mut results.settled).into_iter();
        while left.len() > 0 {
            let began = Instant::now();
            let room = cx.steps.room(owner, Step::Settle, left.len());
            let part = results.of(left.by_ref().take(room).collect());
            self.settle_part(cx, part);
            cx.steps.note(owner, Step::Settle, room, began);
            // What keeps some of them from being stored keeps the others, too.
            if cx.backoff.left(owner, Step::Settle).is_some() {
                return self.keep(results.of(left.collect()));
            }
            between(cx);
        }
    }

    fn settle_part(&mut self, cx: &mut Context, mut results: Results) {
        let (map, connection) = (results.map.clone(), results.connection.clone());
        let timeout = cx.settings.transform_timeout;
        for rung in [Rung::AsItIs, Rung::Blamed, Rung::Bare] {
            let mut locked = Vec::new();
            let rest = std::mem::take(&mut results.settled);
            let count = rest.len();
            let mut undone = bisect(rest, StoreError::blames_no_row, |part| {
                let written = transaction(|client| write(client, &connection, &map, part, timeout));
                written.map(|indexes| locked.extend(only(std::mem::take(part), &indexes)))
            });
            self.keep(results.of(locked));
            if undone.is_empty() {
                cx.backoff.succeeded(Owner::Map(map.id), Step::Settle);
                return;
            }
            let failures = cx.backoff.failures(Owner::Map(map.id), Step::Settle);
            if matches!(rung, Rung::AsItIs) {
                match retry_policy::faultless(undone, count, failures) {
                    Ok(Undone { items, error }) => {
                        return self.keep_for_later(cx, results.of(items), &error);
                    }
                    Err(blamed) => undone = blamed,
                }
            }
            for Undone { mut items, error } in undone {
                if error.is_undefined() {
                    continue;
                }
                if error.blames_no_row() {
                    self.keep_for_later(cx, results.of(items), &error);
                    continue;
                }
                let record = &mut items[0];
                log!(
                    "pg_crm cannot store the result of record {} of {}: {error}",
                    record.record_key,
                    map.relation
                );
                match rung {
                    Rung::AsItIs => {
                        let max_attempts = cx.settings.max_attempts;
                        record.outcome = blamed(&map, record, &error, max_attempts);
                    }
                    Rung::Blamed => {
                        record.fields = "{}".to_owned();
                        record.actor = None;
                        record.correlation_id = None;
                        record.request_id = None;
                    }
                    Rung::Bare => {}
                }
                results.settled.extend(items);
            }
        }
        for record in std::mem::take(&mut results.settled) {
            if let Err(error) = postpone(&map, &record) {
                self.keep_for_later(cx, results.of(vec![record]), &error);
            }
        }
    }

    fn keep(&mut self, results: Results) {
        if !results.settled.is_empty() {
            self.unsettled.push(results);
        }
    }

    /// Results that cannot be stored now; their records are not sent again meanwhile.
    fn keep_for_later(&mut self, cx: &mut Context, results: Results, error: &StoreError) {
        let what = "cannot store results of";
        cx.backoff
            .map_failed(&results.map, Step::Settle, error, what);
        self.keep(results);
    }

    pub fn retry_unsettled(&mut self, cx: &mut Context, between: Between) {
        for results in std::mem::take(&mut self.unsettled) {
            let owner = Owner::Map(results.map.id);
            if cx.backoff.left(owner, Step::Settle).is_some() {
                self.unsettled.push(results);
            } else {
                self.settle_in_parts(cx, results, between);
            }
        }
    }
}

/// What becomes of a record that cannot be read, or whose result cannot be stored, because of this
/// error.
pub fn blamed(map: &Map, record: &Settled, error: &StoreError, max_attempts: u32) -> Outcome {
    let dead = |class: ErrorClass, code: &str, error: String| Outcome::Dead {
        class,
        code: code.to_owned(),
        error,
    };
    if error.code() == Some(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION)
        && let Some(id) = &record.crm_id
    {
        let error =
            format!("the CRM says its record {id} is this one, but that is linked to another row");
        return dead(ErrorClass::Conflict, "duplicate_identity", error);
    }
    if error.is_about_values() {
        return dead(ErrorClass::Internal, "settle", error.message());
    }
    retry_policy::classify(
        &Failure::record(ErrorClass::Transient, "settle", error.message()),
        record.attempt.saturating_sub(1),
        max_attempts,
        map.on_crm_delete,
        fastrand::f64(),
    )
}

/// The result cannot be stored at all: the record is tried again later.
fn postpone(map: &Map, record: &Settled) -> Result<(), StoreError> {
    let wait = Backoff::RECORD.bound(record.attempt) / 2 + Duration::from_secs(1);
    let error = "the record's result cannot be stored";
    transaction(|client| failed::postpone(client, map, record, wait.as_millis() as i64, error))
}

/// Stores results, after deleting the rows whose records the CRM deleted, if that is wanted, and
/// reports them in the map's status. Returns the places of those that another session keeps from
/// being stored.
fn write(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    settled: &mut [Settled],
    timeout: Duration,
) -> Result<Vec<usize>, StoreError> {
    let keys = settled.iter().map(|s| s.record_key.as_str());
    failpoint::reach_with("settle::store", keys);
    let (mut ready, mut locked) = (Vec::with_capacity(settled.len()), Vec::new());
    let mut row_stays = None;
    for (i, s) in settled.iter_mut().enumerate() {
        // Not what a transaction that was rolled back left here.
        s.row_gone = false;
        let deletes_row = matches!(s.outcome, Outcome::Unlinked { .. })
            && map.on_crm_delete == OnCrmDelete::Delete
            && s.operation != Operation::Delete;
        if deletes_row {
            match delete::delete_row(map, &s.shard_key, &s.record_key, timeout) {
                Ok(()) => s.row_gone = true,
                Err(error) if error.is_transient() => {
                    locked.push(i);
                    continue;
                }
                Err(error) => {
                    let reason = format!(
                        "the CRM deleted record {}, but its row cannot be deleted: {}",
                        s.record_key,
                        error.message()
                    );
                    log!("pg_crm, {}: {reason}", map.relation);
                    row_stays = Some(reason);
                }
            }
        }
        ready.push(i);
    }
    let records: Vec<&Settled> = ready.iter().map(|&i| &settled[i]).collect();
    let not_yet = settle::settle(client, connection, map, &records)?;
    locked.extend(not_yet.into_iter().map(|n| ready[n]));
    let never_made: Vec<(&str, &str)> = records
        .iter()
        .filter(|s| s.outcome == Outcome::NothingToDo && s.crm_id.is_none())
        .map(|s| (s.shard_key.as_str(), s.record_key.as_str()))
        .collect();
    pending_writes::end_with_rows(client, connection, map, &never_made)?;
    let is_stored = |n: &usize| !locked.contains(n);
    let stored = || {
        (0..settled.len())
            .filter(is_stored)
            .map(|n| &settled[n].outcome)
    };
    let error = stored().find_map(|outcome| match outcome.failure() {
        (_, Some(code), Some(error)) => Some(format!("{error} ({code})")),
        _ => None,
    });
    let progress = Progress {
        settled: stored().count(),
        written: stored().filter(|o| **o == Outcome::Applied).count(),
        failed: stored().filter(|o| o.failure().0.is_some()).count(),
        error: row_stays.as_deref().or(error.as_deref()),
    };
    map_state::add_progress(client, map.id, &progress)?;
    Ok(locked)
}

fn only(settled: Vec<Settled>, indexes: &[usize]) -> Vec<Settled> {
    let settled = settled.into_iter().enumerate();
    settled
        .filter(|(i, _)| indexes.contains(i))
        .map(|(_, s)| s)
        .collect()
}
