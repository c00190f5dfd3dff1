//! Ingestion: looks for changes in the CRMs, page by page, and reads by itself what a page could not settle.
//!
//! Of a map, one page and one read are on their way at once. The next page is asked for before the last one is settled;
//! should that one come to nothing, so does the next.

pub mod apply;
pub mod canonical;
pub mod waiters;

use std::sync::Arc;
use std::time::Duration;

use crm_domain::Failure;
use crm_provider::record::Field;
use crm_provider::{ChangesQuery, ReadBatch};
use serde_json::Value as Json;

use crate::failpoint;
use crate::store::config::{Connection, Map};
use crate::store::ingest::Incoming;
use crate::store::ingest::refetch;
use crate::store::ingest::refetch::Reread;
use crate::store::ingest::state::{self, State};
use crate::store::write_back::claims;
use crate::store::{StoreError, transaction, webhook_inbox};
use crate::worker::connections::readiness::Readiness;
use crate::worker::link::{Lane, RequestContext, SharedLink};
use crate::worker::main_loop::Worker;
use crate::worker::main_loop::event::Event;
use crate::worker::schedule::{IDLE, LOCKED_RETRY};
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::tasks;

/// Records of a page, unless the vendor takes fewer: what one transaction settles.
pub const PAGE: usize = 2000;

/// What the threads report.
pub enum Message {
    /// A page of changes, or records that were read by themselves.
    Polled {
        ticket: u64,
        result: Result<Came, Failure>,
        outage: Option<Failure>,
    },
}

/// A page or a read on its way.
pub struct Looking {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    /// See [`state::moment`].
    pub asked: String,
    pub what: What,
}

pub enum What {
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
    /// The CRM does not tell which records were deleted before.
    pub blind: bool,
    /// Records of which the answer does not say which they are.
    pub strays: usize,
}

/// What a map's looks for changes need to remember.
#[derive(Default)]
pub struct Looks {
    /// Passes through a CRM's changes that were begun, and the last one that came to its end.
    begun: u64,
    ended: u64,
    /// The pass that is on reads every record.
    reads_all: bool,
    /// In a row.
    pub failures: u32,
    /// Records of a page at most, once an answer was too long.
    pub page: Option<usize>,
}

impl Looks {
    /// The number of the next pass that begins.
    pub fn next_pass(&self) -> u64 {
        self.begun + 1
    }

    pub fn has_ended(&self, pass: u64) -> bool {
        self.ended >= pass
    }

    /// The pass that is on has come to its end.
    pub fn end(&mut self) {
        self.ended = self.begun;
        self.reads_all = false;
    }

    fn is_on(&self) -> bool {
        self.begun > self.ended
    }
}

impl Worker {
    /// Asks for what is due; returns when something will be due next.
    pub fn ingest(&mut self, maps: &[Arc<Map>]) -> Duration {
        let mut next = IDLE;
        let mut states = Vec::new();
        let mut known = |worker: &mut Worker, next: &mut Duration| {
            *next = (*next).min(worker.confined(Owner::Worker, Step::IngestState, |_| {
                states = transaction(state::all)?;
                Ok(IDLE)
            }));
            states.iter().any(|s| s.has_mail)
        };
        if known(self, &mut next) {
            for connection in self
                .cx
                .connections
                .all()
                .to_vec()
                .into_iter()
                .filter(|c| !c.is_away)
            {
                let of = Owner::Connection(connection.id);
                next = next.min(self.confined(of, Step::Webhooks, |worker| {
                    let more = worker.take_webhooks(&connection, maps)?;
                    Ok(if more { Duration::ZERO } else { IDLE })
                }));
            }
            known(self, &mut next);
        }
        self.looks.retain(|id, _| maps.iter().any(|m| m.id == *id));
        for map in maps.iter().filter(|m| !m.fields.is_empty()) {
            let Some(at) = states.iter().find(|s| s.map_id == map.id) else {
                continue;
            };
            let (connection, link) = match self.readiness(map) {
                Readiness::Ready(connection, link) => (connection, link),
                Readiness::Blocked(wait) => {
                    next = next.min(wait);
                    continue;
                }
                Readiness::Stopped => continue,
            };
            let of = Owner::Map(map.id);
            let rest = self.cx.backoff.left(of, Step::Poll);
            next = next.min(match rest {
                Some(left) => left,
                // What comes in says that this works.
                None => match self.look(&connection, map, &link, at) {
                    Ok(wait) => wait,
                    Err(error) => self.cx.backoff.map_failed(
                        map,
                        Step::Poll,
                        &error,
                        "cannot look for changes of",
                    ),
                },
            });
        }
        next
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
            let events = webhook_inbox::waiting(client, connection.id)?;
            if events.is_empty() {
                return Ok(false);
            }
            for map in maps.iter().filter(|m| m.connection_id == connection.id) {
                let about = |e: &&webhook_inbox::Waiting| {
                    provider.same_object(&e.crm_object, &map.crm_object)
                };
                let events = events.iter().filter(about);
                let ids: Vec<(String, Option<&str>)> = events
                    .map(|e| (provider.record_id(&e.crm_id), None))
                    .collect();
                let ids: Vec<(&str, Option<&str>)> =
                    ids.iter().map(|(id, into)| (id.as_str(), *into)).collect();
                refetch::ask(client, map.id, &ids, 0)?;
            }
            webhook_inbox::done(client, connection.id, &events)?;
            failpoint::reach("webhook_inbox::before_commit");
            Ok(events.len() == webhook_inbox::TAKEN_AT_ONCE)
        })
    }

    /// Asks for a map's next page and for records by themselves, if they are due.
    fn look(
        &mut self,
        connection: &Arc<Connection>,
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
            looks.reads_all |= at.backfills;
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
                    next = next.min(LOCKED_RETRY);
                }
            } else {
                next = next.min(after(ms));
            }
        }
        Ok(next)
    }

    /// Asks for the page after that cursor; `None`: after the one that the map stands at.
    pub fn ask_page(
        &mut self,
        connection: &Arc<Connection>,
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
        looks.reads_all |= since.is_none();
        let lane = match looks.reads_all {
            true => Lane::Drift,
            false => Lane::Ingest,
        };
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
        let context = RequestContext::of_map(lane, map.id);
        let (link, map) = (link.clone(), map.clone());
        let task = async move {
            failpoint::reach_on_thread("ingest::task");
            let mut total = None;
            if counts && let Some(count) = link.provider.count(&link.settings, &map.crm_object) {
                // For those who watch; the page will tell what is the matter, if something is.
                total = link.run(&context, count).await.ok();
            }
            let page = link
                .run(&context, link.provider.changes(&link.settings, query))
                .await;
            let came = page.map(|page| Came {
                records: page
                    .changes
                    .into_iter()
                    .map(|change| canonical::changed(&link, &map, change))
                    .collect(),
                next: Some((page.next, page.more)),
                total,
                blind: page.blind,
                strays: page.strays,
            });
            Message::Polled {
                ticket,
                result: came,
                outage: link.take_outage(),
            }
        };
        let mailbox = self.mailbox.wrap(Event::Ingest);
        tasks::spawn(&self.cx.runtime, &mailbox, task, move |failure| {
            Message::Polled {
                ticket,
                result: Err(failure),
                outage: None,
            }
        });
        Ok(())
    }

    /// Reads records by themselves; `false`: none could be asked for.
    fn ask_records(
        &mut self,
        connection: &Arc<Connection>,
        map: &Arc<Map>,
        link: &SharedLink,
    ) -> Result<bool, StoreError> {
        let limit = link.provider.read_size(&map.crm_object).clamp(1, PAGE);
        let busy = self.busy_records(map.id);
        let asked = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            let due = refetch::due(client, map.id, limit, &busy)?;
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
        let context = RequestContext::of_map(Lane::Ingest, map.id);
        let (link, map) = (link.clone(), map.clone());
        let task = async move {
            failpoint::reach_on_thread("ingest::task");
            let read = link
                .run(&context, link.provider.read(&link.settings, batch))
                .await;
            let came = read.map(|objects| Came {
                records: due
                    .iter()
                    .zip(objects)
                    .map(|(r, object)| {
                        let into = r.merged_into.as_deref();
                        canonical::read(&link, &map, &r.crm_id, into, object)
                    })
                    .collect(),
                next: None,
                total: None,
                blind: false,
                strays: 0,
            });
            Message::Polled {
                ticket,
                result: came,
                outage: link.take_outage(),
            }
        };
        let mailbox = self.mailbox.wrap(Event::Ingest);
        tasks::spawn(&self.cx.runtime, &mailbox, task, move |failure| {
            Message::Polled {
                ticket,
                result: Err(failure),
                outage: None,
            }
        });
        Ok(true)
    }

    fn send_look(
        &mut self,
        connection: &Arc<Connection>,
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
}
