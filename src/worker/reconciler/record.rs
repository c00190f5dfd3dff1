//! Records the results of pending writes. Whatever goes wrong with one, it keeps no other from
//! being recorded, and a result that cannot be recorded now is kept until it can.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::bisect::{Undone, bisect};
use crm_domain::retry::Backoff;
use pgrx::prelude::*;

use super::audit::Entry;
use super::resolve::{blamed, event, notification};
use crate::failpoint;
use crate::settings::Settings;
use crate::store::Fault;
use crate::store::config::{Connection, Map};
use crate::store::notify;
use crate::store::reconcile::outcome::{self, Resolution};
use crate::store::reconcile::resolve;
use crate::store::write_back::claims;
use crate::store::{StoreError, transaction};
use crate::worker::context::{Between, Context};
use crate::worker::process::complain;
use crate::worker::retry_policy;
use crate::worker::step_backoff::{Owner, Step};

/// A pending write's result, and its entry of the audit.
pub type Resolved = (Resolution, Entry);

/// Results of pending writes of one map.
pub struct Results {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    pub resolved: Vec<Resolved>,
}

impl Results {
    fn of(&self, resolved: Vec<Resolved>) -> Results {
        Results {
            map: self.map.clone(),
            connection: self.connection.clone(),
            resolved,
        }
    }
}

const CANNOT_RECORD: &str = "cannot record edits of";

#[derive(Default)]
pub struct Recorder {
    /// Results whose rows another session has locked, or that cannot be recorded now.
    unrecorded: Vec<Results>,
}

impl Recorder {
    pub fn is_empty(&self) -> bool {
        self.unrecorded.is_empty()
    }

    /// The records of a map whose results are not recorded yet.
    pub fn unrecorded(&self, map_id: i32) -> impl Iterator<Item = (&str, &str)> {
        let of_map = self.unrecorded.iter().filter(move |r| r.map.id == map_id);
        of_map
            .flat_map(|results| &results.resolved)
            .map(|(record, _)| outcome::keys_of(record))
    }

    /// Records results in steps. The last one releases their claim.
    pub fn record(
        &mut self,
        cx: &mut Context,
        mut results: Results,
        claim_id: Option<i64>,
        between: Between,
    ) {
        let owner = Owner::Map(results.map.id);
        let mut left = std::mem::take(&mut results.resolved).into_iter();
        loop {
            let began = Instant::now();
            let room = cx.steps.room(owner, Step::RecordEdits, left.len());
            let mut part: Vec<Resolved> = left.by_ref().take(room).collect();
            let is_last = left.len() == 0;
            let ends = claim_id.filter(|_| is_last);
            let written = write(&results, &part, ends, &cx.settings);
            failpoint::reach("reconcile_settle::after_commit");
            match written {
                Ok(locked) => {
                    cx.backoff.succeeded(owner, Step::RecordEdits);
                    cx.steps.note(owner, Step::RecordEdits, part.len(), began);
                    self.keep(results.of(only(part, &locked)));
                }
                Err(error) => {
                    part.extend(left);
                    return self.record_after(cx, results.of(part), claim_id, &error);
                }
            }
            if is_last {
                return;
            }
            between(cx);
        }
    }

    /// Records results that could not be recorded together.
    fn record_after(
        &mut self,
        cx: &mut Context,
        results: Results,
        claim_id: Option<i64>,
        error: &StoreError,
    ) {
        if error.is_undefined() && error.fault() != Fault::StaleMapping {
            return;
        }
        if !error.blames_no_row() {
            log!(
                "pg_crm records edits of {} one by one: {error}",
                results.map.relation
            );
        }
        if let Some(claim_id) = claim_id
            && let Err(e) = transaction(|client| claims::release(client, claim_id))
        {
            complain(&e, &format!("pg_crm could not release a claim: {e}"));
            cx.release_lost_claims_soon();
        }
        // They come again, by the mapping as it is now.
        if error.fault() == Fault::StaleMapping {
            return;
        }
        self.record_in_parts(cx, results);
    }

    /// Records results as they are; then as the failures that they caused; and then without
    /// anything that may be at fault.
    fn record_in_parts(&mut self, cx: &mut Context, mut results: Results) {
        for rung in 0..3 {
            let mut locked = Vec::new();
            let rest = std::mem::take(&mut results.resolved);
            let count = rest.len();
            let mut undone = bisect(rest, StoreError::blames_no_row, |part| {
                let indexes = write(&results, part, None, &cx.settings)?;
                locked.extend(only(std::mem::take(part), &indexes));
                Ok(())
            });
            self.keep(results.of(locked));
            if undone.is_empty() {
                let owner = Owner::Map(results.map.id);
                cx.backoff.succeeded(owner, Step::RecordEdits);
                return;
            }
            let owner = Owner::Map(results.map.id);
            if rung == 0 {
                let failures = cx.backoff.failures(owner, Step::RecordEdits);
                match retry_policy::faultless(undone, count, failures) {
                    Ok(Undone { items, error }) => {
                        return self.keep_for_later(cx, results.of(items), &error);
                    }
                    Err(blamed) => undone = blamed,
                }
            }
            for Undone { items, error } in undone {
                if error.is_undefined() {
                    continue;
                }
                if error.blames_no_row() {
                    self.keep_for_later(cx, results.of(items), &error);
                    continue;
                }
                for (record, entry) in items {
                    log!(
                        "pg_crm cannot record the result of an edit of record {} of {}: {error}",
                        record.pending.record_key,
                        results.map.relation
                    );
                    results.resolved.push(match rung {
                        0 => {
                            let most = cx.settings.max_attempts;
                            let (pending, sent) = (record.pending, record.sent);
                            let (blamed, mut said) =
                                blamed(&results.map, pending, sent, &error, most);
                            said.fields = entry.fields;
                            said.request_id = entry.request_id;
                            (blamed, said)
                        }
                        _ => {
                            let bare = Entry {
                                failure: entry.failure,
                                ..Entry::default()
                            };
                            (record, bare)
                        }
                    });
                }
            }
        }
        for resolved in std::mem::take(&mut results.resolved) {
            if let Err(error) = postpone(&results.map, &resolved.0) {
                self.keep_for_later(cx, results.of(vec![resolved]), &error);
            }
        }
    }

    fn keep(&mut self, results: Results) {
        if !results.resolved.is_empty() {
            self.unrecorded.push(results);
        }
    }

    fn keep_for_later(&mut self, cx: &mut Context, results: Results, error: &StoreError) {
        cx.backoff
            .map_failed(&results.map, Step::RecordEdits, error, CANNOT_RECORD);
        self.keep(results);
    }

    /// Tries once more to record what could not be recorded.
    pub fn retry_unrecorded(&mut self, cx: &mut Context, between: Between) {
        for results in std::mem::take(&mut self.unrecorded) {
            let owner = Owner::Map(results.map.id);
            if cx.backoff.left(owner, Step::RecordEdits).is_some() {
                self.unrecorded.push(results);
            } else {
                self.record(cx, results, None, between);
            }
        }
    }
}

/// Records results in one transaction. Returns the places of those that another session keeps from
/// being recorded.
fn write(
    results: &Results,
    resolved: &[Resolved],
    claim_id: Option<i64>,
    settings: &Settings,
) -> Result<Vec<usize>, StoreError> {
    let Results {
        map, connection, ..
    } = results;
    let by_key: HashMap<(&str, &str), usize> = resolved
        .iter()
        .enumerate()
        .map(|(n, (r, _))| (outcome::keys_of(r), n))
        .collect();
    let place = |r: &Resolution| by_key[&outcome::keys_of(r)];
    transaction(|client| {
        let keys = resolved.iter().map(|(r, _)| r.pending.record_key.as_str());
        failpoint::reach_with("reconcile_settle::store", keys);
        // The store takes part of the results with it, and this transaction may be rolled back.
        let records = resolved.iter().map(|(record, _)| record.clone()).collect();
        let (now, later) = resolve::resolve(client, (connection, map), records, settings)?;
        for record in &now {
            let (_, entry) = &resolved[place(record)];
            entry.write(client, connection, map, record)?;
        }
        let events = now.iter().map(|r| {
            let (name, error) = notification(r);
            event(name, connection, map, &r.pending, error)
        });
        notify::notify(client, events.collect())?;
        if let Some(claim_id) = claim_id {
            claims::release(client, claim_id)?;
        }
        failpoint::reach("reconcile_settle::before_commit");
        Ok(later.iter().map(place).collect())
    })
}

/// The result cannot be recorded at all: the edit is tried again later.
fn postpone(map: &Map, record: &Resolution) -> Result<(), StoreError> {
    let attempt = record.pending.attempts + 1;
    let wait = Backoff::RECORD.bound(attempt) / 2 + Duration::from_secs(1);
    let error = "the result of the edit cannot be recorded";
    transaction(|client| resolve::postpone(client, map, record, wait.as_millis() as i64, error))
}

fn only(resolved: Vec<Resolved>, indexes: &[usize]) -> Vec<Resolved> {
    let resolved = resolved.into_iter().enumerate();
    resolved
        .filter(|(n, _)| indexes.contains(n))
        .map(|(_, one)| one)
        .collect()
}
