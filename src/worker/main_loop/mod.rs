//! The worker's main thread: it alone touches Postgres, in short transactions, and never waits for a CRM.
//!
//! A turn: take what the threads brought and settle it ([`crate::worker::write_back::settle`]); fold and send what is due
//! ([`crate::worker::write_back`]); answer those who wait. Then sleep until the next due time, a commit, an event or a signal.

pub mod event;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use self::event::Event;
use crate::failpoint;
use crate::settings::Settings;
use crate::shared::{Slot, State};
use crate::store::config::{Connection, Map};
use crate::store::record::former_links;
use crate::store::rights;
use crate::store::write_back::claims;
use crate::store::write_back::outcome::Settled;
use crate::store::{self, StoreError, audit, config, transaction};
use crate::worker::calls::Calls;
use crate::worker::connections::Connections;
use crate::worker::connections::describe::DescribeRequest;
use crate::worker::connections::readiness::Readiness;
use crate::worker::connections::test::TestRequest;
use crate::worker::context::Context;
use crate::worker::in_flight::RecordsInFlight;
use crate::worker::ingest::Ingest;
use crate::worker::ingest::waiters::IngestWaiter;
use crate::worker::mailbox::{self, Inbox, Sender};
use crate::worker::process::{self, reload_if_requested, report};
use crate::worker::reconciler::{self, Reconciler};
use crate::worker::schedule::IDLE;
use crate::worker::session::{set_up_session, start_threads};
use crate::worker::socket;
use crate::worker::socket::protocol::Request;
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::table_follower::TableFollower;
use crate::worker::waiters::{Flush, Waiter};
use crate::worker::webhooks::Webhooks;
use crate::worker::write_back::Flight;
use crate::worker::{recapture, write_back};

/// How soon to look whether callers' transactions came to nothing of which no wake-up told, such as prepared ones.
const INTENTS_AGAIN: Duration = Duration::from_secs(10);
const MAINTENANCE: Duration = Duration::from_secs(1200);

pub struct Worker {
    pub slot: &'static Slot,
    pub runtime: tokio::runtime::Runtime,
    pub cx: Context,
    pub mailbox: Sender<Event>,
    pub inbox: Inbox<Event>,
    pub flights: HashMap<i64, Flight>,
    /// Results whose ledger rows somebody holds.
    pub held: Vec<(Arc<Map>, Arc<Connection>, Vec<Settled>)>,
    pub reconciler: Reconciler,
    pub calls: Calls,
    /// Changes that the last fold took; 0: nothing more can be had now.
    pub folded: usize,
    pub flushes: Vec<Flush>,
    pub ingest: Ingest,
    pub webhooks: Webhooks,
    /// Maps whose round is on.
    pub rounds: HashSet<i32>,
    /// Records that are read at once of maps in which a slice could not be read.
    pub narrowed: HashMap<i32, usize>,
    pub narrowed_fold: Option<usize>,
    pub urgent: bool,
    /// See [`store::fold`].
    pub wary: u32,
    /// Maps whose edits are to go at once, but could not yet.
    pub due_at_once: HashSet<i32>,
    pub table_follower: TableFollower,
    maps_known: usize,
}

pub fn run(slot: &'static Slot, database: pg_sys::Oid) {
    if !store::rights::take_session() {
        failpoint::reach("start::absent");
        slot.set_state(State::Absent);
        return;
    }
    set_up_session();
    let (mailbox, inbox) =
        mailbox::channel().unwrap_or_else(|e| error!("pg_crm cannot make an eventfd: {e}"));
    let runtime = start_threads();
    match socket::bind(database) {
        Ok(listener) => {
            runtime.spawn(socket::listen(listener, mailbox.wrap(Event::Socket)));
        }
        Err(e) => error!(
            "pg_crm cannot open its socket {}: {e}",
            socket::path(database).display()
        ),
    }
    let mut worker = Worker {
        slot,
        cx: Context::new(
            runtime.handle().clone(),
            Connections::new(mailbox.wrap(Event::Link)),
        ),
        runtime,
        mailbox: mailbox.clone(),
        inbox,
        flights: HashMap::new(),
        held: Vec::new(),
        reconciler: Reconciler::new(mailbox.wrap(Event::Reconciler)),
        calls: Calls::new(mailbox.wrap(Event::Calls)),
        folded: 0,
        flushes: Vec::new(),
        ingest: Ingest::new(mailbox.wrap(Event::Ingest)),
        webhooks: Webhooks::new(mailbox.wrap(Event::Webhooks)),
        rounds: HashSet::new(),
        narrowed: HashMap::new(),
        narrowed_fold: None,
        // Nobody wakes us again for what was committed while there was no worker.
        urgent: true,
        due_at_once: HashSet::new(),
        wary: 0,
        table_follower: TableFollower::default(),
        maps_known: 0,
    };
    match transaction(claims::release_abandoned) {
        Ok(0) => {}
        Ok(n) => log!("pg_crm released {n} records that an earlier worker had on their way"),
        // Dropped again already; the first turn notices.
        Err(e) if e.is_undefined() => {}
        Err(e) => log!("pg_crm could not release abandoned claims: {e}"),
    }
    worker.work();
    worker.runtime.shutdown_background();
}

impl Worker {
    /// Turns until the extension is dropped; everything else ends the process.
    fn work(&mut self) {
        let mut due = Instant::now();
        loop {
            pgrx::check_for_interrupts!();
            if reload_if_requested() {
                self.cx.connections.reconfigure();
            }
            self.cx.settings = Settings::current();
            self.webhooks.listen(&self.cx.settings, &self.cx.runtime);
            failpoint::tell_threads();
            let woken = self.slot.take_wake();
            self.urgent |= woken.urgently;
            let events = self.inbox.drain();
            // A wake without an event is somebody's latch: an extension dropped, a setting changed.
            let mut whole = woken.at_all || events.is_empty() || Instant::now() >= due;
            for event in events {
                whole |= !event.is_of_a_call();
                self.handle(event);
            }
            whole |= self.webhooks.receive();
            // Callers wait: what they need is known from the last turn, unless they speak of a new connection, or of one
            // that was paused meanwhile.
            if !woken.by_a_change && !self.calls.needs_link(&self.cx.connections) {
                self.calls.turn(&mut self.cx);
            } else {
                whole = true;
            }
            if self.calls.take_answered() {
                due = due.min(Instant::now() + INTENTS_AGAIN);
            }
            if !whole {
                report("");
                let rest = due.saturating_duration_since(Instant::now());
                process::wait_latch_or_readable(self.inbox.fd(), rest.min(self.calls.pause()));
                continue;
            }
            let next = match self.turn() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => self.cx.backoff.failed(Owner::Worker, Step::Turn, &error),
            };
            self.slot.set_trouble(self.cx.backoff.worker_error());
            for flush in self.flushes.extract_if(.., |f| f.is_over()) {
                flush.answer(false);
            }
            self.ingest.expire_waiters();
            report("");
            due = Instant::now() + next;
            process::wait_latch_or_readable(self.inbox.fd(), next.min(self.calls.pause()));
        }
    }

    /// One turn; returns how long to sleep, or `None` when the extension is gone.
    fn turn(&mut self) -> Result<Option<Duration>, StoreError> {
        let follows = self.table_follower.turn(&mut self.cx);
        let read = transaction(|client| {
            if !rights::extension_exists() {
                return Ok(None);
            }
            Ok(Some((config::connections(client)?, config::maps(client)?)))
        });
        let (connections, maps) = match read {
            Ok(Some(read)) => read,
            Ok(None) => {
                self.slot.set_state(State::Absent);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if self.maps_known != maps.len() {
            // The first map brings the audit's partitions with it.
            self.maps_known = maps.len();
            self.cx.maintenance_at = Instant::now();
        }
        self.cx.backoff.succeeded(Owner::Worker, Step::Turn);
        self.cx.backoff.keep(|of| match of {
            Owner::Map(id) => maps.iter().any(|m| m.id == id),
            Owner::Connection(id) => connections.iter().any(|c| c.id == id),
            Owner::Worker => true,
        });
        self.narrowed
            .retain(|id, _| maps.iter().any(|m| m.id == *id));
        self.cx.connections.set_known(connections);
        self.cx.maps = maps.clone().into();
        self.settle_held();
        self.reconciler.retry_unrecorded(&mut self.cx);
        self.maintain();
        let Context {
            connections,
            settings,
            backoff,
            runtime,
            ..
        } = &mut self.cx;
        let mut next = follows.min(connections.connect(settings, backoff));
        connections.serve_requests(runtime);
        self.calls.turn(&mut self.cx);
        let (held, reconciler) = (&self.held, &self.reconciler);
        next = next.min(recapture::turn(&mut self.cx, |map_id| {
            let batches = held.iter().filter(|(m, _, _)| m.id == map_id);
            let batches = batches.flat_map(|(_, _, settled)| settled);
            let batches = batches.map(|s| (s.shard_key.as_str(), s.record_key.as_str()));
            batches.chain(reconciler.unrecorded(map_id)).collect()
        }));
        next = next.min(self.write_back(&maps));
        if self.folded == 0 {
            let in_flight = self.calls.in_flight_ids();
            next = next.min(reconciler::adopt_orphans(&mut self.cx, in_flight));
        }
        let (flights, ingest) = (&self.flights, &self.ingest);
        let is_in_use = |id| flights.values().any(|f| f.connection.id == id) || ingest.uses(id);
        next = next.min(self.reconciler.turn(&mut self.cx, &is_in_use));
        let (flights, held) = (&self.flights, &self.held);
        let reconciler = &self.reconciler;
        let in_flight = |map_id| in_flight(map_id, flights, held, reconciler);
        let is_in_use = |id| flights.values().any(|f| f.connection.id == id) || reconciler.uses(id);
        next = next.min(self.ingest.turn(&mut self.cx, &in_flight, &is_in_use));
        // After what is due was sent: nothing waits for this but those who ask.
        next = next.min(self.confined(Owner::Worker, Step::Budgets, |worker| {
            worker.cx.connections.store_budgets().map(|()| IDLE)
        }));
        self.answer_flushes(&maps);
        next = next.min(self.ingest.answer_waiters(&mut self.cx));
        let waits = self.flushes.iter().map(|f| f.time_left()).min();
        Ok(Some(next.min(waits.unwrap_or(next))))
    }

    /// Does one part of a turn; its trouble is its own. Returns when it wants to be done again.
    pub fn confined(
        &mut self,
        owner: Owner,
        step: Step,
        work: impl FnOnce(&mut Self) -> Result<Duration, StoreError>,
    ) -> Duration {
        if let Some(left) = self.cx.backoff.left(owner, step) {
            return left;
        }
        match work(self) {
            Ok(next) => {
                self.cx.backoff.succeeded(owner, step);
                next
            }
            Err(error) => self.cx.backoff.failed(owner, step, &error),
        }
    }

    /// Whether work of a map can go to its CRM.
    pub fn readiness(&self, map: &Map) -> Readiness {
        self.cx.connections.readiness(map, |id| self.is_in_use(id))
    }

    /// Whether requests of a connection are in flight.
    fn is_in_use(&self, connection_id: i32) -> bool {
        self.flights
            .values()
            .any(|f| f.connection.id == connection_id)
            || self.reconciler.uses(connection_id)
            || self.ingest.uses(connection_id)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::WriteBack(write_back::Message::Sent {
                claim_id,
                sent,
                outage,
            }) => self.on_sent(claim_id, sent, outage),
            Event::Calls(message) => self.calls.on_message(message),
            Event::Reconciler(message) => self.reconciler.on_message(&mut self.cx, message),
            Event::Ingest(message) => {
                let (flights, held) = (&self.flights, &self.held);
                let reconciler = &self.reconciler;
                let in_flight = |map_id| in_flight(map_id, flights, held, reconciler);
                self.ingest.on_message(&mut self.cx, message, &in_flight);
            }
            Event::Link(message) => self.cx.connections.on_message(message),
            Event::Webhooks(message) => self.webhooks.on_message(&self.cx, message),
            Event::Socket(socket::Message { request, reply }) => match request {
                Request::Flush(wait) => self.flushes.push(Flush(Waiter::new(wait, reply))),
                Request::Ingest(wait) => {
                    let waiter = Waiter::new(wait, reply);
                    self.ingest.add_waiter(IngestWaiter::new(waiter, false));
                }
                Request::Backfill(wait) => {
                    let waiter = Waiter::new(wait, reply);
                    self.ingest.add_waiter(IngestWaiter::new(waiter, true));
                }
                Request::Write(intent) => self.calls.write(intent, reply),
                Request::Read(question) => self.calls.read(question, reply),
                Request::Describe(inquiry) => {
                    self.cx
                        .connections
                        .describe(DescribeRequest { inquiry, reply });
                }
                Request::Test(test) => self.cx.connections.test(TestRequest {
                    connection_id: test.connection_id,
                    reply,
                }),
            },
        }
    }

    fn maintain(&mut self) {
        if Instant::now() < self.cx.maintenance_at {
            return;
        }
        self.cx.maintenance_at = Instant::now() + MAINTENANCE;
        self.webhooks.prune();
        let retention = self.cx.settings.audit_retention_minutes;
        let flying = self.flights.keys().copied().chain(self.reconciler.claims());
        let flying: Vec<i64> = flying.collect();
        let result = transaction(|client| {
            claims::renew(client, &flying)?;
            let lost = claims::release_lost(client, &flying)?;
            if lost > 0 {
                log!("pg_crm released {lost} records that nobody had on their way any more");
            }
            former_links::prune_former(client)?;
            audit::maintain(client, retention)
        });
        match result {
            Ok(()) => self.cx.backoff.succeeded(Owner::Worker, Step::Maintain),
            Err(error) => {
                // Somebody may hold the audit: soon again.
                self.cx
                    .backoff
                    .failed(Owner::Worker, Step::Maintain, &error);
                self.cx.maintenance_at = Instant::now() + Duration::from_secs(60);
            }
        }
    }
}

/// CRM records and keys of a map to which something of ours is in flight.
fn in_flight(
    map_id: i32,
    flights: &HashMap<i64, Flight>,
    held: &[(Arc<Map>, Arc<Connection>, Vec<Settled>)],
    reconciler: &Reconciler,
) -> RecordsInFlight {
    let mut found = RecordsInFlight::default();
    for flight in flights.values().filter(|f| f.map.id == map_id) {
        for record in flight.records.iter().map(|r| r.claimed()) {
            found.add(&record.shard_key, &record.record_key);
            found.crm_ids.extend(record.crm_id.clone());
        }
    }
    for (_, _, settled) in held.iter().filter(|(m, _, _)| m.id == map_id) {
        settled
            .iter()
            .for_each(|s| found.add(&s.shard_key, &s.record_key));
    }
    reconciler.add_in_flight(map_id, &mut found);
    found
}
