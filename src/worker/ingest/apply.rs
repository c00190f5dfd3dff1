//! What came back from a look at a CRM's changes, settled: a page or a read in one transaction each, and what is to be
//! looked at again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crm_domain::bisect::{Undone, bisect};
use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use pgrx::prelude::*;

use super::{Came, Looking, PAGE, What};
use crate::failpoint;
use crate::store::config::{self, Connection, Map};
use crate::store::ingest::refetch;
use crate::store::ingest::refetch::Reread;
use crate::store::ingest::state;
use crate::store::ingest::{self, Arrived, Arriving, Incoming};
use crate::store::notify;
use crate::store::table::read::READ_TIME;
use crate::store::{StoreError, map_state, transaction};
use crate::worker::main_loop::Worker;
use crate::worker::notification;
use crate::worker::process::report;
use crate::worker::schedule::LOCKED_RETRY;
use crate::worker::step_backoff::{Owner, Step};

/// How soon a look that failed for reasons of its own is repeated, at first.
const AGAIN: Duration = Duration::from_secs(5);
/// After a table's own code took its time, others have so many times as much.
const OTHERS_SHARE: u32 = 4;
/// A map stops when a page of at least so many records cannot be mapped, none of them.
const STOP_AFTER: usize = 5;

impl Worker {
    /// Settles what came back.
    pub fn came(&mut self, ticket: u64, came: Result<Came, Failure>, trouble: Option<Failure>) {
        let Some(looking) = self.looking.remove(&ticket) else {
            return;
        };
        failpoint::reach("ingest::after_request");
        let refused = came.as_ref().err();
        let trouble = trouble.or_else(|| refused.filter(|f| f.scope == Scope::Connection).cloned());
        let Connection { id, version, .. } = *looking.connection;
        self.cx
            .connections
            .note_health(id, version, trouble.as_ref());
        let map = looking.map.clone();
        let start = Instant::now();
        let is_page = matches!(looking.what, What::Page { .. });
        let rereads = match &looking.what {
            What::Records(records) => records.clone(),
            What::Page { .. } => Vec::new(),
        };
        let result = match came {
            Ok(came) => self.settle_look(looking, came),
            Err(failure) => self.look_failed(looking, &failure),
        };
        let Err(error) = result else {
            self.cx.backoff.succeeded(Owner::Map(map.id), Step::Poll);
            return;
        };
        if error.is_undefined() && !error.is_outdated() {
            return;
        }
        let wait =
            self.cx
                .backoff
                .map_failed(&map, Step::Poll, &error, "cannot take in changes of");
        // Others have most of the worker's time, however slow a table's own code is.
        let wait = wait.max(start.elapsed() * OTHERS_SHARE);
        let wait_ms = wait.as_millis() as i64;
        let result = transaction(|client| match is_page {
            true => state::postpone(client, map.id, wait_ms),
            false => {
                let records: Vec<&Reread> = rereads.iter().collect();
                refetch::failed(client, map.id, &records, wait_ms)
            }
        });
        if let Err(error) = result {
            self.cx
                .backoff
                .failed(Owner::Map(map.id), Step::Poll, &error);
        }
        self.looks.entry(map.id).or_default().failures += 1;
    }

    /// Settles what came in one transaction; if that fails, in parts. A record that cannot be taken in is put aside.
    fn settle_look(&mut self, looking: Looking, mut came: Came) -> Result<(), StoreError> {
        let Looking {
            map, connection, ..
        } = &looking;
        report(&format!(
            "taking in {} records of {}",
            came.records.len(),
            map.relation
        ));
        if let Some((next, true)) = &came.next
            && let Some(link) = self.cx.connections.link(connection.id).cloned()
        {
            self.ask_page(connection, map, &link, Some(next.clone()))?;
        }
        let busy = self.busy(map.id);
        let records = std::mem::take(&mut came.records);
        let count = records.len();
        // As many as the bound on bytes allows, by what these are.
        let values = records.iter().filter_map(|r| r.values.as_ref().ok());
        let size: usize = values.flatten().map(|f| f.value.size() + 16).sum();
        let taken = match settle_part(&looking, &busy, &records, Some((&came, count))) {
            Ok(taken) => taken,
            Err(error) if error.is_nobodys() || records.is_empty() => return Err(error),
            Err(error) => {
                log!(
                    "pg_crm takes in changes of {} one by one: {error}",
                    map.relation
                );
                self.settle_in_parts(&looking, &busy, records)?;
                settle_part(&looking, &busy, &[], Some((&came, count)))?
            }
        };
        failpoint::reach("ingest::after_commit");
        let bytes = self.cx.settings.batch_bytes;
        let looks = self.looks.entry(map.id).or_default();
        if taken {
            looks.failures = 0;
            if came.next.is_some() && count > 0 {
                let fit = bytes / (size / count).max(1);
                looks.page = Some(fit.clamp(1, PAGE));
            }
            if matches!(came.next, Some((_, false))) {
                looks.end();
            }
        }
        Ok(())
    }

    fn settle_in_parts(
        &mut self,
        looking: &Looking,
        busy: &HashSet<(String, String)>,
        records: Vec<Incoming>,
    ) -> Result<(), StoreError> {
        let mut rest = records;
        for is_last in [false, true] {
            let undone = bisect(rest, StoreError::is_nobodys, |part| {
                settle_part(looking, busy, part, None).map(|_| ())
            });
            rest = Vec::with_capacity(undone.len());
            for Undone { items, error } in undone {
                if error.is_nobodys() {
                    return Err(error);
                }
                for mut record in items {
                    let failure = Failure::record(ErrorClass::Internal, "settle", error.message());
                    if is_last {
                        let reread = reread_of(looking, &record);
                        let (connection, map) = (&looking.connection, &looking.map);
                        transaction(|client| {
                            ingest::give_up(client, connection, map, &reread, &failure)
                        })?;
                    } else {
                        record.deleted = false;
                        record.values = Err(failure.into());
                        rest.push(record);
                    }
                }
            }
        }
        Ok(())
    }

    fn look_failed(&mut self, looking: Looking, failure: &Failure) -> Result<(), StoreError> {
        let map = &looking.map;
        if failure.scope == Scope::Connection {
            // The connection waits, and this with it.
            return Ok(());
        }
        let looks = self.looks.entry(map.id).or_default();
        let wait = AGAIN * 2u32.saturating_pow(looks.failures.min(6));
        let wait_ms = wait.as_millis() as i64;
        let is_page = matches!(looking.what, What::Page { .. });
        looks.failures = match failure.class {
            // It waits for a person from now on, who is not kept waiting.
            ErrorClass::Mapping if is_page => 0,
            _ => looks.failures + 1,
        };
        let too_long = failure.code == "response_too_long";
        let max_attempts = self.cx.settings.max_attempts;
        if is_page && too_long {
            looks.page = Some((looks.page.unwrap_or(PAGE) / 2).max(1));
        }
        let reason = format!("cannot look for changes: {failure}");
        transaction(|client| {
            map_state::did(client, map.id, 0, false, Some(&reason))?;
            match &looking.what {
                What::Page { .. } if too_long => Ok(()),
                What::Page { .. } if failure.code == "unreadable_cursor" => {
                    state::begin_anew(client, map.id)
                }
                What::Page { .. } if failure.class == ErrorClass::Mapping => {
                    map_state::stop(client, map.id, &reason)
                }
                What::Page { .. } => state::postpone(client, map.id, wait_ms),
                What::Records(records) => {
                    let (worn, others): (Vec<&Reread>, Vec<&Reread>) = records
                        .iter()
                        .partition(|r| records.len() == 1 && r.attempts + 1 >= max_attempts);
                    refetch::failed(client, map.id, &others, wait_ms)?;
                    for record in worn {
                        ingest::give_up(client, &looking.connection, map, record, failure)?;
                    }
                    Ok(())
                }
            }
        })
    }

    /// CRM records of a map that are being written: what is read of them now could not be compared.
    pub fn busy_records(&self, map_id: i32) -> HashSet<&str> {
        let flights = self.flights.values().filter(|f| f.map.id == map_id);
        let written = flights.flat_map(|f| &f.records);
        let written = written.filter_map(|r| r.claimed().crm_id.as_deref());
        let reconciling = self.reconciling.values().filter(|r| r.map.id == map_id);
        let edited = reconciling.flat_map(|r| &r.waiting);
        let edited = edited.map(|w| w.pending.crm_id.as_str());
        written.chain(edited).collect()
    }

    /// Records of a map to which something of ours is on its way.
    fn busy(&self, map_id: i32) -> HashSet<(String, String)> {
        let mut busy = HashSet::new();
        let mut add = |shard_key: &str, record_key: &str| {
            busy.insert((shard_key.to_owned(), record_key.to_owned()));
        };
        for flight in self.flights.values().filter(|f| f.map.id == map_id) {
            let records = flight.records.iter().map(|r| r.claimed());
            records.for_each(|r| add(&r.shard_key, &r.record_key));
        }
        for (_, _, settled) in self.held.iter().filter(|(m, _, _)| m.id == map_id) {
            settled
                .iter()
                .for_each(|s| add(&s.shard_key, &s.record_key));
        }
        for flight in self.reconciling.values().filter(|r| r.map.id == map_id) {
            let records = flight.waiting.iter().map(|w| &w.pending);
            records.for_each(|p| add(&p.shard_key, &p.record_key));
        }
        for (_, _, judged) in self.held_pending.iter().filter(|(m, _, _)| m.id == map_id) {
            let records = judged.iter().map(|(s, _)| &s.pending);
            records.for_each(|p| add(&p.shard_key, &p.record_key));
        }
        busy
    }
}

/// Settles records in one transaction, and with the last of them how far the CRM was read; `false`: what was asked for is not
/// what is wanted by now.
fn settle_part(
    looking: &Looking,
    busy: &HashSet<(String, String)>,
    records: &[Incoming],
    last: Option<(&Came, usize)>,
) -> Result<bool, StoreError> {
    let Looking {
        map,
        connection,
        asked,
        what,
    } = looking;
    let start = Instant::now();
    transaction(|client| {
        let Some(current) = config::maps(client)?.into_iter().find(|m| m.id == map.id) else {
            return Ok(false);
        };
        config::hold(client, map.id)?;
        if !asks_for_the_same(&current, map) {
            return Ok(false);
        }
        if let Some((came, count)) = last {
            if let (What::Page { since }, Some((next, more))) = (what, &came.next)
                && !state::advance(client, map.id, since.as_ref(), next, *more, count)?
            {
                return Ok(false);
            }
            if came.blind {
                refetch::look_out_for_linked(client, map.id)?;
            }
            if let Some(total) = came.total {
                state::note_total(client, map.id, total)?;
            }
            if came.strays > 0 {
                let counts = state::Counts {
                    read: came.strays,
                    ignored: came.strays,
                    ..state::Counts::default()
                };
                state::count(client, map.id, &counts)?;
                let reason = format!(
                    "{} records of the CRM's answer cannot be taken in: it does not say which they are",
                    came.strays
                );
                map_state::did(client, map.id, 0, false, Some(&reason))?;
            }
        }
        if matches!(what, What::Page { .. }) {
            let shown = records.iter().map(|r| r.crm_id.as_str());
            refetch::seen(client, map.id, shown.collect())?;
            let next = last.and_then(|(came, _)| came.next.as_ref());
            // It was the last page.
            if next.is_some_and(|(_, more)| !more) {
                refetch::ask_unseen(client, map.id)?;
            }
        }
        failpoint::reach_with("ingest::store", records.iter().map(|r| r.crm_id.as_str()));
        let about = Arriving {
            connection,
            map: &current,
            asked,
            busy,
        };
        // A row that cannot be changed because somebody holds what it refers to keeps nobody waiting.
        client.update("SET LOCAL lock_timeout = '50ms'", None, &[])?;
        let arrived = ingest::settle(client, &about, records)?;
        let wait = LOCKED_RETRY.max(match start.elapsed() {
            time if time >= READ_TIME => time * OTHERS_SHARE,
            _ => Duration::ZERO,
        });
        ask_again(client, map, what, records, &arrived, wait)?;
        let told = arrived.disputed.iter().map(|key| {
            let subject = notification::Subject {
                connection: &connection.name,
                map_id: map.id,
                relation: &map.relation,
                shard_key: &key.shard_key,
                record_key: &key.record_key,
                write_id: None,
                correlation_id: None,
            };
            notification::payload("conflict", &subject, None)
        });
        notify::notify(client, told.collect())?;
        if let Some(reason) = &arrived.trouble {
            map_state::did(client, map.id, 0, false, Some(reason))?;
            if arrived.unmappable >= STOP_AFTER && arrived.unmappable == records.len() {
                let reason = format!("every record fails: {reason}");
                map_state::stop(client, map.id, &reason)?;
            }
        }
        failpoint::reach("ingest::before_commit");
        Ok(true)
    })
}

/// The request to read a record by itself that brought it, if that was it.
fn reread_of(looking: &Looking, record: &Incoming) -> Reread {
    let asked = match &looking.what {
        What::Records(records) => records.iter().find(|r| r.crm_id == record.crm_id),
        What::Page { .. } => None,
    };
    asked.cloned().unwrap_or_else(|| Reread {
        crm_id: record.crm_id.clone(),
        revision: 0,
        attempts: 0,
        merged_into: None,
    })
}

/// Whether what was asked for is what the map maps now.
fn asks_for_the_same(now: &Map, then: &Map) -> bool {
    let fields = |map: &Map| -> Vec<_> {
        let fields = map.fields.iter();
        fields.map(|f| (f.id, f.field.clone())).collect()
    };
    !now.in_error
        && now.crm_object == then.crm_object
        && now.external_id_field == then.external_id_field
        && fields(now) == fields(then)
}

/// Notes what is to be read by itself, and what has been.
fn ask_again(
    client: &mut pgrx::spi::SpiClient,
    map: &Map,
    what: &What,
    came: &[Incoming],
    arrived: &Arrived,
    wait: Duration,
) -> Result<(), StoreError> {
    let look: Vec<(&str, Option<&str>)> =
        arrived.look.iter().map(|id| (id.as_str(), None)).collect();
    if let What::Records(records) = what {
        let again: HashSet<&str> = arrived.again.iter().map(|(id, _)| id.as_str()).collect();
        let came: HashSet<&str> = came.iter().map(|r| r.crm_id.as_str()).collect();
        let (not_yet, read): (Vec<&Reread>, Vec<&Reread>) = records
            .iter()
            .filter(|r| came.contains(r.crm_id.as_str()))
            .partition(|r| again.contains(r.crm_id.as_str()));
        refetch::reread(client, map.id, &read)?;
        refetch::not_yet(client, map.id, &not_yet)?;
    } else {
        let again: Vec<(&str, Option<&str>)> = arrived
            .again
            .iter()
            .map(|(id, into)| (id.as_str(), into.as_deref()))
            .collect();
        refetch::ask(client, map.id, &again, wait.as_millis() as i64)?;
    }
    refetch::ask(client, map.id, &look, 0)
}
