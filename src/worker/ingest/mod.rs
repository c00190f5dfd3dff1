//! Ingestion: CRMs are polled for changes, page by page, and records that a page could not settle
//! are read by themselves.
//!
//! Of a map, one page and one read are in flight at once. The next page is requested before the
//! last one is applied; if that one fails, the next one is dropped.

pub mod apply;
pub mod canonical;
pub mod fuse;
pub mod message;
pub mod passes;
pub mod polls;
pub mod request;
pub mod waiters;
pub mod webhook_events;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::failure::Scope;
use crm_domain::stop_rule::TRIAL;
use crm_domain::{ErrorClass, Failure};
use pgrx::prelude::*;

use self::apply::{Applied, Last, OTHERS_SHARE, Part, apply, apply_in_parts};
use self::message::InFlight;
use self::passes::PollPasses;
use self::polls::Polls;
use self::request::{PollRequest, PollResult, Source};
use self::waiters::{IngestWaiter, IngestWaiters};
use crate::failpoint;
use crate::store::config::Connection;
use crate::store::ingest::state::{self, State};
use crate::store::{StoreError, transaction};
use crate::worker::connections::readiness::Readiness;
use crate::worker::context::{Between, Context};
use crate::worker::mailbox::Sender;
use crate::worker::process::report;
use crate::worker::schedule::{IDLE, LOCKED_RETRY};
use crate::worker::step_backoff::{Owner, Step};

/// Delay before a poll that failed for reasons of its own is repeated, at first.
const RETRY: Duration = Duration::from_secs(5);

pub use self::message::Message;

pub struct Ingest {
    polls: Polls,
    /// By map.
    passes: HashMap<i32, PollPasses>,
    waiters: IngestWaiters,
}

impl Ingest {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Ingest {
            polls: Polls::new(mailbox),
            passes: HashMap::new(),
            waiters: IngestWaiters::default(),
        }
    }

    pub fn add_waiter(&mut self, waiter: IngestWaiter) {
        self.waiters.add(waiter);
    }

    /// Whether requests of a connection are in flight.
    pub fn uses(&self, connection_id: i32) -> bool {
        self.polls.uses(connection_id)
    }

    /// Requests what is due; returns when something will be due next. `is_in_use`: whether others
    /// have requests of a connection in flight.
    pub fn turn(
        &mut self,
        cx: &mut Context,
        in_flight: InFlight,
        is_in_use: &dyn Fn(i32) -> bool,
    ) -> Duration {
        let maps = cx.maps.clone();
        let (waiters, passes) = (&mut self.waiters, &mut self.passes);
        let mut next = cx.backoff.attempt(Owner::Worker, Step::Ingests, || {
            waiters.begin(&maps, passes).map(|()| IDLE)
        });
        let mut states = read_states(cx, &mut next);
        if states.iter().any(|s| s.has_mail) {
            next = next.min(queue_webhooks(cx));
            states = read_states(cx, &mut next);
        }
        self.passes.retain(|id, _| maps.iter().any(|m| m.id == *id));
        for map in maps
            .iter()
            .filter(|m| !m.fields.is_empty() && !m.is_inbound_held)
        {
            let Some(at) = states.iter().find(|s| s.map_id == map.id) else {
                continue;
            };
            let in_use = |id| is_in_use(id) || self.uses(id);
            let (connection, link) = match cx.connections.readiness(map, in_use) {
                Readiness::Ready(connection, link) => (connection, link),
                Readiness::Blocked(wait) => {
                    next = next.min(wait);
                    continue;
                }
                Readiness::Stopped => continue,
            };
            let source = Source {
                map: map.clone(),
                connection,
                link,
            };
            let left = cx.backoff.left(Owner::Map(map.id), Step::Poll);
            next = next.min(match left {
                Some(left) => left,
                // The step succeeds when the response is applied.
                None => match self.poll(cx, &source, at, in_flight) {
                    Ok(wait) => wait,
                    Err(error) => {
                        cx.backoff
                            .map_failed(map, Step::Poll, &error, "cannot poll for changes of")
                    }
                },
            });
        }
        next
    }

    /// Requests a map's next page and records by themselves, if they are due.
    fn poll(
        &mut self,
        cx: &Context,
        source: &Source,
        at: &State,
        in_flight: InFlight,
    ) -> Result<Duration, StoreError> {
        let map_id = source.map.id;
        let mut next = IDLE;
        let after = |ms: i64| Duration::from_millis(ms.max(0) as u64 + 1);
        if !self.polls.has_page(map_id) {
            let passes = self.passes.entry(map_id).or_default();
            passes.reads_all(at.backfills);
            let wanted = self.waiters.want(map_id, passes);
            let rests = passes.failures > 0 && at.next_ms > 0;
            let is_due = source.map.ingests && at.next_ms <= 0;
            if is_due || at.backfills || (wanted || passes.is_open()) && !rests {
                self.polls.request_page(cx, source, passes, None)?;
            } else if source.map.ingests || rests {
                next = next.min(after(at.next_ms));
            }
        }
        if let Some(ms) = at.reread_ms
            && !self.polls.has_records(map_id)
        {
            if ms > 0 {
                next = next.min(after(ms));
            } else if !self.polls.request_records(cx, source, in_flight)? {
                next = next.min(LOCKED_RETRY);
            }
        }
        Ok(next)
    }

    /// Applies a response.
    pub fn on_message(
        &mut self,
        cx: &mut Context,
        message: Message,
        in_flight: InFlight,
        between: Between,
    ) {
        let Message::Polled {
            ticket,
            result,
            outage,
        } = message;
        let Some(poll) = self.polls.take(ticket) else {
            return;
        };
        failpoint::reach("ingest::after_request");
        let failure = result.as_ref().err();
        let outage = outage.or_else(|| failure.filter(|f| f.scope == Scope::Connection).cloned());
        let Connection { id, version, .. } = *poll.connection;
        cx.connections.note_health(id, version, outage.as_ref());
        let start = Instant::now();
        let applied = match result {
            Ok(result) => self.on_result(cx, &poll, result, in_flight, between),
            Err(failure) => self.on_failure(cx, &poll, &failure),
        };
        let map = &poll.map;
        // Unless the next page is under way. A failure to store it comes to an end with the next
        // poll.
        if poll.is_page() && !self.polls.has_page(map.id) {
            let _ = transaction(|client| state::rests(client, Some(map.id)));
        }
        let Err(error) = applied else {
            cx.backoff.succeeded(Owner::Map(map.id), Step::Poll);
            return;
        };
        if let StoreError::Held { counts, linked } = &error {
            if let Err(error) = fuse::hold(&poll, counts, *linked) {
                cx.backoff.failed(Owner::Map(map.id), Step::Poll, &error);
            }
            return;
        }
        let wait = cx
            .backoff
            .map_failed(map, Step::Poll, &error, "cannot apply changes of");
        // Others have most of the worker's time, however slow a table's own code is.
        let wait = wait.max(start.elapsed() * OTHERS_SHARE);
        if let Err(error) = apply::postpone(&poll, wait, &error) {
            cx.backoff.failed(Owner::Map(map.id), Step::Poll, &error);
        }
        self.passes.entry(map.id).or_default().failures += 1;
    }

    /// Applies what came in steps; if one fails, it and what is left in parts.
    fn on_result(
        &mut self,
        cx: &mut Context,
        poll: &PollRequest,
        mut result: PollResult,
        in_flight: InFlight,
        between: Between,
    ) -> Result<(), StoreError> {
        let map = &poll.map;
        report(&format!(
            "applying {} changes to {}",
            result.records.len(),
            map.relation
        ));
        if let Some((next, true)) = &result.next
            && let Some(link) = cx.connections.link(poll.connection.id).cloned()
        {
            let source = Source {
                map: map.clone(),
                connection: poll.connection.clone(),
                link,
            };
            let passes = self.passes.entry(map.id).or_default();
            self.polls
                .request_page(cx, &source, passes, Some(next.clone()))?;
        }
        let busy = in_flight(map.id).keys;
        let mut records = std::mem::take(&mut result.records);
        let count = records.len();
        let size = apply::size(&records);
        let owner = Owner::Map(map.id);
        // Those that are applied, and why some of them are quarantined.
        let (mut done, mut failures) = (0, Vec::new());
        // The first records that a map takes in show whether the mapping works at all. The page
        // comes again once the map goes on.
        let passes = self.passes.entry(map.id).or_default();
        if !std::mem::replace(&mut passes.is_tried, true) && poll.is_page() && count > TRIAL {
            match apply(poll, &busy, &records[..TRIAL], Part::Alone, &cx.settings) {
                Ok(Applied::Stopped) => return Ok(()),
                Ok(Applied::Done(failed)) => (done, failures) = (TRIAL, failed),
                Ok(Applied::Outdated) | Err(_) => {}
            }
        }
        let applied = loop {
            let began = Instant::now();
            let room = cx.steps.room(owner, Step::Poll, count - done);
            let (before, step) = (&records[..done], &records[done..done + room]);
            let last = Last {
                result: &result,
                count,
                before,
                failures: &failures,
            };
            let part = match done + room == count {
                true => Part::Last(&last),
                false => Part::Step,
            };
            match apply(poll, &busy, step, part, &cx.settings) {
                Ok(Applied::Done(failed)) if done + room < count => failures.extend(failed),
                Ok(applied) => break applied,
                Err(error) if error.blames_no_row() || records.is_empty() => return Err(error),
                Err(error) => {
                    log!(
                        "pg_crm applies changes of {} one by one: {error}",
                        map.relation
                    );
                    let attempts = cx.backoff.failures(owner, Step::Poll);
                    let rest = records.split_off(done);
                    apply_in_parts(poll, &busy, rest, &cx.settings, attempts)?;
                    let last = Last {
                        result: &result,
                        count,
                        before: &records,
                        failures: &[],
                    };
                    break apply(poll, &busy, &[], Part::Last(&last), &cx.settings)?;
                }
            }
            cx.steps.note(owner, Step::Poll, room, began);
            done += room;
            between(cx);
        };
        failpoint::reach("ingest::after_commit");
        let passes = self.passes.entry(map.id).or_default();
        if applied != Applied::Outdated {
            passes.failures = 0;
            if result.next.is_some() && count > 0 {
                // As many as the bound on bytes allows, by what these are.
                passes.set_page_size(cx.settings.batch_bytes / (size / count).max(1));
            }
            if matches!(result.next, Some((_, false))) {
                passes.end();
            }
        }
        Ok(())
    }

    fn on_failure(
        &mut self,
        cx: &Context,
        poll: &PollRequest,
        failure: &Failure,
    ) -> Result<(), StoreError> {
        if failure.scope == Scope::Connection {
            // The connection waits, and this with it.
            return Ok(());
        }
        let passes = self.passes.entry(poll.map.id).or_default();
        let is_first = passes.failures == 0;
        let wait = RETRY * 2u32.saturating_pow(passes.failures.min(6));
        passes.failures = match failure.class {
            // It waits for a person from now on, who is not kept waiting.
            ErrorClass::Mapping if poll.is_page() => 0,
            _ => passes.failures + 1,
        };
        if poll.is_page() && failure.code == apply::TOO_LONG {
            passes.set_page_size(passes.page_size() / 2);
        }
        apply::fail(poll, failure, wait, cx.settings.max_attempts, is_first)
    }

    /// Answers waiters whose passes are complete; returns when to look again.
    pub fn answer_waiters(&mut self, cx: &mut Context) -> Duration {
        let Context {
            maps,
            connections,
            backoff,
            ..
        } = cx;
        backoff.attempt(Owner::Worker, Step::Ingests, || {
            let left = self.waiters.answer(maps, connections, &self.passes)?;
            Ok(left.unwrap_or(IDLE))
        })
    }

    /// Answers waiters whose time is up.
    pub fn expire_waiters(&mut self) {
        self.waiters.expire();
    }
}

fn read_states(cx: &mut Context, next: &mut Duration) -> Vec<State> {
    let mut states = Vec::new();
    let wait = cx.backoff.attempt(Owner::Worker, Step::IngestState, || {
        states = transaction(state::all)?;
        Ok(IDLE)
    });
    *next = (*next).min(wait);
    states
}

/// Queues the records that webhooks named; returns when to go on.
fn queue_webhooks(cx: &mut Context) -> Duration {
    let mut next = IDLE;
    let Context {
        maps,
        connections,
        backoff,
        ..
    } = cx;
    for connection in connections.all().iter().filter(|c| !c.is_away) {
        let owner = Owner::Connection(connection.id);
        next = next.min(backoff.attempt(owner, Step::Webhooks, || {
            let more = webhook_events::queue_reads(connection, maps)?;
            Ok(if more { Duration::ZERO } else { IDLE })
        }));
    }
    next
}
