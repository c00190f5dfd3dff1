//! The requests for changes that are in flight, and how they are sent.
//!
//! Guarantees: a request is noted before it is sent, and its response, or the panic of its task,
//! arrives as a message with the request's ticket. Nothing is requested over a connection that may
//! not send.

use std::collections::{HashMap, HashSet};

use crm_domain::Failure;
use serde_json::Value as Json;

use super::message::{InFlight, Message};
use super::passes::PollPasses;
use super::request::{PAGE, PollRequest, PollResult, Source, Target};
use crate::failpoint;
use crate::store::ingest::refetch;
use crate::store::ingest::state;
use crate::store::write_back::claims;
use crate::store::{StoreError, transaction};
use crate::worker::context::Context;
use crate::worker::link::Priority;
use crate::worker::mailbox::Sender;
use crate::worker::tasks;

pub struct Polls {
    mailbox: Sender<Message>,
    /// By ticket.
    in_flight: HashMap<u64, PollRequest>,
    tickets: u64,
}

impl Polls {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Polls {
            mailbox,
            in_flight: HashMap::new(),
            tickets: 0,
        }
    }

    /// Whether requests of a connection are in flight.
    pub fn uses(&self, connection_id: i32) -> bool {
        let mut polls = self.in_flight.values();
        polls.any(|poll| poll.connection.id == connection_id)
    }

    /// Whether a page of a map is in flight.
    pub fn has_page(&self, map_id: i32) -> bool {
        self.of_map(map_id).any(PollRequest::is_page)
    }

    /// Whether records of a map that are read by themselves are in flight.
    pub fn has_records(&self, map_id: i32) -> bool {
        self.of_map(map_id).any(|poll| !poll.is_page())
    }

    fn of_map(&self, map_id: i32) -> impl Iterator<Item = &PollRequest> {
        let polls = self.in_flight.values();
        polls.filter(move |poll| poll.map.id == map_id)
    }

    /// The request whose response has arrived.
    pub fn take(&mut self, ticket: u64) -> Option<PollRequest> {
        self.in_flight.remove(&ticket)
    }

    /// Requests the page after that cursor; `None`: after the map's own.
    pub fn request_page(
        &mut self,
        cx: &Context,
        source: &Source,
        passes: &mut PollPasses,
        since: Option<Json>,
    ) -> Result<(), StoreError> {
        let map_id = source.map.id;
        let begins = since.is_none();
        let allowed = transaction(|client| {
            if !claims::may_send(client, source.connection.id)? {
                return Ok(None);
            }
            let since = match since {
                Some(since) => Some(since),
                None => state::begins_to_read(client, map_id, !passes.is_open())?,
            };
            Ok(Some((since, state::moment(client)?)))
        })?;
        let Some((since, asked)) = allowed else {
            return Ok(());
        };
        if begins {
            passes.begin();
        }
        let priority = match passes.reads_all(since.is_none()) {
            true => Priority::Drift,
            false => Priority::Ingest,
        };
        let query = source.page_query(since.clone(), passes.page_size());
        let ticket = self.note(source, asked, Target::Page { since });
        failpoint::reach("ingest::before_request");
        let source = source.clone();
        self.spawn(cx, ticket, async move {
            failpoint::reach_on_thread("ingest::task");
            let result = source.page(priority, query).await;
            (result, source.link.take_outage())
        });
        Ok(())
    }

    /// Reads records by themselves; `false`: none could be requested.
    pub fn request_records(
        &mut self,
        cx: &Context,
        source: &Source,
        in_flight: InFlight,
    ) -> Result<bool, StoreError> {
        let Source { map, link, .. } = source;
        let limit = link.provider.read_size(&map.crm_object).clamp(1, PAGE);
        let written = in_flight(map.id).crm_ids;
        let written: HashSet<&str> = written.iter().map(String::as_str).collect();
        let allowed = transaction(|client| {
            if !claims::may_send(client, source.connection.id)? {
                return Ok(None);
            }
            let due = refetch::due(client, map.id, limit, &written)?;
            Ok(Some((due, state::moment(client)?)))
        })?;
        let Some((due, asked)) = allowed.filter(|(due, _)| !due.is_empty()) else {
            return Ok(false);
        };
        let ticket = self.note(source, asked, Target::Records(due.clone()));
        let source = source.clone();
        self.spawn(cx, ticket, async move {
            failpoint::reach_on_thread("ingest::task");
            let result = source.records(&due).await;
            (result, source.link.take_outage())
        });
        Ok(true)
    }

    fn note(&mut self, source: &Source, asked: String, target: Target) -> u64 {
        self.tickets += 1;
        let request = PollRequest {
            map: source.map.clone(),
            connection: source.connection.clone(),
            asked,
            target,
        };
        self.in_flight.insert(self.tickets, request);
        self.tickets
    }

    fn spawn(
        &self,
        cx: &Context,
        ticket: u64,
        poll: impl Future<Output = (Result<PollResult, Failure>, Option<Failure>)> + Send + 'static,
    ) {
        let polled = move |(result, outage)| Message::Polled {
            ticket,
            result,
            outage,
        };
        tasks::spawn(
            &cx.runtime,
            &self.mailbox,
            async move { polled(poll.await) },
            move |failure| polled((Err(failure), None)),
        );
    }
}
