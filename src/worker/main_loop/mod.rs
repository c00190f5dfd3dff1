//! The worker's main thread: it alone touches Postgres, in short transactions, and never waits for
//! a CRM.
//!
//! A turn: settle what the threads brought; fold, claim and send what is due; answer waiting
//! backends. Then sleep until the next due time, a commit, an event or a signal. Whatever takes
//! long is done in steps, between which callers are served. The main loop alone knows all
//! components: it hands each its messages, and what they need of each other it asks of one and
//! passes to the other.

mod configuration;
pub mod event;
mod front_desk;
pub mod maintenance;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use self::event::Event;
use self::front_desk::FrontDesk;
use crate::failpoint;
use crate::settings::Settings;
use crate::shared::{Slot, State};
use crate::store::config::Map;
use crate::store::ingest::state as ingest_state;
use crate::store::write_back::claims;
use crate::store::{StoreError, rights, transaction};
use crate::worker::calls::Calls;
use crate::worker::connections::Connections;
use crate::worker::connections::describe::PendingDescribe;
use crate::worker::connections::records::PendingRecords;
use crate::worker::connections::test::PendingTest;
use crate::worker::context::{Between, Context};
use crate::worker::in_flight::RecordsInFlight;
use crate::worker::ingest::Ingest;
use crate::worker::ingest::waiters::IngestWaiter;
use crate::worker::links;
use crate::worker::mailbox::{self, Inbox, Sender};
use crate::worker::monitor::Monitor;
use crate::worker::process::{self, complain, reload_if_requested, report};
use crate::worker::reconciler::{self, Reconciler};
use crate::worker::schedule::IDLE;
use crate::worker::session::{set_up_session, start_threads};
use crate::worker::socket::protocol::Request;
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::table_follower::TableFollower;
use crate::worker::waiters::{Flushes, Waiter};
use crate::worker::webhooks::Webhooks;
use crate::worker::write_back::WriteBack;
use crate::worker::{socket, table_scans};

/// How soon to look for intents whose callers' transactions were rolled back without waking the
/// worker, such as prepared ones.
const INTENTS_AGAIN: Duration = Duration::from_secs(10);

struct MainLoop {
    slot: &'static Slot,
    desk: FrontDesk,
    cx: Context,
    write_back: WriteBack,
    reconciler: Reconciler,
    ingest: Ingest,
    webhooks: Webhooks,
    monitor: Monitor,
    table_follower: TableFollower,
    flushes: Flushes,
}

/// Works until the extension is dropped; everything else ends the process.
pub fn run(slot: &'static Slot, database: pg_sys::Oid) {
    if !rights::take_session() {
        failpoint::reach("start::absent");
        slot.set_state(State::Absent);
        return;
    }
    set_up_session();
    let (mailbox, inbox) =
        mailbox::channel().unwrap_or_else(|e| error!("pg_crm cannot make an eventfd: {e}"));
    let runtime = start_threads();
    listen(database, &mailbox, &runtime);
    let mut main_loop = MainLoop::new(slot, &mailbox, inbox, &runtime);
    let released = transaction(|client| {
        ingest_state::rests(client, None)?;
        claims::release_abandoned(client)
    });
    match released {
        Ok(0) => {}
        Ok(n) => log!("pg_crm released {n} records that an earlier worker had in flight"),
        // Dropped again already; the first turn notices.
        Err(e) if e.is_undefined() => {}
        Err(e) => complain(
            &e,
            &format!("pg_crm could not release abandoned claims: {e}"),
        ),
    }
    main_loop.work();
    runtime.shutdown_background();
}

fn listen(database: pg_sys::Oid, mailbox: &Sender<Event>, runtime: &Runtime) {
    match socket::bind(database) {
        Ok(listener) => {
            runtime.spawn(socket::listen(listener, mailbox.wrap(Event::Socket)));
        }
        Err(e) => error!(
            "pg_crm cannot open its socket {}: {e}",
            socket::path(database).display()
        ),
    }
}

impl MainLoop {
    fn new(
        slot: &'static Slot,
        mailbox: &Sender<Event>,
        inbox: Inbox<Event>,
        runtime: &Runtime,
    ) -> Self {
        let connections = Connections::new(mailbox.wrap(Event::Link));
        MainLoop {
            slot,
            desk: FrontDesk::new(slot, inbox, Calls::new(mailbox.wrap(Event::Calls))),
            cx: Context::new(runtime.handle().clone(), connections),
            write_back: WriteBack::new(mailbox.wrap(Event::WriteBack)),
            reconciler: Reconciler::new(mailbox.wrap(Event::Reconciler)),
            ingest: Ingest::new(mailbox.wrap(Event::Ingest)),
            webhooks: Webhooks::new(mailbox.wrap(Event::Webhooks)),
            monitor: Monitor::new(mailbox.wrap(Event::Monitor)),
            table_follower: TableFollower::default(),
            flushes: Flushes::default(),
        }
    }

    /// Turns until the extension is dropped.
    fn work(&mut self) {
        let mut due = Instant::now();
        self.slot.begin_turn();
        loop {
            pgrx::check_for_interrupts!();
            if reload_if_requested() {
                self.cx.connections.reconfigure();
            }
            self.cx.settings = Settings::current();
            self.webhooks.listen(&self.cx.settings, &self.cx.runtime);
            self.monitor.listen(&self.cx.settings, &self.cx.runtime);
            failpoint::tell_threads();
            let whole_turn = self.receive(Instant::now() >= due);
            if self.desk.calls.take_answered() {
                due = due.min(Instant::now() + INTENTS_AGAIN);
            }
            if !whole_turn {
                self.sleep(due.saturating_duration_since(Instant::now()));
                continue;
            }
            let next = match self.turn() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => self.cx.backoff.failed(Owner::Worker, Step::Turn, &error),
            };
            self.slot.set_trouble(self.cx.backoff.worker_error());
            self.flushes.expire();
            self.ingest.expire_waiters();
            due = Instant::now() + next;
            self.sleep(next);
        }
    }

    fn sleep(&self, time: Duration) {
        report("");
        self.slot.end_turn();
        process::wait_latch_or_readable(self.desk.fd(), time.min(self.desk.pause()));
        self.slot.begin_turn();
    }

    /// Handles the messages of the threads, and serves callers with the state of the last turn.
    /// Returns whether a whole turn is due.
    fn receive(&mut self, is_due: bool) -> bool {
        let count = self.desk.take_in(&mut self.cx);
        let (events, woken, is_turn_due) = self.desk.take();
        if woken.urgently {
            self.write_back.hurry();
        }
        // A wake without an event is a latch that another process set: an extension dropped, a
        // setting changed.
        let came_of_nothing = count == 0 && events.is_empty();
        let mut whole_turn = is_due || woken.at_all || is_turn_due || came_of_nothing;
        for event in events {
            self.handle(event);
        }
        whole_turn |= self.webhooks.receive();
        self.monitor.answer();
        // Callers wait: what they need is known from the last turn, unless they use a new
        // connection, or one that was paused meanwhile.
        if woken.by_a_change || self.desk.calls.needs_link(&self.cx.connections) {
            return true;
        }
        self.desk.calls.turn(&mut self.cx);
        whole_turn
    }

    /// One turn; returns how long to sleep, or `None` when the extension is gone.
    fn turn(&mut self) -> Result<Option<Duration>, StoreError> {
        let mut next = self.table_follower.turn(&mut self.cx);
        if !configuration::read(&mut self.cx)? {
            self.slot.set_state(State::Absent);
            return Ok(None);
        }
        let (cx, desk) = (&mut self.cx, &mut self.desk);
        next = next.min(cx.connect());
        desk.calls.turn(cx);
        let between: Between = &mut |cx| desk.serve(cx);
        self.write_back.retry_unsettled(cx, between);
        self.reconciler.retry_unrecorded(cx, between);
        if Instant::now() >= cx.maintenance_at {
            self.webhooks.prune();
            let in_flight = self.write_back.claims().chain(self.reconciler.claims());
            maintenance::maintain(cx, &in_flight.collect::<Vec<i64>>());
        }
        cx.connections.serve_requests(&cx.runtime);
        let unsettled = |map_id| {
            let settling = self.write_back.unsettled(map_id);
            settling.chain(self.reconciler.unrecorded(map_id)).collect()
        };
        next = next.min(table_scans::turn(cx, unsettled, between));
        next = next.min(self.write_back());
        next = next.min(self.ingest());
        // After what is due was sent: only waiting backends depend on this.
        let Context {
            connections,
            backoff,
            ..
        } = &mut self.cx;
        next = next.min(backoff.attempt(Owner::Worker, Step::Budgets, || {
            connections.store_budgets().map(|()| IDLE)
        }));
        self.answer_flushes();
        next = next.min(self.ingest.answer_waiters(&mut self.cx));
        let maintenance = self.cx.maintenance_at;
        next = next.min(maintenance.saturating_duration_since(Instant::now()));
        Ok(Some(next.min(self.flushes.time_left().unwrap_or(next))))
    }

    /// Write-back and reconciler; returns when something will be due next.
    fn write_back(&mut self) -> Duration {
        let (cx, desk) = (&mut self.cx, &mut self.desk);
        let in_use = |id| self.reconciler.uses(id) || self.ingest.uses(id);
        let between: Between = &mut |cx| desk.serve(cx);
        let turn = self.write_back.turn(cx, &self.flushes, &in_use, between);
        let mut next = turn.next;
        if !turn.has_folded {
            let in_flight = desk.calls.in_flight_ids();
            next = next.min(reconciler::adopt_orphans(cx, in_flight));
        }
        let in_use = |id| self.write_back.uses(id) || self.ingest.uses(id);
        let between: Between = &mut |cx| desk.serve(cx);
        next.min(self.reconciler.turn(cx, &in_use, between))
    }

    fn ingest(&mut self) -> Duration {
        let (write_back, reconciler) = (&self.write_back, &self.reconciler);
        let in_flight = |map_id| records_in_flight(map_id, write_back, reconciler);
        let in_use = |id| write_back.uses(id) || reconciler.uses(id);
        self.ingest.turn(&mut self.cx, &in_flight, &in_use)
    }

    /// Answers backends in `crm.flush()` whose maps have nothing outstanding.
    fn answer_flushes(&mut self) {
        let Context {
            maps,
            connections,
            backoff,
            ..
        } = &mut self.cx;
        let unsettled = self.write_back.has_unsettled() || self.reconciler.has_unrecorded();
        self.flushes.answer(|flush| {
            let covers = |m: &&Arc<Map>| flush.covers(m.id) && (m.enabled || flush.names_maps());
            let covered: Vec<_> = maps.iter().filter(covers).collect();
            let working: Vec<i32> = covered
                .iter()
                .filter(|m| !connections.is_stopped(m) && !m.is_held)
                .map(|m| m.id)
                .collect();
            // What is in flight is outstanding; to ask the tables as well would cost a scan each
            // turn. For a map that is gone or stopped, what is in flight does not count.
            let in_flight =
                self.write_back.works_on(&working) || self.reconciler.works_on(&working);
            let mut outstanding = true;
            if !in_flight && !unsettled {
                backoff.attempt(Owner::Worker, Step::Flushes, || {
                    outstanding = transaction(|client| claims::outstanding(client, &working))?;
                    Ok(IDLE)
                });
            }
            (!outstanding).then_some(working.len() == covered.len())
        });
    }

    fn handle(&mut self, event: Event) {
        let (cx, desk) = (&mut self.cx, &mut self.desk);
        let between: Between = &mut |cx| desk.serve(cx);
        match event {
            Event::WriteBack(message) => self.write_back.on_message(cx, message, between),
            Event::Reconciler(message) => self.reconciler.on_message(cx, message, between),
            Event::Ingest(message) => {
                let (write_back, reconciler) = (&self.write_back, &self.reconciler);
                let in_flight = |map_id| records_in_flight(map_id, write_back, reconciler);
                self.ingest.on_message(cx, message, &in_flight, between);
            }
            Event::Webhooks(message) => self.webhooks.on_message(cx, message),
            Event::Monitor(message) => self.monitor.on_message(message),
            Event::Socket(message) => self.on_request(message.request, message.reply),
            // The front desk's.
            Event::Calls(message) => desk.calls.on_message(message),
            Event::Link(message) => cx.connections.on_message(message),
        }
    }

    fn on_request(&mut self, request: Request, reply: oneshot::Sender<Json>) {
        let connections = &mut self.cx.connections;
        match request {
            Request::Flush(wait) => self.flushes.add(Waiter::new(wait, reply)),
            Request::Ingest(wait) => {
                let waiter = IngestWaiter::new(Waiter::new(wait, reply), false);
                self.ingest.add_waiter(waiter);
            }
            Request::Backfill(wait) => {
                let waiter = IngestWaiter::new(Waiter::new(wait, reply), true);
                self.ingest.add_waiter(waiter);
            }
            Request::Write(intent) => self.desk.calls.write(intent, reply),
            Request::Read(read) => self.desk.calls.read(read, reply),
            Request::Describe(request) => connections.describe(PendingDescribe { request, reply }),
            Request::Records(request) => connections.list(PendingRecords { request, reply }),
            Request::Link(request) => drop(reply.send(links::link(&request))),
            Request::Test(test) => connections.test(PendingTest {
                connection_id: test.connection_id,
                count: test.count,
                reply,
            }),
        }
    }
}

fn records_in_flight(
    map_id: i32,
    write_back: &WriteBack,
    reconciler: &Reconciler,
) -> RecordsInFlight {
    let mut found = RecordsInFlight::default();
    write_back.add_in_flight(map_id, &mut found);
    reconciler.add_in_flight(map_id, &mut found);
    found
}
