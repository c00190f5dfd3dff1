//! Claims records that are due, with their values.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crm_domain::Path;
use crm_domain::fuse::Counts;
use pgrx::prelude::*;

use super::fuse::{Claiming, Room, Verdict};
use super::in_flight::InFlight;
use super::read::{ClaimedBatch, read_batch};
use super::rounds;
use crate::failpoint;
use crate::settings::Settings;
use crate::store::config::{self, Connection, Map};
use crate::store::notify;
use crate::store::write_back::claims::{self, Claimed};
use crate::store::{StoreError, map_state, transaction};
use crate::worker::notification;
use crate::worker::process::report;

/// A batch that was claimed and read.
pub struct Claim {
    /// Of its records; none if none of them is to be sent.
    pub ids: Vec<i64>,
    pub batch: ClaimedBatch,
    pub map: Arc<Map>,
}

impl Claim {
    /// How many records were claimed and read.
    pub fn records(&self) -> usize {
        self.batch.records.len() + self.batch.settled.len()
    }

    /// Whether what was claimed after it can be sent together with it.
    pub fn goes_with(&self, next: &Claim) -> bool {
        self.map.maps_alike(&next.map)
    }

    /// Adds what was claimed after it.
    pub fn append(&mut self, next: Claim) {
        let Claim { ids, batch, map } = next;
        self.ids.extend(ids);
        self.batch.append(batch);
        self.map = map;
    }
}

/// Which records are claimed.
pub struct Wanted<'a> {
    /// Whether the map's round is open.
    pub in_round: bool,
    /// Records whose results are not settled yet.
    pub unsettled: &'a [(&'a str, &'a str)],
    /// Many changes wait to be folded.
    pub is_backlogged: bool,
    /// The map may be held, and is to be judged again.
    pub is_judged_again: bool,
}

/// What came of a claim.
pub enum Attempt {
    /// Nothing is due.
    Nothing,
    Claimed(Claim),
    /// The batch could not be read: the next one has fewer records.
    Narrowed,
    /// A record that cannot be read.
    AtFault(Claimed, StoreError),
    /// The fuse holds the map back.
    Held(Counts, i64),
}

/// What a transaction that claims does.
enum Outcome {
    Nothing,
    Claimed(Claim),
    Held(Counts, i64),
}

/// Finds the record that keeps a batch from being read: it is read again with half as many records,
/// until the one at fault is alone.
#[derive(Default)]
pub struct Claimer {
    /// How many records are read at once, of maps in which a batch could not be read.
    narrowed: HashMap<i32, usize>,
    room: Room,
    /// Maps that were judged again in their open round, being held.
    judged: HashSet<i32>,
}

impl Claimer {
    /// Forgets maps that are gone.
    pub fn keep(&mut self, maps: &[Arc<Map>]) {
        self.narrowed
            .retain(|id, _| maps.iter().any(|m| m.id == *id));
    }

    /// All of the map's round has gone; whether any of it was counted by the fuse.
    pub fn end_round(&mut self, map_id: i32) -> bool {
        self.judged.remove(&map_id);
        self.room.forget(map_id)
    }

    /// Whether a map is held that was not judged again in its open round; from now on it was.
    pub fn judges_again(&mut self, map: &Map) -> bool {
        map.is_held && self.judged.insert(map.id)
    }

    /// Claims and reads up to `most` records. An error is the fault of no record.
    pub fn claim(
        &mut self,
        connection: &Connection,
        map: &Map,
        (most, wanted): (usize, &Wanted),
        settings: &Settings,
    ) -> Result<Attempt, StoreError> {
        let rows = self.narrowed.get(&map.id).map_or(most, |n| most.min(*n));
        let mut due = Vec::new();
        let room = &mut self.room;
        match claim(connection, map, (rows, wanted), settings, (&mut due, room)) {
            Ok(Outcome::Nothing) => Ok(Attempt::Nothing),
            Ok(Outcome::Held(counts, linked)) => Ok(Attempt::Held(counts, linked)),
            Ok(Outcome::Claimed(claim)) => {
                if let Some(narrow) = self.narrowed.remove(&map.id)
                    && narrow < most
                {
                    self.narrowed.insert(map.id, narrow * 2);
                }
                Ok(Attempt::Claimed(claim))
            }
            Err(error) if error.blames_no_row() => Err(error),
            Err(error) if due.len() > 1 => {
                self.narrowed.insert(map.id, due.len() / 2);
                let others = format!("{} records of {}", due.len(), map.relation);
                debug1!("pg_crm reads fewer than {others} at once: {error}");
                Ok(Attempt::Narrowed)
            }
            Err(error) => match due.pop() {
                Some(claimed) => {
                    self.narrowed.insert(map.id, 1);
                    Ok(Attempt::AtFault(claimed, error))
                }
                None => Err(error),
            },
        }
    }
}

/// Claims and reads a batch in one transaction. `at_hand`: the records that are at hand should it
/// fail.
fn claim(
    connection: &Connection,
    map: &Map,
    (rows, wanted): (usize, &Wanted),
    settings: &Settings,
    (at_hand, room): (&mut Vec<Claimed>, &mut Room),
) -> Result<Outcome, StoreError> {
    let claim = transaction(|client| {
        if !claims::may_send(client, connection.id)? {
            return Ok(Outcome::Nothing);
        }
        config::lock_definition(client, map.id)?;
        // The mapping as it is now: what was folded may concern fields that were mapped since this
        // turn began.
        let goes_on = |m: &Arc<Map>| m.works() && (!m.is_held || wanted.is_judged_again);
        let Some(map) = config::map(client, map.id)?.filter(goes_on) else {
            return Ok(Outcome::Nothing);
        };
        let Wanted {
            in_round,
            unsettled,
            is_backlogged,
            is_judged_again: _,
        } = *wanted;
        let due = claims::due(client, &map, rows, in_round, unsettled)?;
        if due.is_empty() && !map.is_held {
            return Ok(Outcome::Nothing);
        }
        at_hand.extend(due.iter().cloned());
        report(&format!(
            "reading {} records of {}",
            due.len(),
            map.relation
        ));
        failpoint::reach_with("read::store", due.iter().map(|d| d.record_key.as_str()));
        let batch = read_batch(&map, due, unsettled, settings)?;
        let claiming = Claiming {
            hazards: &batch.hazards,
            records: batch.records.len(),
            is_backlogged,
            unsettled,
        };
        match room.judge(client, &map, &settings.fuse, &claiming)? {
            Verdict::Goes => {}
            Verdict::Waits => return Ok(Outcome::Nothing),
            Verdict::Held(counts, linked) => {
                let round = map_state::round_id(client, map.id)?;
                let of = (Path::Batch, round.as_deref());
                let event = notification::held(connection, &map, of, &counts);
                notify::notify(client, vec![event])?;
                failpoint::reach("fuse::before_commit");
                return Ok(Outcome::Held(counts, linked));
            }
        }
        let mut ids = Vec::new();
        if !batch.records.is_empty() {
            let records = || batch.records.iter().map(InFlight::claimed);
            let shard_keys = records().map(|r| r.shard_key.as_str()).collect();
            let record_keys = records().map(|r| r.record_key.as_str()).collect();
            failpoint::reach_with("claim::store", records().map(|r| r.record_key.as_str()));
            let sent = map.spares_records().then(|| {
                let sent = batch.records.iter().map(|record| record.sent_hashes(&map));
                sent.collect()
            });
            let id = claims::claim(client, &map, Path::Batch, shard_keys, record_keys, sent)?;
            ids.push(id);
        }
        let records = batch.records.len() + batch.settled.len();
        if map_state::add_to_round(client, map.id, records)? {
            let id = map_state::round_id(client, map.id)?;
            notify::notify(
                client,
                vec![rounds::started(connection, &map, id.as_deref())],
            )?;
        }
        failpoint::reach("claim::before_commit");
        Ok(Outcome::Claimed(Claim { ids, batch, map }))
    })?;
    if matches!(claim, Outcome::Claimed(_)) {
        failpoint::reach("claim::after_commit");
    }
    Ok(claim)
}
