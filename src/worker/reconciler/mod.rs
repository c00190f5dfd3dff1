//! The reconciler: edits that wait are read, compared, written or settled by their fields' policies, in bulk.

pub mod audit;
pub mod read;
pub mod resolve;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::Failure;
use crm_domain::bisect::{Undone, bisect};
use crm_domain::failure::Scope;
use crm_domain::retry::Backoff;
use pgrx::prelude::*;

use self::audit::Entry;
use self::read::{Waiting, edit, read, sending, with_their_bases};
use self::resolve::{blamed, event, judge, told};
use crate::failpoint;
use crate::store::calls::intents;
use crate::store::config::{self, Connection, Map};
use crate::store::notify;
use crate::store::reconcile::outcome;
use crate::store::reconcile::outcome::Settled;
use crate::store::reconcile::pending_writes;
use crate::store::reconcile::pending_writes::Pending;
use crate::store::reconcile::settle;
use crate::store::table::read::Bounds;
use crate::store::write_back::claims;
use crate::store::{StoreError, transaction};
use crate::worker::connections::readiness::Readiness;
use crate::worker::link::{Lane, RequestContext, SharedLink};
use crate::worker::main_loop::Worker;
use crate::worker::main_loop::event::Event;
use crate::worker::process::report;
use crate::worker::schedule;
use crate::worker::schedule::{IDLE, LOCKED_RETRY};
use crate::worker::sender::checked_write::{self, Checked, Edit, Outcome};
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::tasks;

/// Pending writes of one slice at most.
const SLICE: usize = 1000;

/// What the threads report.
pub enum Message {
    /// The CRM's results for claimed pending writes; an error: their task panicked.
    Written {
        claim_id: i64,
        checked: Result<Vec<Checked>, Failure>,
        outage: Option<Failure>,
    },
}

/// Pending writes on their way.
pub struct Reconciling {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    pub waiting: Vec<Waiting>,
}

/// Pending writes that were claimed and read.
struct Taken {
    claim_id: i64,
    waiting: Vec<Waiting>,
    map: Arc<Map>,
}

impl Worker {
    /// Sends what is due of the pending writes; returns when something will be due next.
    pub fn reconcile(&mut self, maps: &[Arc<Map>]) -> Duration {
        let mut next = IDLE;
        if self.folded == 0 {
            next = next.min(self.confined(Owner::Worker, Step::Adopt, Worker::adopt_orphans));
        }
        for map in self
            .cx
            .schedule
            .order(maps)
            .into_iter()
            .filter(|m| m.realtime)
        {
            let (connection, link) = match self.readiness(map) {
                Readiness::Ready(connection, link) => (connection, link),
                Readiness::Blocked(wait) => {
                    next = next.min(wait);
                    continue;
                }
                Readiness::Stopped => continue,
            };
            let of = Owner::Map(map.id);
            let rests = [Step::ReadEdits, Step::RecordEdits].map(|s| self.cx.backoff.left(of, s));
            if let Some(left) = rests.into_iter().flatten().max() {
                next = next.min(left);
                continue;
            }
            let mut idle = false;
            while schedule::may_go(map, self.reconciling.values().map(|r| &r.map)) {
                match self.dispatch_pending(&connection, map, &link) {
                    Ok(true) => self.cx.schedule.served(map),
                    Ok(false) => {
                        idle = true;
                        break;
                    }
                    Err(error) => {
                        let wait = self.cx.backoff.map_failed(
                            map,
                            Step::ReadEdits,
                            &error,
                            "cannot read edits of",
                        );
                        next = next.min(wait);
                        break;
                    }
                }
                if let Some(left) = self.cx.backoff.left(of, Step::RecordEdits) {
                    next = next.min(left);
                    break;
                }
            }
            if idle {
                next = next.min(self.confined(of, Step::ReadEdits, |_| {
                    let ms = transaction(|client| pending_writes::next_ms(client, map.id))?;
                    // One that is due but was not claimed is on its way or held by somebody.
                    Ok(match ms {
                        Some(ms) if ms > 0 => Duration::from_millis(ms as u64 + 1),
                        Some(_) => LOCKED_RETRY,
                        None => IDLE,
                    })
                }));
            }
        }
        if !self.held_pending.is_empty() {
            next = next.min(LOCKED_RETRY);
        }
        next
    }

    /// Intents whose callers' transactions came to nothing become the reconciler's.
    fn adopt_orphans(&mut self) -> Result<Duration, StoreError> {
        if !transaction(|client| intents::intents_wait(client))? {
            return Ok(IDLE);
        }
        let sending = self.calls.in_flight_ids();
        let adopted = transaction(|client| {
            let adopted = pending_writes::adopt_orphans(client, sending)?;
            if adopted > 0 {
                failpoint::reach("adopt::before_commit");
            }
            Ok(adopted)
        })?;
        if adopted > 0 {
            failpoint::reach("adopt::after_commit");
            log!(
                "pg_crm makes {adopted} rows agree with the CRM, whose writers' transactions came to nothing"
            );
        }
        Ok(Duration::from_secs(1))
    }

    /// Claims a slice and sends it; `false` when nothing is due. One that cannot be read is asked for again in halves, as
    /// slices of the write-back are.
    fn dispatch_pending(
        &mut self,
        connection: &Arc<Connection>,
        map: &Arc<Map>,
        link: &SharedLink,
    ) -> Result<bool, StoreError> {
        let most = self.cx.settings.batch_rows.min(SLICE);
        let narrow = self.narrowed_edits.get(&map.id);
        let rows = narrow.map_or(most, |n| most.min(*n));
        let mut due = Vec::new();
        match self.claim_edits(connection, map, rows, &mut due) {
            Ok(taken) => {
                self.cx
                    .backoff
                    .succeeded(Owner::Map(map.id), Step::ReadEdits);
                let Some(taken) = taken else {
                    return Ok(false);
                };
                if let Some(narrow) = self.narrowed_edits.remove(&map.id)
                    && narrow < most
                {
                    self.narrowed_edits.insert(map.id, narrow * 2);
                }
                self.send_edits(connection, link, taken);
                Ok(true)
            }
            Err(error) if error.is_nobodys() || due.is_empty() => Err(error),
            Err(_) if due.len() > 1 => {
                self.narrowed_edits.insert(map.id, due.len() / 2);
                Ok(true)
            }
            Err(error) => {
                self.narrowed_edits.insert(map.id, 1);
                let Some(pending) = due.pop() else {
                    return Err(error);
                };
                let most = self.cx.settings.max_attempts;
                let record = blamed(map, pending, "{}".to_owned(), &error, most);
                self.settle_pending(map.clone(), connection.clone(), vec![record], None);
                if error.is_about_values() {
                    return Ok(true);
                }
                Err(error)
            }
        }
    }

    fn claim_edits(
        &self,
        connection: &Arc<Connection>,
        map: &Arc<Map>,
        rows: usize,
        at_hand: &mut Vec<Pending>,
    ) -> Result<Option<Taken>, StoreError> {
        let bounds = Bounds::of(&self.cx.settings);
        let held = self.held_pending.iter().filter(|(m, _, _)| m.id == map.id);
        let unsettled: Vec<(&str, &str)> = held
            .flat_map(|(_, _, judged)| judged.iter().map(|(record, _)| outcome::keys_of(record)))
            .collect();
        let taken = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            let Some(map) = config::maps(client)?
                .into_iter()
                .find(|m| m.id == map.id && !m.in_error)
            else {
                return Ok(None);
            };
            let due = pending_writes::due(client, &map, rows, &unsettled)?;
            if due.is_empty() {
                return Ok(None);
            }
            at_hand.extend(due.iter().cloned());
            report(&format!("reading {} edits of {}", due.len(), map.relation));
            let keys = due.iter().map(|p| p.record_key.as_str());
            failpoint::reach_with("reconcile_read::store", keys);
            let waiting = with_their_bases(client, &map, read(&map, due, &bounds)?)?;
            if waiting.is_empty() {
                return Ok(None);
            }
            let shard_keys = waiting
                .iter()
                .map(|w| w.pending.shard_key.as_str())
                .collect();
            let record_keys = waiting
                .iter()
                .map(|w| w.pending.record_key.as_str())
                .collect();
            let sent = waiting.iter().map(sending).collect();
            let claim_id = claims::claim(
                client,
                &map,
                "reconcile",
                shard_keys,
                record_keys,
                Some(sent),
            )?;
            let started = waiting
                .iter()
                .map(|w| event("sync_started", connection, &map, &w.pending, None))
                .collect();
            notify::notify(client, started)?;
            failpoint::reach("reconcile_claim::before_commit");
            Ok(Some(Taken {
                claim_id,
                waiting,
                map,
            }))
        })?;
        if taken.is_some() {
            failpoint::reach("reconcile_claim::after_commit");
        }
        Ok(taken)
    }

    fn send_edits(&mut self, connection: &Arc<Connection>, link: &SharedLink, taken: Taken) {
        let Taken {
            claim_id,
            waiting,
            map,
        } = taken;
        let edits: Vec<Edit> = waiting
            .iter()
            .filter(|w| w.fault.is_none())
            .map(|w| edit(&map, w))
            .collect();
        let flight = Reconciling {
            map: map.clone(),
            connection: connection.clone(),
            waiting,
        };
        self.reconciling.insert(claim_id, flight);
        failpoint::reach("request::before");
        let link = link.clone();
        let object = map.crm_object.clone();
        let context = RequestContext::of_map(Lane::Reconcile, map.id);
        tasks::spawn(
            &self.cx.runtime,
            &self.mailbox.wrap(Event::Reconciler),
            async move {
                let id = claim_id.to_string();
                let checked = checked_write::run_caught(&link, &context, id, &object, &edits).await;
                Message::Written {
                    claim_id,
                    checked: Ok(checked),
                    outage: link.take_outage(),
                }
            },
            move |failure| Message::Written {
                claim_id,
                checked: Err(failure),
                outage: None,
            },
        );
    }

    /// Settles what came back.
    pub fn on_edits_written(
        &mut self,
        claim_id: i64,
        checked: Result<Vec<Checked>, Failure>,
        outage: Option<Failure>,
    ) {
        let Some(flight) = self.reconciling.remove(&claim_id) else {
            return;
        };
        failpoint::reach("request::after");
        let Reconciling {
            map,
            connection,
            waiting,
        } = flight;
        report(&format!(
            "settling {} edits of {}",
            waiting.len(),
            map.relation
        ));
        // A task that panicked fails each edit that it had.
        let checked = checked.unwrap_or_else(|failure| {
            let sent = waiting.iter().filter(|w| w.fault.is_none());
            sent.map(|_| Checked::failed(failure.clone())).collect()
        });
        let mut answers = checked.into_iter();
        let mut failures = Vec::new();
        let judged: Vec<(Settled, Entry)> = waiting
            .into_iter()
            .map(|w| {
                let checked = match &w.fault {
                    None => answers.next(),
                    Some(_) => None,
                };
                if let Some(Checked {
                    outcome: Outcome::Failed(failure),
                    ..
                }) = &checked
                {
                    failures.push(failure.clone());
                }
                judge(&map, w, checked, self.cx.settings.max_attempts)
            })
            .collect();
        let trouble =
            outage.or_else(|| failures.into_iter().find(|f| f.scope == Scope::Connection));
        self.cx
            .connections
            .note_health(connection.id, connection.version, trouble.as_ref());
        self.settle_pending(map, connection, judged, Some(claim_id));
    }

    fn settle_pending(
        &mut self,
        map: Arc<Map>,
        connection: Arc<Connection>,
        judged: Vec<(Settled, Entry)>,
        claim_id: Option<i64>,
    ) {
        let of = Owner::Map(map.id);
        let error = match write_down(&connection, &map, &judged, claim_id) {
            Ok(held) => {
                failpoint::reach("reconcile_settle::after_commit");
                self.cx.backoff.succeeded(of, Step::RecordEdits);
                self.hold_pending(map, connection, keep_only(judged, &held));
                return;
            }
            Err(error) => error,
        };
        failpoint::reach("reconcile_settle::after_commit");
        if error.is_undefined() && !error.is_outdated() {
            return;
        }
        if !error.is_nobodys() {
            log!(
                "pg_crm settles edits of {} one by one: {error}",
                map.relation
            );
        }
        if let Some(claim_id) = claim_id
            && let Err(e) = transaction(|client| claims::release(client, claim_id))
        {
            log!("pg_crm could not release a claim: {e}");
            self.cx.release_lost_claims_soon();
        }
        // They come again, by the mapping as it is now.
        if error.is_outdated() {
            return;
        }
        // As they are; as the failures that they caused; and without anything that may be the trouble.
        let mut rest = judged;
        for rung in 0..3 {
            let mut held = Vec::new();
            let undone = bisect(rest, StoreError::is_nobodys, |part| {
                let indexes = write_down(&connection, &map, part, None)?;
                held.extend(keep_only(std::mem::take(part), &indexes));
                Ok(())
            });
            self.hold_pending(map.clone(), connection.clone(), held);
            if undone.is_empty() {
                self.cx.backoff.succeeded(of, Step::RecordEdits);
                return;
            }
            rest = Vec::with_capacity(undone.len());
            for Undone { items, error } in undone {
                if error.is_undefined() {
                    continue;
                }
                if error.is_nobodys() {
                    self.hold_pending(map.clone(), connection.clone(), items);
                    let what = "cannot write down edits of";
                    self.cx
                        .backoff
                        .map_failed(&map, Step::RecordEdits, &error, what);
                    continue;
                }
                for (record, entry) in items {
                    log!(
                        "pg_crm cannot write down what became of an edit of record {} of {}: {error}",
                        record.pending.record_key,
                        map.relation
                    );
                    rest.push(match rung {
                        0 => {
                            let most = self.cx.settings.max_attempts;
                            let (blamed, mut said) =
                                blamed(&map, record.pending, record.sent, &error, most);
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
        for judged in rest {
            let attempt = judged.0.pending.attempts + 1;
            let wait = Backoff::RECORD.bound(attempt) / 2 + Duration::from_secs(1);
            let result = transaction(|client| {
                let error = "what became of it cannot be written down";
                settle::postpone(client, &map, &judged.0, wait.as_millis() as i64, error)
            });
            if let Err(error) = result {
                self.hold_pending(map.clone(), connection.clone(), vec![judged]);
                let what = "cannot write down edits of";
                self.cx
                    .backoff
                    .map_failed(&map, Step::RecordEdits, &error, what);
            }
        }
    }

    fn hold_pending(
        &mut self,
        map: Arc<Map>,
        connection: Arc<Connection>,
        judged: Vec<(Settled, Entry)>,
    ) {
        if !judged.is_empty() {
            self.held_pending.push((map, connection, judged));
        }
    }

    pub fn settle_held_pending(&mut self) {
        for (map, connection, judged) in std::mem::take(&mut self.held_pending) {
            let of = Owner::Map(map.id);
            if self.cx.backoff.left(of, Step::RecordEdits).is_some() {
                self.held_pending.push((map, connection, judged));
            } else {
                self.settle_pending(map, connection, judged, None);
            }
        }
    }
}

/// Writes results down in one transaction. The answer names those that wait for what somebody holds.
fn write_down(
    connection: &Connection,
    map: &Map,
    judged: &[(Settled, Entry)],
    claim_id: Option<i64>,
) -> Result<Vec<usize>, StoreError> {
    let by_key: HashMap<(&str, &str), usize> = judged
        .iter()
        .enumerate()
        .map(|(n, (r, _))| (outcome::keys_of(r), n))
        .collect();
    let place = |r: &Settled| by_key[&outcome::keys_of(r)];
    transaction(|client| {
        let keys = judged.iter().map(|(r, _)| r.pending.record_key.as_str());
        failpoint::reach_with("reconcile_settle::store", keys);
        // What is settled takes part of the results with it, and this may come to nothing.
        let records = judged.iter().map(|(record, _)| record.clone()).collect();
        let (now, later) = settle::settle(client, map, records)?;
        for record in &now {
            let (_, entry) = &judged[place(record)];
            entry.write(client, connection, map, record)?;
        }
        let events = now
            .iter()
            .map(|r| {
                let (name, error) = told(r);
                event(name, connection, map, &r.pending, error)
            })
            .collect();
        notify::notify(client, events)?;
        if let Some(claim_id) = claim_id {
            claims::release(client, claim_id)?;
        }
        failpoint::reach("reconcile_settle::before_commit");
        Ok(later.iter().map(place).collect())
    })
}

fn keep_only(judged: Vec<(Settled, Entry)>, indexes: &[usize]) -> Vec<(Settled, Entry)> {
    let judged = judged.into_iter().enumerate();
    judged
        .filter(|(n, _)| indexes.contains(n))
        .map(|(_, one)| one)
        .collect()
}
