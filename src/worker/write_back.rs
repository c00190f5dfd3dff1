//! The write-back: rounds open, changes are folded, and slices of what is due are claimed, read and sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::Event;
use super::flush::stands_still;
use super::intake::{Slice, read_slice};
use super::link::{Errand, Lane, SharedLink};
use super::links::Readiness;
use super::main_loop::{HELD_AGAIN, Worker};
use super::settlement::InFlight;
use super::slice::{self, Destination};
use super::{failpoint, report, rota};
use crate::store::config::{self, Connection, Map};
use crate::store::settle::Verdict;
use crate::store::{StoreError, claims, fold, pending, rounds, settle, transaction, values};

/// How long a map rests whose table could not be read (somebody holds it, for example).
const REST: Duration = Duration::from_secs(2);

/// A slice on its way to a CRM.
pub(super) struct Flight {
    pub map: Arc<Map>,
    pub connection: Connection,
    pub records: Vec<InFlight>,
}

impl Worker {
    /// Folds and sends; returns when something will be due next.
    pub(super) fn write_back(
        &mut self,
        connections: &[Connection],
        maps: &[Arc<Map>],
    ) -> Result<Duration, StoreError> {
        let mut next = self
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
            if due && !stands_still(map, connections) {
                self.due_at_once.remove(&map.id);
                if self.rounds.insert(map.id) {
                    transaction(|client| rounds::begin(client, map.id))?;
                }
            }
        }
        let mut folded = 0;
        if !self.rounds.is_empty() {
            report("folding changes into the ledger");
            let rows = self.settings.batch_rows;
            let wary = &mut self.wary;
            folded = transaction(|client| {
                let folded = fold::fold(client, rows, wary)?;
                failpoint::reach("fold::before_commit");
                Ok(folded)
            })?;
            failpoint::reach("fold::after_commit");
        }
        self.folded = folded;
        self.rota.keep(maps);
        for map in self.rota.order(maps) {
            let (connection, link) = match self.readiness(map, connections) {
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
            let whole = self.rounds.contains(&map.id);
            if let Some(until) = self.resting.get(&map.id) {
                if let Some(left) = until.checked_duration_since(Instant::now()) {
                    next = next.min(left);
                    continue;
                }
                self.resting.remove(&map.id);
            }
            let mut idle = false;
            while rota::may_go(map, self.flights.values().map(|f| &f.map)) {
                let start = Instant::now();
                match self.dispatch(connection, map, &link, whole) {
                    Ok(true) => {
                        self.rota.served(map);
                        // Its transforms are slow: the others have their turn before the rest of it.
                        if start.elapsed() >= values::READ_TIME {
                            next = Duration::ZERO;
                            break;
                        }
                    }
                    Ok(false) => {
                        idle = true;
                        break;
                    }
                    Err(error) => {
                        self.rest(map, &error, &mut next)?;
                        break;
                    }
                }
            }
            if whole && idle && folded == 0 && !self.flights.values().any(|f| f.map.id == map.id) {
                // What somebody holds keeps the round open for those who wait for it.
                if !self.flushes.iter().any(|f| f.covers(map.id)) {
                    transaction(|client| rounds::end(client, map.id))?;
                    self.rounds.remove(&map.id);
                    next = Duration::ZERO;
                }
            } else if !whole && map.next_write_ms > 0 {
                next = next.min(Duration::from_millis(map.next_write_ms as u64 + 1));
            }
            if idle && let Some(ms) = transaction(|client| claims::next_retry_ms(client, map.id))? {
                // One that is due but was not claimed is in flight or held by somebody.
                let wait = if ms > 0 {
                    Duration::from_millis(ms as u64 + 1)
                } else {
                    HELD_AGAIN
                };
                next = next.min(wait);
            }
        }
        if folded > 0 {
            next = Duration::ZERO;
        }
        if !self.flushes.is_empty() || !self.held.is_empty() {
            next = next.min(HELD_AGAIN);
        }
        Ok(next)
    }

    /// Lets a map rest whose slice could not be read, and says why in its status.
    fn rest(
        &mut self,
        map: &Map,
        error: &StoreError,
        next: &mut Duration,
    ) -> Result<(), StoreError> {
        self.resting.insert(map.id, Instant::now() + REST);
        *next = REST.min(*next);
        if !error.is_transient() {
            pgrx::log!("pg_crm cannot read {}: {error}", map.relation);
        }
        let reason = format!("cannot read {}: {}", map.relation, error.message());
        transaction(|client| rounds::did(client, map.id, 0, false, Some(&reason)))
    }

    /// Claims a slice and sends it; `false` when nothing is due.
    fn dispatch(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        link: &SharedLink,
        whole: bool,
    ) -> Result<bool, StoreError> {
        let settings = &self.settings;
        let claimed = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            config::hold(client, map.id)?;
            // The mapping as it is now: what was folded may speak of fields that were mapped since this turn began.
            let Some(map) = config::maps(client)?
                .into_iter()
                .find(|m| m.id == map.id && !m.in_error)
            else {
                return Ok(None);
            };
            let due = claims::due(client, &map, settings.batch_rows, whole)?;
            if due.is_empty() {
                return Ok(None);
            }
            report(&format!(
                "reading {} records of {}",
                due.len(),
                map.relation
            ));
            let Slice {
                records,
                outgoing,
                settled,
            } = read_slice(&map, due, settings)?;
            let claim_id = if records.is_empty() {
                0
            } else {
                let shard_keys = records
                    .iter()
                    .map(|r| r.claimed().shard_key.as_str())
                    .collect();
                let record_keys = records
                    .iter()
                    .map(|r| r.claimed().record_key.as_str())
                    .collect();
                claims::claim(client, &map, "batch", shard_keys, record_keys, None)?
            };
            rounds::took_up(client, map.id, records.len() + settled.len())?;
            if !settled.is_empty() {
                settle::settle(
                    client,
                    connection,
                    &map,
                    &settled.iter().collect::<Vec<_>>(),
                )?;
                let never_made: Vec<(&str, &str)> = settled
                    .iter()
                    .filter(|s| s.verdict == Verdict::Moot && s.crm_id.is_none())
                    .map(|s| (s.shard_key.as_str(), s.record_key.as_str()))
                    .collect();
                pending::end_with_rows(client, connection, &map, &never_made)?;
                let dead = settled.iter().find_map(|s| match &s.verdict {
                    Verdict::Dead { error, .. } => Some(error.as_str()),
                    _ => None,
                });
                rounds::did(client, map.id, settled.len(), false, dead)?;
            }
            failpoint::reach("claim::before_commit");
            Ok(Some((claim_id, records, outgoing, map)))
        })?;
        let Some((claim_id, records, outgoing, map)) = claimed else {
            return Ok(false);
        };
        failpoint::reach("claim::after_commit");
        if records.is_empty() {
            return Ok(true);
        }
        let destination = Destination {
            request_id: claim_id.to_string(),
            object: map.crm_object.clone(),
            external_id_field: map.external_id_field.clone(),
            errand: Errand::of_map(Lane::Batch, map.id),
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
        let (link, outbox) = (link.clone(), self.outbox.clone());
        self.runtime.spawn(async move {
            let sent = slice::send(&link, &destination, outgoing).await;
            let trouble = link.take_trouble();
            outbox.send(Event::Done {
                claim_id,
                sent,
                trouble,
            });
        });
        Ok(true)
    }

    pub(super) fn answer_flushes(
        &mut self,
        connections: &[Connection],
        maps: &[Arc<Map>],
    ) -> Result<(), StoreError> {
        for flush in std::mem::take(&mut self.flushes) {
            let covered: Vec<&Arc<Map>> = maps.iter().filter(|m| flush.covers(m.id)).collect();
            let working: Vec<i32> = covered
                .iter()
                .filter(|m| !stands_still(m, connections))
                .map(|m| m.id)
                .collect();
            let all_work = working.len() == covered.len();
            // What is on its way is outstanding; asking the tables as well would cost a scan each turn. What is on its way
            // for a map that is gone or stands still is nobody's work any more.
            let flying = self.flights.values().any(|f| working.contains(&f.map.id))
                || self
                    .reconciling
                    .values()
                    .any(|r| working.contains(&r.map.id));
            if flying
                || !self.held.is_empty()
                || !self.held_pending.is_empty()
                || transaction(|client| claims::outstanding(client, &working))?
            {
                if flush.is_over() {
                    flush.answer(false)
                } else {
                    self.flushes.push(flush)
                }
            } else {
                flush.answer(all_work);
            }
        }
        Ok(())
    }
}
