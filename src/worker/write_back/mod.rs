//! The write-back: rounds open, changes are folded, and slices of what is due are claimed, read and sent.

pub mod read;
pub mod settle;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::Failure;
use pgrx::prelude::*;

use self::read::{Slice, read_slice};
use self::settle::{InFlight, settled_record};
use crate::failpoint;
use crate::store::config::{self, Connection, Map};
use crate::store::table::read::READ_TIME;
use crate::store::write_back::claims::Claimed;
use crate::store::write_back::outcome::Verdict;
use crate::store::write_back::{claims, fold};
use crate::store::{StoreError, map_state, transaction};
use crate::worker::connections::readiness::Readiness;
use crate::worker::link::{Lane, RequestContext, SharedLink};
use crate::worker::main_loop::Worker;
use crate::worker::main_loop::event::Event;
use crate::worker::process::report;
use crate::worker::schedule;
use crate::worker::schedule::{IDLE, LOCKED_RETRY};
use crate::worker::sender::batches::{self, Destination, Sent};
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::tasks;
use crm_domain::Path;

/// What the threads report.
pub enum Message {
    /// The CRM's results for a claimed slice; an error: its task panicked.
    Sent {
        claim_id: i64,
        sent: Result<Vec<Sent>, Failure>,
        outage: Option<Failure>,
    },
}

/// A slice that was claimed and read.
struct Taken {
    claim_id: i64,
    slice: Slice,
    map: Arc<Map>,
}

/// How often a change that cannot be folded is tried again, unless its values are at fault.
const FOLD_ATTEMPTS: u32 = 3;

/// A slice on its way to a CRM.
pub struct Flight {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    pub records: Vec<InFlight>,
}

impl Worker {
    /// Folds and sends; returns when something will be due next.
    pub fn write_back(&mut self, maps: &[Arc<Map>]) -> Duration {
        let mut next = self
            .cx
            .maintenance_at
            .saturating_duration_since(Instant::now());
        self.rounds.retain(|id| maps.iter().any(|m| m.id == *id));
        if std::mem::take(&mut self.urgent) {
            let realtime = maps.iter().filter(|m| m.realtime);
            self.due_at_once.extend(realtime.map(|m| m.id));
        }
        self.due_at_once
            .retain(|id| maps.iter().any(|m| m.id == *id));
        for map in maps {
            let due = map.next_write_ms <= 0
                || self.due_at_once.contains(&map.id)
                || self.flushes.iter().any(|f| f.covers(map.id));
            if due && !self.cx.connections.is_stopped(map) && !self.rounds.contains(&map.id) {
                next = next.min(self.confined(Owner::Map(map.id), Step::Round, |worker| {
                    transaction(|client| map_state::begin(client, map.id))?;
                    worker.due_at_once.remove(&map.id);
                    worker.rounds.insert(map.id);
                    Ok(IDLE)
                }));
            } else if due && !self.cx.connections.is_stopped(map) {
                self.due_at_once.remove(&map.id);
            }
        }
        self.folded = 0;
        if !self.rounds.is_empty() {
            next = next.min(self.confined(Owner::Worker, Step::Fold, Worker::fold));
        }
        let folded = self.folded;
        self.cx.schedule.keep(maps);
        for map in self.cx.schedule.order(maps) {
            let (connection, link) = match self.readiness(map) {
                Readiness::Ready(connection, link) => (connection, link),
                Readiness::Blocked(wait) => {
                    next = next.min(wait);
                    continue;
                }
                Readiness::Stopped => {
                    if self.rounds.remove(&map.id) && map.realtime {
                        self.due_at_once.insert(map.id);
                    }
                    continue;
                }
            };
            let of = Owner::Map(map.id);
            let rests = [Step::Read, Step::Settle].map(|step| self.cx.backoff.left(of, step));
            if let Some(left) = rests.into_iter().flatten().max() {
                next = next.min(left);
                continue;
            }
            let whole = self.rounds.contains(&map.id);
            let mut idle = false;
            while schedule::may_go(map, self.flights.values().map(|f| &f.map)) {
                let start = Instant::now();
                match self.dispatch(&connection, map, &link, whole) {
                    Ok(true) => {
                        self.cx.schedule.served(map);
                        // Its transforms are slow: the others have their turn before the rest of it.
                        if start.elapsed() >= READ_TIME {
                            next = Duration::ZERO;
                            break;
                        }
                    }
                    Ok(false) => {
                        idle = true;
                        break;
                    }
                    Err(error) => {
                        next = next.min(self.cx.backoff.map_failed(
                            map,
                            Step::Read,
                            &error,
                            "cannot read",
                        ));
                        break;
                    }
                }
                // What was read may be what cannot be written down.
                if let Some(left) = self.cx.backoff.left(of, Step::Settle) {
                    next = next.min(left);
                    break;
                }
            }
            if whole && idle && folded == 0 && !self.flights.values().any(|f| f.map.id == map.id) {
                // What somebody holds keeps the round open for those who wait for it.
                if !self.flushes.iter().any(|f| f.covers(map.id)) {
                    next = next.min(self.confined(of, Step::Round, |worker| {
                        transaction(|client| map_state::end(client, map.id))?;
                        worker.rounds.remove(&map.id);
                        Ok(Duration::ZERO)
                    }));
                }
            } else if !whole && map.next_write_ms > 0 {
                next = next.min(Duration::from_millis(map.next_write_ms as u64 + 1));
            }
            if idle {
                next = next.min(self.confined(of, Step::Round, |_| {
                    let ms = transaction(|client| claims::next_retry_ms(client, map.id))?;
                    // One that is due but was not claimed is in flight or held by somebody.
                    Ok(match ms {
                        Some(ms) if ms > 0 => Duration::from_millis(ms as u64 + 1),
                        Some(_) => LOCKED_RETRY,
                        None => IDLE,
                    })
                }));
            }
        }
        if folded > 0 {
            next = Duration::ZERO;
        }
        if !self.flushes.is_empty() || !self.held.is_empty() {
            next = next.min(LOCKED_RETRY);
        }
        next
    }

    /// Folds a slice. One that cannot be folded is tried again with half as many changes, until the row that causes it is
    /// alone and is put aside: it holds up neither other records nor other maps.
    fn fold(&mut self) -> Result<Duration, StoreError> {
        report("folding changes into the ledger");
        let most = self.cx.settings.batch_rows;
        let rows = self.narrowed_fold.map_or(most, |n| most.min(n));
        let (wary, mut at) = (&mut self.wary, None);
        let folded = transaction(|client| {
            failpoint::reach("fold::store");
            let folded = fold::fold(client, rows, wary, &mut at)?;
            failpoint::reach("fold::before_commit");
            Ok(folded)
        });
        match folded {
            Ok(folded) => {
                failpoint::reach("fold::after_commit");
                self.folded = folded;
                self.narrowed_fold = self.narrowed_fold.map(|n| n * 2).filter(|n| *n < most);
                Ok(IDLE)
            }
            Err(error) if error.blames_no_row() => Err(error),
            Err(_) if rows > 1 => {
                self.narrowed_fold = Some(rows / 2);
                Ok(Duration::ZERO)
            }
            Err(error) => {
                let failures = self.cx.backoff.failures(Owner::Worker, Step::Fold);
                match at {
                    Some(at) if error.is_about_values() || failures >= FOLD_ATTEMPTS => {
                        log!("pg_crm puts changes aside that cannot be folded: {error}");
                        let why = error.message();
                        transaction(|client| fold::put_aside(client, &at, &why))?;
                        Ok(Duration::ZERO)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Claims a slice and sends it; `false` when nothing is due.
    ///
    /// A slice that cannot be read is asked for again with half as many records, until the one that causes it is alone and
    /// is charged with a failed attempt.
    fn dispatch(
        &mut self,
        connection: &Arc<Connection>,
        map: &Arc<Map>,
        link: &SharedLink,
        whole: bool,
    ) -> Result<bool, StoreError> {
        let most = self.cx.settings.batch_rows;
        let rows = self.narrowed.get(&map.id).map_or(most, |n| most.min(*n));
        let mut due = Vec::new();
        match self.claim(connection, map, rows, whole, &mut due) {
            Ok(None) => {
                self.cx.backoff.succeeded(Owner::Map(map.id), Step::Read);
                Ok(false)
            }
            Ok(Some(taken)) => {
                self.cx.backoff.succeeded(Owner::Map(map.id), Step::Read);
                if let Some(narrow) = self.narrowed.remove(&map.id)
                    && narrow < most
                {
                    self.narrowed.insert(map.id, narrow * 2);
                }
                self.send(connection, link, taken);
                Ok(true)
            }
            Err(error) if error.blames_no_row() || due.is_empty() => Err(error),
            Err(error) if due.len() > 1 => {
                self.narrowed.insert(map.id, due.len() / 2);
                let others = format!("{} records of {}", due.len(), map.relation);
                debug1!("pg_crm reads fewer than {others} at once: {error}");
                Ok(true)
            }
            Err(error) => {
                self.narrowed.insert(map.id, 1);
                let Some(claimed) = due.pop() else {
                    return Err(error);
                };
                let moot = Verdict::Moot;
                let mut record =
                    settled_record(InFlight::new(claimed, &[]), None, moot, false, None);
                record.verdict = self.blamed(map, &record, &error);
                self.settle_parts(map.clone(), connection.clone(), vec![record]);
                if error.is_about_values() {
                    return Ok(true);
                }
                Err(error)
            }
        }
    }

    /// Claims and reads a slice in one transaction. `due`: the records that are at hand should it fail.
    fn claim(
        &self,
        connection: &Arc<Connection>,
        map: &Arc<Map>,
        rows: usize,
        whole: bool,
        at_hand: &mut Vec<Claimed>,
    ) -> Result<Option<Taken>, StoreError> {
        let settings = &self.cx.settings;
        let held = self.held.iter().filter(|(m, _, _)| m.id == map.id);
        let unsettled: Vec<(&str, &str)> = held
            .flat_map(|(_, _, settled)| settled)
            .map(|s| (s.shard_key.as_str(), s.record_key.as_str()))
            .collect();
        let taken = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            config::lock_definition(client, map.id)?;
            // The mapping as it is now: what was folded may speak of fields that were mapped since this turn began.
            let Some(map) = config::maps(client)?
                .into_iter()
                .find(|m| m.id == map.id && !m.in_error)
            else {
                return Ok(None);
            };
            let due = claims::due(client, &map, rows, whole, &unsettled)?;
            if due.is_empty() {
                return Ok(None);
            }
            at_hand.extend(due.iter().cloned());
            report(&format!(
                "reading {} records of {}",
                due.len(),
                map.relation
            ));
            failpoint::reach_with("read::store", due.iter().map(|d| d.record_key.as_str()));
            let slice = read_slice(&map, due, &unsettled, settings)?;
            let mut claim_id = 0;
            if !slice.records.is_empty() {
                let records = || slice.records.iter().map(InFlight::claimed);
                let shard_keys = records().map(|r| r.shard_key.as_str()).collect();
                let record_keys = records().map(|r| r.record_key.as_str()).collect();
                failpoint::reach_with("claim::store", records().map(|r| r.record_key.as_str()));
                claim_id = claims::claim(client, &map, Path::Batch, shard_keys, record_keys, None)?;
            }
            map_state::took_up(client, map.id, slice.records.len() + slice.settled.len())?;
            failpoint::reach("claim::before_commit");
            Ok(Some(Taken {
                claim_id,
                slice,
                map,
            }))
        })?;
        if taken.is_some() {
            failpoint::reach("claim::after_commit");
        }
        Ok(taken)
    }

    /// Sends a slice that is claimed, and writes down what needs no sending or cannot be sent.
    fn send(&mut self, connection: &Arc<Connection>, link: &SharedLink, taken: Taken) {
        let Taken {
            claim_id,
            slice,
            map,
        } = taken;
        let Slice {
            records,
            outgoing,
            settled,
        } = slice;
        if !settled.is_empty() {
            self.settle_parts(map.clone(), connection.clone(), settled);
        }
        if records.is_empty() {
            return;
        }
        let destination = Destination {
            request_id: claim_id.to_string(),
            object: map.crm_object.clone(),
            external_id_field: map.external_id_field.clone(),
            context: RequestContext::of_map(Lane::Batch, map.id),
            at_once: usize::MAX,
        };
        self.flights.insert(
            claim_id,
            Flight {
                map: map.clone(),
                connection: connection.clone(),
                records,
            },
        );
        failpoint::reach("send::before");
        let link = link.clone();
        tasks::spawn(
            &self.cx.runtime,
            &self.mailbox.wrap(Event::WriteBack),
            async move {
                failpoint::reach_on_thread("send::task");
                let sent = batches::send(&link, &destination, outgoing).await;
                Message::Sent {
                    claim_id,
                    sent: Ok(sent),
                    outage: link.take_outage(),
                }
            },
            move |failure| Message::Sent {
                claim_id,
                sent: Err(failure),
                outage: None,
            },
        );
    }

    pub fn answer_flushes(&mut self, maps: &[Arc<Map>]) {
        for flush in std::mem::take(&mut self.flushes) {
            let covered: Vec<&Arc<Map>> = maps.iter().filter(|m| flush.covers(m.id)).collect();
            let working: Vec<i32> = covered
                .iter()
                .filter(|m| !self.cx.connections.is_stopped(m))
                .map(|m| m.id)
                .collect();
            let all_work = working.len() == covered.len();
            // What is on its way is outstanding; asking the tables as well would cost a scan each turn. What is on its way
            // for a map that is gone or stands still is nobody's work any more.
            let flying = self.flights.values().any(|f| working.contains(&f.map.id))
                || self.reconciler.works_on(&working);
            let mut outstanding =
                flying || !self.held.is_empty() || self.reconciler.has_unrecorded();
            if !outstanding {
                outstanding = true;
                self.confined(Owner::Worker, Step::Flushes, |_| {
                    outstanding = transaction(|client| claims::outstanding(client, &working))?;
                    Ok(IDLE)
                });
            }
            if outstanding {
                if flush.is_over() {
                    flush.answer(false)
                } else {
                    self.flushes.push(flush)
                }
            } else {
                flush.answer(all_work);
            }
        }
    }
}
