//! Backends that wait in `crm.ingest_now()` and `crm.backfill()`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::passes::PollPasses;
use crate::store::config::Map;
use crate::store::ingest::state;
use crate::store::{StoreError, transaction};
use crate::worker::connections::Connections;
use crate::worker::waiters::Waiter;

/// A backend that waits until a pass through the CRM's changes, begun after it asked, is complete.
pub struct IngestWaiter {
    waiter: Waiter,
    backfills: bool,
    /// The passes that are waited for, by map; `None`: just asked.
    passes: Option<HashMap<i32, u64>>,
}

impl IngestWaiter {
    pub fn new(waiter: Waiter, backfills: bool) -> Self {
        IngestWaiter {
            waiter,
            backfills,
            passes: None,
        }
    }

    /// Who names no maps waits for those that ingest.
    fn covers(&self, map: &Map) -> bool {
        let waiter = &self.waiter;
        waiter.covers(map.id) && (waiter.names_maps() || map.enabled && map.ingests)
    }

    /// Whether a pass through the map's changes is to begin for it.
    fn wants(&self, map_id: i32, passes: &PollPasses) -> bool {
        let pass = self.passes.as_ref().and_then(|p| p.get(&map_id));
        pass.is_some_and(|pass| !passes.is_complete(*pass))
    }

    fn answer(self, done: bool) {
        self.waiter.answer(json!({ "done": done }));
    }
}

#[derive(Default)]
pub struct IngestWaiters(Vec<IngestWaiter>);

impl IngestWaiters {
    pub fn add(&mut self, waiter: IngestWaiter) {
        self.0.push(waiter);
    }

    /// Whether any waits for a pass through the map's changes.
    pub fn want(&self, map_id: i32, passes: &PollPasses) -> bool {
        self.0.iter().any(|w| w.wants(map_id, passes))
    }

    /// Assigns passes to those who have just asked.
    pub fn begin(
        &mut self,
        maps: &[Arc<Map>],
        passes: &mut HashMap<i32, PollPasses>,
    ) -> Result<(), StoreError> {
        let fresh = |w: &&mut IngestWaiter| w.passes.is_none();
        for waiter in self.0.iter_mut().filter(fresh) {
            let mut wanted = HashMap::new();
            for map in maps.iter().filter(|m| waiter.covers(m)) {
                if map.fields.is_empty() {
                    continue;
                }
                wanted.insert(map.id, passes.entry(map.id).or_default().next_pass());
                if waiter.backfills {
                    transaction(|client| state::begin_backfill(client, map.id))?;
                }
            }
            waiter.passes = Some(wanted);
        }
        Ok(())
    }

    /// Answers those whose passes are complete, or stopped. Returns the time that is left to the
    /// others, if there are any.
    pub fn answer(
        &mut self,
        maps: &[Arc<Map>],
        connections: &Connections,
        passes: &HashMap<i32, PollPasses>,
    ) -> Result<Option<Duration>, StoreError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let states = transaction(state::all)?;
        let mut failed = None;
        for waiter in std::mem::take(&mut self.0) {
            let covered = || maps.iter().filter(|m| waiter.covers(m));
            let works = |m: &&Arc<Map>| !connections.is_stopped(m) && !m.is_inbound_held;
            let all_work = covered().all(|m| works(&m));
            let open = covered().filter(works).any(|m| {
                let state = states.iter().find(|s| s.map_id == m.id);
                let reads =
                    |s: &state::State| s.reread_ms.is_some() || waiter.backfills && s.backfills;
                passes.get(&m.id).is_some_and(|p| waiter.wants(m.id, p)) || state.is_some_and(reads)
            });
            if open && !waiter.waiter.is_over() {
                self.0.push(waiter);
            } else if waiter.backfills {
                let read = match covered().next().filter(|_| all_work && !open) {
                    Some(map) => match transaction(|client| state::backfilled(client, map.id)) {
                        Ok(read) => json!({ "read": read }),
                        Err(error) => {
                            self.0.push(waiter);
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
        Ok(self.0.iter().map(|w| w.waiter.time_left()).min())
    }

    /// Answers those whose time is up.
    pub fn expire(&mut self) {
        for waiter in self.0.extract_if(.., |w| w.waiter.is_over()) {
            waiter.answer(false);
        }
    }
}
