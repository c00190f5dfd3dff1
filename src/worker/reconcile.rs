//! The reconciler: edits that wait are read, compared, written or settled by their fields' policies, in bulk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::Failure;
use crm_domain::failure::Scope;
use pgrx::prelude::*;

use super::checked_write::{self, Checked, Edit, Outcome};
use super::event::Event;
use super::judgement::{event, judge, told};
use super::link::{Errand, Lane, SharedLink};
use super::links::Readiness;
use super::main_loop::{HELD_AGAIN, Worker};
use super::reconcile_audit::Entry;
use super::waiting::{Waiting, edit, read, sending, with_their_bases};
use super::{failpoint, real_time, report, rota};
use crate::store::config::{self, Connection, Map};
use crate::store::reconcile::{self, Settled};
use crate::store::{StoreError, claims, pending, transaction};

/// Pending writes of one slice at most.
const SLICE: usize = 1000;

/// Pending writes on their way.
pub(super) struct Reconciling {
    pub map: Arc<Map>,
    pub connection: Connection,
    pub waiting: Vec<Waiting>,
}

impl Worker {
    /// Sends what is due of the pending writes; returns when something will be due next.
    pub(super) fn reconcile(
        &mut self,
        connections: &[Connection],
        maps: &[Arc<Map>],
    ) -> Result<Duration, StoreError> {
        let mut next = Duration::from_secs(3600);
        if self.folded == 0 {
            next = next.min(self.adopt_orphans()?);
        }
        for map in self.rota.order(maps).into_iter().filter(|m| m.realtime) {
            let (connection, link) = match self.readiness(map, connections) {
                Readiness::Ready(connection, link) => (connection, link),
                Readiness::Blocked(wait) => {
                    next = next.min(wait);
                    continue;
                }
                Readiness::Stopped => continue,
            };
            let mut idle = false;
            while !idle && rota::may_go(map, self.reconciling.values().map(|r| &r.map)) {
                idle = !self.dispatch_pending(connection, map, &link)?;
                if !idle {
                    self.rota.served(map);
                }
            }
            if idle && let Some(ms) = transaction(|client| pending::next_ms(client, map.id))? {
                // One that is due but was not claimed is on its way or held by somebody.
                let wait = if ms > 0 {
                    Duration::from_millis(ms as u64 + 1)
                } else {
                    HELD_AGAIN
                };
                next = next.min(wait);
            }
        }
        if !self.held_pending.is_empty() {
            next = next.min(HELD_AGAIN);
        }
        Ok(next)
    }

    /// Intents whose callers' transactions came to nothing become the reconciler's.
    fn adopt_orphans(&mut self) -> Result<Duration, StoreError> {
        if !transaction(|client| pending::intents_wait(client))? {
            return Ok(Duration::from_secs(3600));
        }
        let sending: Vec<&str> = self.real_time.sending.keys().map(String::as_str).collect();
        let adopted = transaction(|client| {
            let adopted = pending::adopt_orphans(client, sending)?;
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

    /// Claims a slice and sends it; `false` when nothing is due.
    fn dispatch_pending(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        link: &SharedLink,
    ) -> Result<bool, StoreError> {
        let rows = self.settings.batch_rows.min(SLICE);
        let bytes = self.settings.batch_bytes;
        let limit = Some(self.settings.transform_timeout);
        let held = self.held_pending.iter().filter(|(m, _, _)| m.id == map.id);
        let unsettled: Vec<(&str, &str)> = held
            .flat_map(|(_, _, judged)| judged.iter().map(|(record, _)| reconcile::keys_of(record)))
            .collect();
        let claimed = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            let Some(map) = config::maps(client)?
                .into_iter()
                .find(|m| m.id == map.id && !m.in_error)
            else {
                return Ok(None);
            };
            let due = pending::due(client, &map, rows, &unsettled)?;
            if due.is_empty() {
                return Ok(None);
            }
            report(&format!("reading {} edits of {}", due.len(), map.relation));
            let waiting = with_their_bases(client, &map, read(&map, due, bytes, limit)?)?;
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
            pending::notify(client, started)?;
            failpoint::reach("reconcile_claim::before_commit");
            Ok(Some((claim_id, waiting, map)))
        })?;
        let Some((claim_id, waiting, map)) = claimed else {
            return Ok(false);
        };
        failpoint::reach("reconcile_claim::after_commit");
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
        let (link, outbox) = (link.clone(), self.outbox.clone());
        let object = map.crm_object.clone();
        let errand = Errand::of_map(Lane::Reconcile, map.id);
        self.runtime.spawn(async move {
            let id = claim_id.to_string();
            let checked = checked_write::run(&link, &errand, &id, &object, &edits, None).await;
            let checked = checked.unwrap_or_default();
            let trouble = link.take_trouble();
            outbox.send(Event::Reconciled {
                claim_id,
                checked,
                trouble,
            });
        });
        Ok(true)
    }

    /// Settles what came back.
    pub(super) fn reconciled(
        &mut self,
        claim_id: i64,
        checked: Vec<Checked>,
        trouble: Option<Failure>,
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
                judge(&map, w, checked, self.settings.max_attempts)
            })
            .collect();
        let trouble =
            trouble.or_else(|| failures.into_iter().find(|f| f.scope == Scope::Connection));
        if let Some(known) = self.connections.iter_mut().find(|c| c.id == connection.id) {
            real_time::note_health(known, trouble.as_ref());
        }
        self.settle_pending(map, connection, judged, Some(claim_id));
    }

    fn settle_pending(
        &mut self,
        map: Arc<Map>,
        connection: Connection,
        judged: Vec<(Settled, Entry)>,
        claim_id: Option<i64>,
    ) {
        let (records, mut entries): (Vec<Settled>, Vec<Entry>) = judged.into_iter().unzip();
        let by_key: HashMap<(String, String), usize> = records
            .iter()
            .enumerate()
            .map(|(n, r)| {
                (
                    (r.pending.shard_key.clone(), r.pending.record_key.clone()),
                    n,
                )
            })
            .collect();
        let place =
            |r: &Settled| by_key[&(r.pending.shard_key.clone(), r.pending.record_key.clone())];
        let result = transaction(|client| {
            let (now, later) = reconcile::settle(client, &map, records)?;
            for record in &now {
                let entry = &entries[place(record)];
                entry.write(client, &connection, &map, record)?;
            }
            let events = now
                .iter()
                .map(|r| {
                    let (name, error) = told(r);
                    event(name, &connection, &map, &r.pending, error)
                })
                .collect();
            pending::notify(client, events)?;
            if let Some(claim_id) = claim_id {
                claims::release(client, claim_id)?;
            }
            failpoint::reach("reconcile_settle::before_commit");
            Ok(later)
        });
        failpoint::reach("reconcile_settle::after_commit");
        match result {
            Ok(later) if later.is_empty() => {}
            Ok(later) => {
                let places: Vec<usize> = later.iter().map(place).collect();
                let later = later
                    .into_iter()
                    .zip(places)
                    .map(|(record, n)| (record, std::mem::take(&mut entries[n])))
                    .collect();
                self.held_pending.push((map, connection, later));
            }
            Err(error) if error.is_undefined() => {}
            Err(error) => {
                // Nothing is lost: what the CRM took is found by the next read.
                log!("pg_crm could not settle edits of {}: {error}", map.relation);
                if let Some(claim_id) = claim_id
                    && let Err(e) = transaction(|client| claims::release(client, claim_id))
                {
                    log!("pg_crm could not release a claim: {e}");
                }
            }
        }
    }

    pub(super) fn settle_held_pending(&mut self) {
        for (map, connection, judged) in std::mem::take(&mut self.held_pending) {
            self.settle_pending(map, connection, judged, None);
        }
    }
}
