//! The reconciler: pending edits of bidirectional cells are read, compared with the CRM, and
//! written or resolved by their fields' policies, in bulk.

pub mod audit;
pub mod claim;
pub mod fuse;
pub mod read;
pub mod record;
pub mod resolve;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::Failure;
use crm_domain::failure::Scope;
use pgrx::prelude::*;

use self::claim::{ClaimedEdits, claim};
use self::read::{PendingWithRow, edit};
use self::record::{Recorder, Resolved, Results};
use self::resolve::{blamed, resolve};
use crate::failpoint;
use crate::store::calls::intents;
use crate::store::config::{Connection, Map};
use crate::store::reconcile::pending_writes;
use crate::store::table::read::Bounds;
use crate::store::{StoreError, transaction};
use crate::worker::connections::readiness::Readiness;
use crate::worker::context::{Between, Context};
use crate::worker::in_flight::RecordsInFlight;
use crate::worker::link::{Priority, RequestContext, SharedLink};
use crate::worker::mailbox::Sender;
use crate::worker::process::report;
use crate::worker::schedule::{IDLE, LOCKED_RETRY, may_go};
use crate::worker::sender::checked_write::{Checked, CheckedWrite, Edit, Outcome};
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::tasks;

/// Pending writes of one batch at most.
const BATCH: usize = 1000;
/// Delay before looking again for intents whose callers' transactions were rolled back.
const ADOPT_AGAIN: Duration = Duration::from_secs(1);

/// What the threads report.
pub enum Message {
    /// The CRM's results for claimed pending writes; an error: their task panicked.
    Written {
        claim_id: i64,
        checked: Result<Vec<Checked>, Failure>,
        outage: Option<Failure>,
    },
}

/// A batch of pending writes in flight.
struct InFlight {
    map: Arc<Map>,
    connection: Arc<Connection>,
    edits: Vec<PendingWithRow>,
}

pub struct Reconciler {
    mailbox: Sender<Message>,
    /// By claim.
    in_flight: HashMap<i64, InFlight>,
    recorder: Recorder,
    /// Edits read at once of maps in which a batch could not be read.
    narrowed: HashMap<i32, usize>,
}

impl Reconciler {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Reconciler {
            mailbox,
            in_flight: HashMap::new(),
            recorder: Recorder::default(),
            narrowed: HashMap::new(),
        }
    }

    /// Whether requests of a connection are in flight.
    pub fn uses(&self, connection_id: i32) -> bool {
        self.in_flight
            .values()
            .any(|batch| batch.connection.id == connection_id)
    }

    /// Whether edits of these maps are in flight.
    pub fn works_on(&self, map_ids: &[i32]) -> bool {
        self.in_flight
            .values()
            .any(|batch| map_ids.contains(&batch.map.id))
    }

    /// Whether results are not recorded yet.
    pub fn has_unrecorded(&self) -> bool {
        !self.recorder.is_empty()
    }

    /// The records of a map whose results are not recorded yet.
    pub fn unrecorded(&self, map_id: i32) -> impl Iterator<Item = (&str, &str)> {
        self.recorder.unrecorded(map_id)
    }

    /// The claims of the batches in flight.
    pub fn claims(&self) -> impl Iterator<Item = i64> {
        self.in_flight.keys().copied()
    }

    /// Adds the records of a map that are in flight.
    pub fn add_in_flight(&self, map_id: i32, found: &mut RecordsInFlight) {
        for batch in self.in_flight.values().filter(|b| b.map.id == map_id) {
            for pending in batch.edits.iter().map(|e| &e.pending) {
                found.add(&pending.shard_key, &pending.record_key);
                found.crm_ids.insert(pending.crm_id.clone());
            }
        }
        for (shard_key, record_key) in self.unrecorded(map_id) {
            found.add(shard_key, record_key);
        }
    }

    pub fn retry_unrecorded(&mut self, cx: &mut Context, between: Between) {
        self.recorder.retry_unrecorded(cx, between);
    }

    /// Sends what is due of the pending writes; returns when something will be due next.
    /// `is_in_use`: whether others have requests of a connection in flight.
    pub fn turn(
        &mut self,
        cx: &mut Context,
        is_in_use: &dyn Fn(i32) -> bool,
        between: Between,
    ) -> Duration {
        let mut next = IDLE;
        let maps = cx.maps.clone();
        self.narrowed
            .retain(|id, _| maps.iter().any(|m| m.id == *id));
        for map in cx.schedule.order(&maps) {
            if !map.realtime {
                continue;
            }
            let in_use = |id| is_in_use(id) || self.uses(id);
            next = next.min(match cx.connections.readiness(map, in_use) {
                Readiness::Ready(connection, link) => {
                    self.serve(cx, (&connection, map, &link), between)
                }
                Readiness::Blocked(wait) => wait,
                Readiness::Stopped => continue,
            });
        }
        if self.has_unrecorded() {
            next = next.min(LOCKED_RETRY);
        }
        next
    }

    /// Sends what is due of one map; returns when something will be due next.
    fn serve(
        &mut self,
        cx: &mut Context,
        (connection, map, link): (&Arc<Connection>, &Arc<Map>, &SharedLink),
        between: Between,
    ) -> Duration {
        let owner = Owner::Map(map.id);
        let rests = [Step::ReadEdits, Step::RecordEdits].map(|step| cx.backoff.left(owner, step));
        if let Some(left) = rests.into_iter().flatten().max() {
            return left;
        }
        let mut next = IDLE;
        while may_go(map, self.in_flight.values().map(|batch| &batch.map)) {
            match self.dispatch(cx, (connection, map, link), between) {
                Ok(true) => {
                    cx.schedule.served(map);
                    between(cx);
                }
                Ok(false) => {
                    next = next.min(cx.backoff.attempt(owner, Step::ReadEdits, || {
                        let ms = transaction(|client| pending_writes::next_ms(client, map.id))?;
                        // One that is due but was not claimed is in flight, or locked by another
                        // session.
                        Ok(match ms {
                            Some(ms) if ms > 0 => Duration::from_millis(ms as u64 + 1),
                            Some(_) => LOCKED_RETRY,
                            None => IDLE,
                        })
                    }));
                    break;
                }
                Err(error) => {
                    let what = "cannot read edits of";
                    next = next.min(cx.backoff.map_failed(map, Step::ReadEdits, &error, what));
                    break;
                }
            }
            if let Some(left) = cx.backoff.left(owner, Step::RecordEdits) {
                next = next.min(left);
                break;
            }
        }
        next
    }

    /// Claims a batch and sends it; `false` when nothing is due.
    ///
    /// A batch that cannot be read is read again with half as many edits, until the one at fault is
    /// alone and is charged with a failed attempt.
    fn dispatch(
        &mut self,
        cx: &mut Context,
        (connection, map, link): (&Arc<Connection>, &Arc<Map>, &SharedLink),
        between: Between,
    ) -> Result<bool, StoreError> {
        let most = cx.settings.batch_rows.min(BATCH);
        let narrow = self.narrowed.get(&map.id);
        let rows = narrow.map_or(most, |n| most.min(*n));
        let bounds = Bounds::of(&cx.settings);
        let unrecorded: Vec<(&str, &str)> = self.unrecorded(map.id).collect();
        let mut due = Vec::new();
        let limits = (rows, &bounds, &cx.settings.fuse);
        match claim(connection, map, limits, &unrecorded, &mut due) {
            Ok(claimed) => {
                cx.backoff.succeeded(Owner::Map(map.id), Step::ReadEdits);
                let Some(claimed) = claimed else {
                    return Ok(false);
                };
                if let Some(narrow) = self.narrowed.remove(&map.id)
                    && narrow < most
                {
                    self.narrowed.insert(map.id, narrow * 2);
                }
                self.send(cx, connection, link, claimed);
                Ok(true)
            }
            Err(error) if error.blames_no_row() || due.is_empty() => Err(error),
            Err(_) if due.len() > 1 => {
                self.narrowed.insert(map.id, due.len() / 2);
                Ok(true)
            }
            Err(error) => {
                self.narrowed.insert(map.id, 1);
                let Some(pending) = due.pop() else {
                    return Err(error);
                };
                let most = cx.settings.max_attempts;
                let results = Results {
                    map: map.clone(),
                    connection: connection.clone(),
                    resolved: vec![blamed(map, pending, "{}".to_owned(), &error, most)],
                };
                self.recorder.record(cx, results, None, between);
                if error.is_about_values() {
                    return Ok(true);
                }
                Err(error)
            }
        }
    }

    fn send(
        &mut self,
        cx: &Context,
        connection: &Arc<Connection>,
        link: &SharedLink,
        claimed: ClaimedEdits,
    ) {
        let ClaimedEdits {
            claim_id,
            edits,
            map,
        } = claimed;
        let readable = edits.iter().filter(|e| e.fault.is_none());
        let sent: Vec<Edit> = readable.map(|e| edit(&map, e)).collect();
        let object = map.crm_object.clone();
        let context = RequestContext::of_map(Priority::Reconcile, map.id);
        let batch = InFlight {
            map,
            connection: connection.clone(),
            edits,
        };
        self.in_flight.insert(claim_id, batch);
        failpoint::reach("request::before");
        let link = link.clone();
        tasks::spawn(
            &cx.runtime,
            &self.mailbox,
            async move {
                let write = CheckedWrite {
                    link: &link,
                    context: &context,
                    object: &object,
                    edits: &sent,
                };
                Message::Written {
                    claim_id,
                    checked: Ok(write.run_caught(claim_id.to_string()).await),
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

    /// Resolves and records what came back.
    pub fn on_message(&mut self, cx: &mut Context, message: Message, between: Between) {
        let Message::Written {
            claim_id,
            checked,
            outage,
        } = message;
        let Some(batch) = self.in_flight.remove(&claim_id) else {
            return;
        };
        failpoint::reach("request::after");
        let InFlight {
            map,
            connection,
            edits,
        } = batch;
        report(&format!(
            "recording {} edits of {}",
            edits.len(),
            map.relation
        ));
        // A task that panicked fails each edit that it had.
        let checked = checked.unwrap_or_else(|failure| {
            let sent = edits.iter().filter(|e| e.fault.is_none());
            sent.map(|_| Checked::failed(failure.clone())).collect()
        });
        let outage = outage.or_else(|| outage_among(&checked));
        let mut answers = checked.into_iter();
        let max_attempts = cx.settings.max_attempts;
        let resolved: Vec<Resolved> = edits
            .into_iter()
            .map(|edit| {
                let checked = match &edit.fault {
                    None => answers.next(),
                    Some(_) => None,
                };
                resolve(&map, edit, checked, max_attempts)
            })
            .collect();
        cx.connections
            .note_health(connection.id, connection.version, outage.as_ref());
        let results = Results {
            map,
            connection,
            resolved,
        };
        self.recorder.record(cx, results, Some(claim_id), between);
    }
}

fn outage_among(checked: &[Checked]) -> Option<Failure> {
    let mut failures = checked.iter().filter_map(|c| match &c.outcome {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    });
    failures
        .find(|failure| failure.scope == Scope::Connection)
        .cloned()
}

/// Intents whose callers' transactions were rolled back become the reconciler's; returns when to
/// look again. `in_flight`: ids of calls that are still being sent.
pub fn adopt_orphans(cx: &mut Context, in_flight: Vec<&str>) -> Duration {
    cx.backoff.attempt(Owner::Worker, Step::Adopt, || {
        if !transaction(|client| intents::intents_wait(client))? {
            return Ok(IDLE);
        }
        let adopted = transaction(|client| {
            let adopted = pending_writes::adopt_orphans(client, in_flight)?;
            if adopted > 0 {
                failpoint::reach("adopt::before_commit");
            }
            Ok(adopted)
        })?;
        if adopted > 0 {
            failpoint::reach("adopt::after_commit");
            log!(
                "pg_crm restores {adopted} rows to their CRM values: the transactions that wrote them were rolled back"
            );
        }
        Ok(ADOPT_AGAIN)
    })
}
