//! Ingestion: looks for changes in the CRMs, page by page, and reads by itself what a page could not settle.
//!
//! Of a map, one page and one read are on their way at once. The next page is asked for before the last one is settled;
//! should that one come to nothing, so does the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use crm_provider::record::Field;
use crm_provider::{ChangesQuery, ReadBatch};
use pgrx::prelude::*;
use serde_json::Value as Json;

use super::event::Event;
use super::flush::stands_still;
use super::link::{Lane, SharedLink};
use super::main_loop::{HELD_AGAIN, Worker};
use super::{events, failpoint, incoming, real_time, report};
use crate::store::config::{self, Connection, Map};
use crate::store::ingest::state::{self, Reread, State};
use crate::store::ingest::{self, Arrived, Arriving, Incoming};
use crate::store::{StoreError, claims, pending, rounds, transaction, webhooks};

/// Records of a page, unless the vendor takes fewer: what one transaction settles.
const PAGE: usize = 2000;
/// How soon a look that failed for reasons of its own is repeated, at first.
const AGAIN: Duration = Duration::from_secs(5);
/// A map stops when a page of at least so many records cannot be mapped, none of them.
const STOP_AFTER: usize = 5;

/// A page or a read on its way.
pub(super) struct Looking {
    map: Arc<Map>,
    connection: Connection,
    /// See [`state::moment`].
    asked: String,
    what: What,
}

enum What {
    Page { since: Option<Json> },
    Records(Vec<Reread>),
}

/// What came back.
pub struct Came {
    pub records: Vec<Incoming>,
    /// Of a page: where to go on, and whether at once.
    pub next: Option<(Json, bool)>,
    /// How many records the CRM has, if that was asked.
    pub total: Option<u64>,
}

/// What a map's looks for changes need to remember.
#[derive(Default)]
pub(super) struct Looks {
    /// Passes through a CRM's changes that were begun, and the last one that came to its end.
    begun: u64,
    ended: u64,
    /// In a row.
    failures: u32,
    /// Records of a page at most, once an answer was too long.
    page: Option<usize>,
}

impl Looks {
    /// The number of the next pass that begins.
    pub fn next_pass(&self) -> u64 {
        self.begun + 1
    }

    pub fn has_ended(&self, pass: u64) -> bool {
        self.ended >= pass
    }

    fn is_on(&self) -> bool {
        self.begun > self.ended
    }
}

impl Worker {
    /// Asks for what is due; returns when something will be due next.
    pub(super) fn ingest(
        &mut self,
        connections: &[Connection],
        maps: &[Arc<Map>],
    ) -> Result<Duration, StoreError> {
        let mut next = Duration::from_secs(3600);
        let mut states = transaction(state::all)?;
        if states.iter().any(|s| s.has_mail) {
            for connection in connections {
                if self.take_webhooks(connection, maps)? {
                    next = Duration::ZERO;
                }
            }
            states = transaction(state::all)?;
        }
        self.looks.retain(|id, _| maps.iter().any(|m| m.id == *id));
        for map in maps.iter().filter(|m| !m.fields.is_empty()) {
            let Some(at) = states.iter().find(|s| s.map_id == map.id) else {
                continue;
            };
            let Some(connection) = connections.iter().find(|c| c.id == map.connection_id) else {
                continue;
            };
            let Some(link) = self.links.get(&connection.id).cloned() else {
                continue;
            };
            if stands_still(map, connections) {
                continue;
            }
            if connection.blocked_ms > 0 {
                next = next.min(Duration::from_millis(connection.blocked_ms as u64 + 1));
                continue;
            }
            next = next.min(self.look(connection, map, &link, at)?);
        }
        Ok(next)
    }

    /// Has the records read that webhooks spoke of, each once; `true`: there are more.
    fn take_webhooks(
        &self,
        connection: &Connection,
        maps: &[Arc<Map>],
    ) -> Result<bool, StoreError> {
        let Some(provider) = crm_provider::provider(&connection.provider) else {
            return Ok(false);
        };
        transaction(|client| {
            let events = webhooks::waiting(client, connection.id)?;
            if events.is_empty() {
                return Ok(false);
            }
            for map in maps.iter().filter(|m| m.connection_id == connection.id) {
                let about =
                    |e: &&webhooks::Waiting| provider.same_object(&e.crm_object, &map.crm_object);
                let events = events.iter().filter(about);
                let ids: Vec<(String, Option<&str>)> = events
                    .map(|e| (provider.record_id(&e.crm_id), None))
                    .collect();
                let ids: Vec<(&str, Option<&str>)> =
                    ids.iter().map(|(id, into)| (id.as_str(), *into)).collect();
                state::ask(client, map.id, &ids, 0)?;
            }
            webhooks::done(client, connection.id, &events)?;
            failpoint::reach("webhooks::before_commit");
            Ok(events.len() == webhooks::TAKEN_AT_ONCE)
        })
    }

    /// Asks for a map's next page and for records by themselves, if they are due.
    fn look(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        link: &SharedLink,
        at: &State,
    ) -> Result<Duration, StoreError> {
        let mut next = Duration::from_secs(3600);
        let after = |ms: i64| Duration::from_millis(ms.max(0) as u64 + 1);
        let (mut pages, mut reads) = (false, false);
        for looking in self.looking.values().filter(|l| l.map.id == map.id) {
            match looking.what {
                What::Page { .. } => pages = true,
                What::Records(_) => reads = true,
            }
        }
        if !pages {
            let looks = self.looks.entry(map.id).or_default();
            let wanted = self.ingest_waiters.iter().any(|w| w.wants(map.id, looks));
            let rests = looks.failures > 0 && at.next_ms > 0;
            if at.next_ms <= 0 || at.backfills || wanted && !rests || looks.is_on() && !rests {
                self.ask_page(connection, map, link, None)?;
            } else {
                next = next.min(after(at.next_ms));
            }
        }
        if let Some(ms) = at.reread_ms
            && !reads
        {
            if ms <= 0 {
                if !self.ask_records(connection, map, link)? {
                    next = next.min(HELD_AGAIN);
                }
            } else {
                next = next.min(after(ms));
            }
        }
        Ok(next)
    }

    /// Asks for the page after that cursor; `None`: after the one that the map stands at.
    fn ask_page(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        link: &SharedLink,
        since: Option<Json>,
    ) -> Result<(), StoreError> {
        let begins = since.is_none();
        let asked = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            let since = match since {
                Some(since) => Some(since),
                None => state::cursor(client, map.id)?,
            };
            Ok(Some((since, state::moment(client)?)))
        })?;
        let Some((since, asked)) = asked else {
            return Ok(());
        };
        let looks = self.looks.entry(map.id).or_default();
        if begins && !looks.is_on() {
            looks.begun += 1;
        }
        let query = Arc::new(ChangesQuery {
            object: map.crm_object.clone(),
            fields: map.fields.iter().map(|f| f.field.clone()).collect(),
            external_id_field: map.external_id_field.clone(),
            since: since.clone(),
            limit: looks.page.unwrap_or(PAGE),
        });
        let counts = query.since.is_none();
        let ticket = self.send_look(connection, map, asked, What::Page { since });
        failpoint::reach("ingest::before_request");
        let (link, map, outbox) = (link.clone(), map.clone(), self.outbox.clone());
        self.runtime.spawn(async move {
            let mut total = None;
            if counts && let Some(count) = link.provider.count(&link.settings, &map.crm_object) {
                // For those who watch; the page will tell what is the matter, if something is.
                total = link.run(Lane::Batch, count).await.ok();
            }
            let page = link
                .run(Lane::Batch, link.provider.changes(&link.settings, query))
                .await;
            let came = page.map(|page| Came {
                records: page
                    .changes
                    .into_iter()
                    .map(|change| incoming::changed(&link, &map, change))
                    .collect(),
                next: Some((page.next, page.more)),
                total,
            });
            let trouble = link.take_trouble();
            outbox.send(Event::Came {
                ticket,
                came,
                trouble,
            });
        });
        Ok(())
    }

    /// Reads records by themselves; `false`: none could be asked for.
    fn ask_records(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        link: &SharedLink,
    ) -> Result<bool, StoreError> {
        let limit = link.provider.read_size(&map.crm_object).clamp(1, PAGE);
        let asked = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            let due = state::due(client, map.id, limit)?;
            Ok(Some((due, state::moment(client)?)))
        })?;
        let Some((due, asked)) = asked.filter(|(due, _)| !due.is_empty()) else {
            return Ok(false);
        };
        let mut fields: Vec<Arc<Field>> = map.fields.iter().map(|f| f.field.clone()).collect();
        if let Some(name) = &map.external_id_field
            && !fields.iter().any(|f| f.name == *name)
        {
            fields.push(Arc::new(Field {
                name: name.clone(),
                data_type: crm_domain::DataType::Text,
            }));
        }
        let batch = Arc::new(ReadBatch {
            object: map.crm_object.clone(),
            ids: due.iter().map(|r| r.crm_id.clone()).collect(),
            fields,
            for_write: false,
        });
        let ticket = self.send_look(connection, map, asked, What::Records(due.clone()));
        let (link, map, outbox) = (link.clone(), map.clone(), self.outbox.clone());
        self.runtime.spawn(async move {
            let read = link
                .run(Lane::Batch, link.provider.read(&link.settings, batch))
                .await;
            let came = read.map(|objects| Came {
                records: due
                    .iter()
                    .zip(objects)
                    .map(|(r, object)| {
                        let into = r.merged_into.as_deref();
                        incoming::read(&link, &map, &r.crm_id, into, object)
                    })
                    .collect(),
                next: None,
                total: None,
            });
            let trouble = link.take_trouble();
            outbox.send(Event::Came {
                ticket,
                came,
                trouble,
            });
        });
        Ok(true)
    }

    fn send_look(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        asked: String,
        what: What,
    ) -> u64 {
        self.tickets += 1;
        let looking = Looking {
            map: map.clone(),
            connection: connection.clone(),
            asked,
            what,
        };
        self.looking.insert(self.tickets, looking);
        self.tickets
    }

    /// Settles what came back.
    pub(super) fn came(
        &mut self,
        ticket: u64,
        came: Result<Came, Failure>,
        trouble: Option<Failure>,
    ) {
        let Some(looking) = self.looking.remove(&ticket) else {
            return;
        };
        failpoint::reach("ingest::after_request");
        let refused = came.as_ref().err();
        let trouble = trouble.or_else(|| refused.filter(|f| f.scope == Scope::Connection).cloned());
        if let Some(known) = self
            .connections
            .iter_mut()
            .find(|c| c.id == looking.connection.id)
        {
            real_time::note_health(known, trouble.as_ref());
        }
        let map = looking.map.clone();
        let result = match came {
            Ok(came) => self.settle_look(looking, came),
            Err(failure) => self.look_failed(looking, &failure),
        };
        if let Err(error) = result
            && !error.is_undefined()
        {
            log!("pg_crm cannot take in changes of {}: {error}", map.relation);
            let reason = format!("cannot take in changes: {}", error.message());
            let result = transaction(|client| {
                rounds::did(client, map.id, 0, false, Some(&reason))?;
                state::postpone(client, map.id, AGAIN.as_millis() as i64)
            });
            if let Err(error) = result {
                log!("pg_crm cannot postpone a look at {}: {error}", map.relation);
            }
            self.looks.entry(map.id).or_default().failures += 1;
        }
    }

    fn settle_look(&mut self, looking: Looking, came: Came) -> Result<(), StoreError> {
        let Looking {
            map,
            connection,
            asked,
            what,
        } = looking;
        report(&format!(
            "taking in {} records of {}",
            came.records.len(),
            map.relation
        ));
        if let Some((next, true)) = &came.next
            && let Some(link) = self.links.get(&connection.id).cloned()
        {
            self.ask_page(&connection, &map, &link, Some(next.clone()))?;
        }
        let busy = self.busy(map.id);
        let taken = transaction(|client| {
            let Some(current) = config::maps(client)?.into_iter().find(|m| m.id == map.id) else {
                return Ok(None);
            };
            config::hold(client, map.id)?;
            if !asks_for_the_same(&current, &map) {
                return Ok(None);
            }
            if let (What::Page { since }, Some((next, more))) = (&what, &came.next)
                && !state::advance(
                    client,
                    map.id,
                    since.as_ref(),
                    next,
                    *more,
                    came.records.len(),
                )?
            {
                return Ok(None);
            }
            if let Some(total) = came.total {
                state::note_total(client, map.id, total)?;
            }
            let about = Arriving {
                connection: &connection,
                map: &current,
                asked: &asked,
                busy: &busy,
            };
            // A row that cannot be changed because somebody holds what it refers to keeps nobody waiting.
            client.update("SET LOCAL lock_timeout = '50ms'", None, &[])?;
            let arrived = ingest::settle(client, &about, &came.records)?;
            ask_again(client, &map, &what, &arrived)?;
            let told = arrived.disputed.iter().map(|key| {
                let subject = events::Subject {
                    connection: &connection.name,
                    map_id: map.id,
                    relation: &map.relation,
                    shard_key: &key.shard_key,
                    record_key: &key.record_key,
                    write_id: None,
                    correlation_id: None,
                };
                events::payload("conflict", &subject, None)
            });
            pending::notify(client, told.collect())?;
            if let Some(reason) = &arrived.quarantined {
                rounds::did(client, map.id, 0, false, Some(reason))?;
                if arrived.unmappable >= STOP_AFTER && arrived.unmappable == came.records.len() {
                    let reason = format!("every record fails: {reason}; mend the mapping");
                    rounds::stop(client, map.id, &reason)?;
                }
            }
            failpoint::reach("ingest::before_commit");
            Ok(Some(arrived))
        })?;
        failpoint::reach("ingest::after_commit");
        let bytes = self.settings.batch_bytes;
        let looks = self.looks.entry(map.id).or_default();
        if taken.is_some() {
            looks.failures = 0;
            if came.next.is_some() && !came.records.is_empty() {
                // As many as the bound on bytes allows, by what these were.
                let values = came.records.iter().filter_map(|r| r.values.as_ref().ok());
                let size: usize = values.flatten().map(|f| f.value.size() + 16).sum();
                let fit = bytes / (size / came.records.len()).max(1);
                looks.page = Some(fit.clamp(1, PAGE));
            }
            if matches!(came.next, Some((_, false))) {
                looks.ended = looks.begun;
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
        looks.failures += 1;
        let wait = AGAIN * 2u32.saturating_pow(looks.failures.min(7) - 1);
        let wait_ms = wait.as_millis() as i64;
        let too_long = failure.code == "response_too_long";
        if matches!(looking.what, What::Page { .. }) && failure.class == ErrorClass::Mapping {
            // It waits for a person from now on, who is not kept waiting.
            looks.failures = 0;
        }
        let max_attempts = self.settings.max_attempts;
        if let (What::Page { .. }, true) = (&looking.what, too_long) {
            looks.page = Some((looks.page.unwrap_or(PAGE) / 2).max(1));
        }
        let reason = format!("cannot look for changes: {failure}");
        transaction(|client| {
            rounds::did(client, map.id, 0, false, Some(&reason))?;
            match &looking.what {
                What::Page { .. } if too_long => Ok(()),
                What::Page { .. } if failure.code == "unreadable_cursor" => {
                    state::begin_anew(client, map.id)
                }
                What::Page { .. } if failure.class == ErrorClass::Mapping => {
                    rounds::stop(client, map.id, &format!("{reason}; mend the mapping"))
                }
                What::Page { .. } => state::postpone(client, map.id, wait_ms),
                What::Records(records) => {
                    let (worn, others): (Vec<&Reread>, Vec<&Reread>) = records
                        .iter()
                        .partition(|r| records.len() == 1 && r.attempts + 1 >= max_attempts);
                    state::failed(client, map.id, &others, wait_ms)?;
                    for record in worn {
                        ingest::give_up(client, &looking.connection, map, record, failure)?;
                    }
                    Ok(())
                }
            }
        })
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
    arrived: &Arrived,
) -> Result<(), StoreError> {
    let look: Vec<(&str, Option<&str>)> =
        arrived.look.iter().map(|id| (id.as_str(), None)).collect();
    if let What::Records(records) = what {
        let again: HashSet<&str> = arrived.again.iter().map(|(id, _)| id.as_str()).collect();
        let (not_yet, read): (Vec<&Reread>, Vec<&Reread>) = records
            .iter()
            .partition(|r| again.contains(r.crm_id.as_str()));
        state::reread(client, map.id, &read)?;
        state::not_yet(client, map.id, &not_yet)?;
    } else {
        let again: Vec<(&str, Option<&str>)> = arrived
            .again
            .iter()
            .map(|(id, into)| (id.as_str(), into.as_deref()))
            .collect();
        state::ask(client, map.id, &again, HELD_AGAIN.as_millis() as i64)?;
    }
    state::ask(client, map.id, &look, 0)
}
