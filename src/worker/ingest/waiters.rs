//! Backends that wait in `crm.ingest_now()` and `crm.backfill()`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::Looks;
use crate::store::config::Map;
use crate::store::ingest::state;
use crate::store::{StoreError, transaction};
use crate::worker::main_loop::Worker;
use crate::worker::schedule::IDLE;
use crate::worker::socket::protocol::Wait;
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::waiters::Waiter;

/// A backend that waits until a look at the CRM's changes, begun after it asked, has come to its end.
pub struct IngestWaiter {
    waiter: Waiter,
    backfills: bool,
    /// The passes that are waited for, by map; `None`: just asked.
    passes: Option<HashMap<i32, u64>>,
}

impl IngestWaiter {
    pub fn new(request: Wait, reply: oneshot::Sender<Json>, backfills: bool) -> Self {
        IngestWaiter {
            waiter: Waiter::new(request, reply),
            backfills,
            passes: None,
        }
    }

    /// Whether a look at the map's changes is to begin for it.
    pub fn wants(&self, map_id: i32, looks: &Looks) -> bool {
        let pass = self.passes.as_ref().and_then(|p| p.get(&map_id));
        pass.is_some_and(|pass| !looks.has_ended(*pass))
    }

    pub fn is_over(&self) -> bool {
        self.waiter.is_over()
    }

    pub fn time_left(&self) -> Duration {
        self.waiter.time_left()
    }

    pub fn answer(self, done: bool) {
        self.waiter.answer(json!({ "done": done }));
    }
}

impl Worker {
    /// Takes up those who have just asked.
    pub fn begin_ingests(&mut self, maps: &[Arc<Map>]) -> Duration {
        self.confined(Owner::Worker, Step::Ingests, |worker| {
            worker.try_begin_ingests(maps).map(|()| IDLE)
        })
    }

    fn try_begin_ingests(&mut self, maps: &[Arc<Map>]) -> Result<(), StoreError> {
        let fresh = |w: &&mut IngestWaiter| w.passes.is_none();
        for waiter in self.ingest_waiters.iter_mut().filter(fresh) {
            let mut passes = HashMap::new();
            for map in maps.iter().filter(|m| waiter.waiter.covers(m.id)) {
                if map.fields.is_empty() {
                    continue;
                }
                passes.insert(map.id, self.looks.entry(map.id).or_default().next_pass());
                if waiter.backfills {
                    transaction(|client| state::begin_backfill(client, map.id))?;
                }
            }
            waiter.passes = Some(passes);
        }
        Ok(())
    }

    /// Answers those whose looks have come to their end, or stand still; the others' time is the answer.
    pub fn answer_ingests(&mut self, maps: &[Arc<Map>]) -> Result<Option<Duration>, StoreError> {
        if self.ingest_waiters.is_empty() {
            return Ok(None);
        }
        let states = transaction(state::all)?;
        let mut failed = None;
        for waiter in std::mem::take(&mut self.ingest_waiters) {
            let covered = || maps.iter().filter(|m| waiter.waiter.covers(m.id));
            let works = |m: &&Arc<Map>| !self.cx.connections.is_stopped(m);
            let all_work = covered().all(|m| works(&m));
            let open = covered().filter(works).any(|m| {
                let state = states.iter().find(|s| s.map_id == m.id);
                self.looks
                    .get(&m.id)
                    .is_some_and(|looks| waiter.wants(m.id, looks))
                    || state
                        .is_some_and(|s| s.reread_ms.is_some() || waiter.backfills && s.backfills)
            });
            if open && !waiter.is_over() {
                self.ingest_waiters.push(waiter);
            } else if waiter.backfills {
                let read = match covered().next().filter(|_| all_work && !open) {
                    Some(map) => match transaction(|client| state::backfilled(client, map.id)) {
                        Ok(read) => json!({ "read": read }),
                        Err(error) => {
                            self.ingest_waiters.push(waiter);
                            failed = Some(error);
                            continue;
                        }
                    },
                    None => json!({}),
                };
                waiter.waiter.answer(read);
            } else {
                waiter.answer(all_work && !open);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let waits = self.ingest_waiters.iter().map(IngestWaiter::time_left);
        Ok(waits.min())
    }
}
