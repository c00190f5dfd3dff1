//! The write-back: rounds open, changes are folded, and batches of what is due are claimed, read,
//! sent and settled.

pub mod batches;
pub mod claim;
pub mod folding;
pub mod fuse;
pub mod gathering;
pub mod in_flight;
pub mod message;
pub mod read;
pub mod results;
pub mod rounds;
pub mod settle;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::batches::Batches;
use self::claim::{Attempt, Claim, Claimer, Wanted};
use self::folding::{Folder, Progress};
use self::gathering::Gathering;
use self::in_flight::{Batch, unsent};
use self::read::ClaimedBatch;
use self::rounds::Rounds;
use self::settle::{Results, Settler, blamed};
use crate::failpoint;
use crate::store::config::{Connection, Map};
use crate::store::outcome::Outcome;
use crate::store::table::read::READ_TIME;
use crate::store::write_back::claims;
use crate::store::{StoreError, transaction};
use crate::worker::connections::readiness::Readiness;
use crate::worker::context::{Between, Context};
use crate::worker::in_flight::RecordsInFlight;
use crate::worker::link::SharedLink;
use crate::worker::mailbox::Sender;
use crate::worker::notification;
use crate::worker::process::report;
use crate::worker::schedule::{IDLE, LOCKED_RETRY, may_go};
use crate::worker::sender::batches::Sent;
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::waiters::Flushes;

pub use self::message::Message;

/// A batch is gathered for so many times as long as one step of it may be read.
const PATIENCE: u32 = 10;

/// What a turn did.
pub struct Turn {
    /// When something will be due next.
    pub next: Duration,
    /// Changes were folded, so that there may be more.
    pub has_folded: bool,
}

pub struct WriteBack {
    batches: Batches,
    settler: Settler,
    rounds: Rounds,
    claimer: Claimer,
    folder: Folder,
}

impl WriteBack {
    pub fn new(mailbox: Sender<Message>) -> Self {
        WriteBack {
            batches: Batches::new(mailbox),
            settler: Settler::default(),
            rounds: Rounds::new(),
            claimer: Claimer::default(),
            folder: Folder::default(),
        }
    }

    /// Edits of bidirectional cells were committed, which are sent at once.
    pub fn hurry(&mut self) {
        self.rounds.hurry();
    }

    /// Whether requests of a connection are in flight.
    pub fn uses(&self, connection_id: i32) -> bool {
        self.batches
            .iter()
            .any(|batch| batch.connection.id == connection_id)
    }

    /// Whether records of these maps are in flight.
    pub fn works_on(&self, map_ids: &[i32]) -> bool {
        self.batches
            .iter()
            .any(|batch| map_ids.contains(&batch.map.id))
    }

    /// Whether results are not settled yet.
    pub fn has_unsettled(&self) -> bool {
        !self.settler.is_empty()
    }

    /// The records of a map whose results are not settled yet.
    pub fn unsettled(&self, map_id: i32) -> impl Iterator<Item = (&str, &str)> {
        self.settler.unsettled(map_id)
    }

    /// The claims of the batches in flight.
    pub fn claims(&self) -> impl Iterator<Item = i64> {
        self.batches.claims()
    }

    /// Adds the records of a map that are in flight.
    pub fn add_in_flight(&self, map_id: i32, found: &mut RecordsInFlight) {
        self.batches.add_to(map_id, found);
        for (shard_key, record_key) in self.unsettled(map_id) {
            found.add(shard_key, record_key);
        }
    }

    pub fn retry_unsettled(&mut self, cx: &mut Context, between: Between) {
        self.settler.retry_unsettled(cx, between);
    }

    /// Folds and sends. `is_in_use`: whether others have requests of a connection in flight.
    pub fn turn(
        &mut self,
        cx: &mut Context,
        flushes: &Flushes,
        is_in_use: &dyn Fn(i32) -> bool,
        between: Between,
    ) -> Turn {
        let mut next = self.rounds.begin_due(cx, flushes);
        let mut fold = Progress::default();
        if self.rounds.any() {
            let wait;
            (fold, wait) = self.folder.turn(cx, between);
            next = next.min(wait);
        }
        let maps = cx.maps.clone();
        self.claimer.keep(&maps);
        cx.schedule.keep(&maps);
        for map in cx.schedule.order(&maps) {
            let in_use = |id| is_in_use(id) || self.uses(id);
            next = next.min(match cx.connections.readiness(map, in_use) {
                Readiness::Ready(connection, link) => {
                    let is_awaited = flushes.cover(map.id);
                    self.serve(cx, (&connection, map, &link), &fold, is_awaited, between)
                }
                Readiness::Blocked(wait) => wait,
                Readiness::Stopped => {
                    self.rounds.suspend(map);
                    continue;
                }
            });
        }
        if fold.is_any() {
            next = Duration::ZERO;
        }
        if !flushes.is_empty() || self.has_unsettled() || fold.leaves_locked() {
            next = next.min(LOCKED_RETRY);
        }
        Turn {
            next,
            has_folded: fold.is_any(),
        }
    }

    /// Sends what is due of one map, and ends its round once nothing is; returns when something
    /// will be due next. `is_awaited`: a backend waits for the map.
    fn serve(
        &mut self,
        cx: &mut Context,
        (connection, map, link): (&Arc<Connection>, &Arc<Map>, &SharedLink),
        fold: &Progress,
        is_awaited: bool,
        between: Between,
    ) -> Duration {
        let owner = Owner::Map(map.id);
        let rests = [Step::Read, Step::Settle].map(|step| cx.backoff.left(owner, step));
        if let Some(left) = rests.into_iter().flatten().max() {
            return left;
        }
        let mut next = IDLE;
        let in_round = self.rounds.is_open(map);
        let goes_on = fold.leaves(map.id);
        let is_backlogged = fold.is_full() && self.rounds.is_young(map);
        let is_judged_again = in_round && self.claimer.judges_again(map);
        let mut idle = map.is_held && !is_judged_again;
        // Until a record has succeeded, a batch shows whether the mapping works at all.
        let may_go = |batches: &Batches| {
            let is_alone = batches.iter().all(|batch| batch.map.id != map.id);
            (map.has_succeeded || is_alone) && may_go(map, batches.iter().map(|b| &b.map))
        };
        while !idle && may_go(&self.batches) {
            let start = Instant::now();
            let wanted = (in_round, is_backlogged, is_judged_again);
            match self.dispatch(cx, (connection, map, link), wanted, between) {
                Ok(true) => {
                    cx.schedule.served(map);
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
                    let wait = cx
                        .backoff
                        .map_failed(map, Step::Read, &error, "cannot read");
                    next = next.min(wait);
                    break;
                }
            }
            // What was read may be what cannot be settled.
            if let Some(left) = cx.backoff.left(owner, Step::Settle) {
                next = next.min(left);
                break;
            }
        }
        if idle && !goes_on && !self.works_on(&[map.id]) && (in_round || map.is_loading) {
            let is_counted = self.claimer.end_round(map.id) || map.is_loading;
            let ends = in_round && !is_awaited;
            if is_counted || ends {
                next = next.min(cx.backoff.attempt(owner, Step::Round, || match ends {
                    // What another session has locked keeps the round open for those who wait.
                    false => rounds::forget_counts(map).map(|()| IDLE),
                    true => self.rounds.end(connection, map).map(|()| Duration::ZERO),
                }));
            }
        } else if !in_round && map.next_write_ms > 0 {
            next = next.min(Duration::from_millis(map.next_write_ms as u64 + 1));
        }
        if idle && !map.is_held {
            next = next.min(
                cx.backoff
                    .attempt(owner, Step::NextRetry, || next_retry(map)),
            );
        }
        next
    }

    /// Claims a batch in steps and sends it; `false` when nothing is due. A record that cannot be
    /// read is charged with a failed attempt.
    fn dispatch(
        &mut self,
        cx: &mut Context,
        (connection, map, link): (&Arc<Connection>, &Arc<Map>, &SharedLink),
        (in_round, is_backlogged, is_judged_again): (bool, bool, bool),
        between: Between,
    ) -> Result<bool, StoreError> {
        let owner = Owner::Map(map.id);
        let start = Instant::now();
        let mut gathering = Gathering::default();
        let ended = loop {
            let step = cx
                .steps
                .room(owner, Step::Read, gathering.room(&cx.settings));
            let unsettled: Vec<(&str, &str)> = self.settler.unsettled(map.id).collect();
            let wanted = Wanted {
                in_round,
                unsettled: &unsettled,
                is_backlogged,
                is_judged_again: is_judged_again && gathering.is_empty(),
            };
            let settings = gathering.rest_of(&cx.settings);
            let began = Instant::now();
            let claimed = self
                .claimer
                .claim(connection, map, (step, &wanted), &settings);
            let claim = match claimed {
                Ok(Attempt::Claimed(claim)) => claim,
                ended => break Some(ended),
            };
            let records = claim.records();
            cx.steps.note(owner, Step::Read, records, began);
            if let Some(apart) = gathering.add(claim) {
                self.send(cx, connection, link, apart, between);
            }
            // Hardly any but those that are locked: that was all, or all that their bytes allow.
            let is_last = records * 2 < step || gathering.is_full(&cx.settings);
            // A table whose transforms are slow does not keep the others waiting.
            let is_slow = began.elapsed() >= READ_TIME || start.elapsed() >= READ_TIME * PATIENCE;
            if is_last || is_slow {
                break None;
            }
            between(cx);
        };
        let has_claimed = !gathering.is_empty();
        if let Some(claim) = gathering.finish() {
            self.send(cx, connection, link, claim, between);
        }
        let Some(ended) = ended else {
            cx.backoff.succeeded(owner, Step::Read);
            return Ok(true);
        };
        match ended? {
            Attempt::Nothing => {
                cx.backoff.succeeded(owner, Step::Read);
                Ok(has_claimed)
            }
            Attempt::Claimed(_) | Attempt::Narrowed => Ok(true),
            Attempt::Held(counts, linked) => {
                notification::log_held(map, &counts, linked);
                Ok(has_claimed)
            }
            Attempt::AtFault(claimed, error) => {
                let mut record = unsent(map, claimed, Outcome::NothingToDo);
                record.outcome = blamed(map, &record, &error, cx.settings.max_attempts);
                let results = Results {
                    map: map.clone(),
                    connection: connection.clone(),
                    settled: vec![record],
                };
                self.settler.settle_in_parts(cx, results, between);
                if error.is_about_values() {
                    return Ok(true);
                }
                Err(error)
            }
        }
    }

    /// Sends a claimed batch, and settles what needs no sending or cannot be sent.
    fn send(
        &mut self,
        cx: &mut Context,
        connection: &Arc<Connection>,
        link: &SharedLink,
        claim: Claim,
        between: Between,
    ) {
        let Claim { ids, batch, map } = claim;
        let ClaimedBatch {
            records,
            outgoing,
            settled,
            hazards: _,
        } = batch;
        if !settled.is_empty() {
            let results = Results {
                map: map.clone(),
                connection: connection.clone(),
                settled,
            };
            self.settler.settle_in_parts(cx, results, between);
        }
        if records.is_empty() {
            return;
        }
        let batch = Batch {
            claims: ids,
            map,
            connection: connection.clone(),
            records,
        };
        self.batches.send(cx, batch, link, outgoing);
    }

    /// Settles a batch that came back.
    pub fn on_message(&mut self, cx: &mut Context, message: Message, between: Between) {
        let Message::Sent {
            claim_id,
            sent,
            outage,
        } = message;
        failpoint::reach("send::after");
        let Some(batch) = self.batches.take(claim_id) else {
            return;
        };
        let Batch {
            claims,
            map,
            connection,
            records,
        } = batch;
        report(&format!(
            "settling {} records of {}",
            records.len(),
            map.relation
        ));
        // A task that panicked fails each record that it had.
        let sent = sent.unwrap_or_else(|failure| {
            let failed = |index| Sent {
                index,
                request_id: claim_id.to_string(),
                result: Err(failure.clone()),
                shown: Vec::new(),
            };
            (0..records.len()).map(failed).collect()
        });
        let max_attempts = cx.settings.max_attempts;
        let (settled, outage_seen) = results::classify(&map, records, sent, max_attempts);
        let outage = outage.or(outage_seen);
        let results = Results {
            map,
            connection,
            settled,
        };
        let outage = outage.as_ref();
        self.settler.settle(cx, results, &claims, outage, between);
    }
}

/// When the next retry of a map is due.
fn next_retry(map: &Map) -> Result<Duration, StoreError> {
    let ms = transaction(|client| claims::next_retry_ms(client, map.id))?;
    // One that is due but was not claimed is in flight, or locked by another session.
    Ok(match ms {
        Some(ms) if ms > 0 => Duration::from_millis(ms as u64 + 1),
        Some(_) => LOCKED_RETRY,
        None => IDLE,
    })
}
