//! Connections as the worker knows them: one link each, made anew when its configuration changes,
//! whether work can go to its CRM, and how it is doing.

pub mod describe;
pub mod health;
pub mod readiness;
pub mod records;
pub mod test;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use crm_provider::{Request, Response, UsageReport};
use pgrx::prelude::*;
use tokio::runtime::Handle;

use self::describe::PendingDescribe;
use self::readiness::Readiness;
use self::records::PendingRecords;
use self::test::PendingTest;
use crate::secrets;
use crate::settings::Settings;
use crate::shared::now_ms;
use crate::store::config::{self, Connection, Map};
use crate::store::{StoreError, connection_state, durable_transaction, stub_crm, transaction};
use crate::worker::link::http::Http;
use crate::worker::link::{Configuration, Link, Message, SharedLink, Transport};
use crate::worker::mailbox::Sender;
use crate::worker::process::complain;
use crate::worker::schedule::{IDLE, LOCKED_RETRY};
use crate::worker::step_backoff::{Owner, Step, StepBackoff};

pub struct Connections {
    mailbox: Sender<Message>,
    /// As the last turn read them, and with what was noted since.
    known: Vec<Arc<Connection>>,
    links: HashMap<i32, SharedLink>,
    /// Secrets that earlier links of a connection knew.
    former_secrets: HashMap<i32, Vec<String>>,
    /// Per connection, whose turn it is to obtain a token; outlives its links.
    token_turns: HashMap<i32, Arc<tokio::sync::Mutex<()>>>,
    /// Connections logged as waiting to be adopted.
    away: HashSet<i32>,
    tests: Vec<PendingTest>,
    descriptions: Vec<PendingDescribe>,
    listings: Vec<PendingRecords>,
}

impl Connections {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Connections {
            mailbox,
            known: Vec::new(),
            links: HashMap::new(),
            former_secrets: HashMap::new(),
            token_turns: HashMap::new(),
            away: HashSet::new(),
            tests: Vec::new(),
            descriptions: Vec::new(),
            listings: Vec::new(),
        }
    }

    /// Replaces what is known by what a turn read.
    pub fn set_known(&mut self, connections: Vec<Connection>) {
        self.known = connections.into_iter().map(Arc::new).collect();
    }

    pub fn all(&self) -> &[Arc<Connection>] {
        &self.known
    }

    pub fn get(&self, id: i32) -> Option<&Arc<Connection>> {
        self.known.iter().find(|c| c.id == id)
    }

    pub fn link(&self, id: i32) -> Option<&SharedLink> {
        self.links.get(&id)
    }

    /// Whether a map's work waits for a person rather than for time.
    pub fn is_stopped(&self, map: &Map) -> bool {
        let connection = self.get(map.connection_id);
        !map.works() || connection.is_none_or(|c| c.paused || c.in_error)
    }

    /// Whether work of a map can go to its CRM. `is_in_use`: whether requests of a connection are
    /// in flight.
    pub fn readiness(&self, map: &Map, is_in_use: impl FnOnce(i32) -> bool) -> Readiness {
        let connection = self.get(map.connection_id);
        let link = self.link(map.connection_id);
        let (Some(connection), Some(link)) = (connection, link) else {
            return Readiness::Stopped;
        };
        if self.is_stopped(map) {
            Readiness::Stopped
        } else if connection.blocked_ms > 0 {
            Readiness::Blocked(Duration::from_millis(connection.blocked_ms as u64 + 1))
        } else {
            match patience(connection, link, is_in_use) {
                Some(wait) => Readiness::Blocked(wait),
                None => Readiness::Ready(connection.clone(), link.clone()),
            }
        }
    }

    /// Notes how a connection is doing, if that is news. `version`: of the credentials in use at
    /// that time; other ones than the connection's own prove nothing.
    pub fn note_health(&mut self, id: i32, version: i32, outage: Option<&Failure>) {
        let is_it = |c: &&mut Arc<Connection>| c.id == id && c.version == version;
        let Some(connection) = self.known.iter_mut().find(is_it) else {
            return;
        };
        let connection = Arc::make_mut(connection);
        if let Err(error) = health::note(connection, outage) {
            let name = &connection.name;
            complain(
                &error,
                &format!("pg_crm cannot store the state of connection {name}: {error}"),
            );
        }
    }

    /// Stores the request budgets that CRMs reported, so that a restart does not forget them.
    pub fn store_budgets(&self) -> Result<(), StoreError> {
        let links = self.links.values();
        let reported: Vec<(i32, UsageReport)> = links
            .filter_map(|link| Some((link.connection_id, link.take_usage_report()?)))
            .collect();
        if reported.is_empty() {
            return Ok(());
        }
        transaction(|client| {
            reported
                .iter()
                .try_for_each(|(id, report)| connection_state::used(client, *id, report))
        })
    }

    /// Keeps one link per connection, made anew when its configuration changed; returns when to try
    /// again.
    pub fn connect(&mut self, settings: &Settings, backoff: &mut StepBackoff) -> Duration {
        let known = self.known.clone();
        self.retire_links(|link| known.iter().any(|c| !c.is_away && link.leads_to(c)));
        let is_known = |id: &i32| known.iter().any(|c| c.id == *id);
        self.token_turns.retain(|id, _| is_known(id));
        self.former_secrets.retain(|id, _| is_known(id));
        self.log_away();
        let mut next = IDLE;
        for connection in known.iter().filter(|c| !c.is_away) {
            if !self.links.contains_key(&connection.id) {
                let owner = Owner::Connection(connection.id);
                next = next.min(backoff.attempt(owner, Step::Connect, || {
                    self.make_link(connection, settings).map(|()| IDLE)
                }));
            }
        }
        next
    }

    /// All links are made anew, since timeouts, limits and allowed hosts are built into them.
    pub fn reconfigure(&mut self) {
        self.retire_links(|_| false);
    }

    /// Lets go of links. The secrets that they know stay: responses to their requests may still
    /// come.
    fn retire_links(&mut self, stays: impl Fn(&SharedLink) -> bool) {
        let retired = self.links.extract_if(|_, link| !stays(link));
        self.former_secrets
            .extend(retired.map(|(id, link)| (id, link.known_secrets())));
    }

    fn log_away(&mut self) {
        for connection in self.known.iter().filter(|c| c.is_away) {
            if self.away.insert(connection.id) {
                ereport!(
                    PgLogLevel::LOG,
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!(
                        "pg_crm: connection \"{}\" came with a restore or a copy of a database, and waits",
                        connection.name
                    ),
                    "Once no other database sends over it, crm.adopt_connections() has this one do so."
                );
            }
        }
        let known = &self.known;
        self.away
            .retain(|id| known.iter().any(|c| c.id == *id && c.is_away));
    }

    fn make_link(
        &mut self,
        connection: &Connection,
        settings: &Settings,
    ) -> Result<(), StoreError> {
        let Some(provider) = crm_provider::provider(&connection.provider) else {
            return Ok(());
        };
        let secret = transaction(|client| config::secret(client, connection.id))?;
        let credentials = match secrets::resolve(&secret) {
            Ok(credentials) => credentials,
            Err(reason) => return health::record_unresolved(connection, reason.to_string()),
        };
        let transport = match provider.name() {
            "stub" => Transport::Stub {
                connection: connection.name.clone(),
                mailbox: self.mailbox.clone(),
            },
            _ => Transport::Http {
                http: Http::new(settings.request_timeout, settings.max_response),
                allowed_hosts: settings.allowed_hosts.clone(),
            },
        };
        let options = connection.options.as_object().cloned().unwrap_or_default();
        let former = self.former_secrets.get(&connection.id).cloned();
        let configuration = Configuration {
            settings: crm_provider::Settings::new(options, settings.bulk_threshold),
            credentials,
            token_turn: self.token_turns.entry(connection.id).or_default().clone(),
            transport,
            mailbox: self.mailbox.clone(),
            max_value: settings.max_value,
            former_secrets: former.unwrap_or_default(),
        };
        let link = Link::new(connection, provider, configuration);
        self.links.insert(connection.id, Arc::new(link));
        Ok(())
    }

    /// Does what a link needs of the database.
    pub fn on_message(&mut self, message: Message) {
        match message {
            Message::StubRequest {
                connection,
                request,
                reply,
            } => {
                let _ = reply.send(ask_stub(&connection, &request));
            }
            Message::TokenRotated {
                connection_id,
                version,
                refresh_token,
                reply,
            } => {
                let stored = durable_transaction(|client| {
                    connection_state::rotate(client, connection_id, version, &refresh_token)
                });
                // A reload may have made another link meanwhile, with the token that is void now.
                if let Some(link) = self.links.get(&connection_id)
                    && link.version == version
                {
                    link.adopt(&refresh_token);
                }
                let _ = reply.send(stored.is_ok());
            }
        }
    }

    pub fn test(&mut self, pending: PendingTest) {
        self.tests.push(pending);
    }

    pub fn describe(&mut self, pending: PendingDescribe) {
        self.descriptions.push(pending);
    }

    pub fn list(&mut self, pending: PendingRecords) {
        self.listings.push(pending);
    }

    /// Serves the backends that asked for a test, a description or records.
    pub fn serve_requests(&mut self, runtime: &Handle) {
        for pending in std::mem::take(&mut self.tests) {
            let id = pending.connection_id;
            let connection = self.get(id).map(|c| &**c);
            pending.serve(connection, self.link(id).cloned(), runtime);
        }
        for pending in std::mem::take(&mut self.descriptions) {
            let id = pending.request.connection_id;
            let connection = self.get(id).map(|c| &**c);
            pending.serve(connection, self.link(id).cloned(), runtime);
        }
        for pending in std::mem::take(&mut self.listings) {
            let id = pending.request.connection_id;
            let connection = self.get(id).map(|c| &**c);
            pending.serve(connection, self.link(id).cloned(), runtime);
        }
    }
}

/// How long work that nobody waits for leaves the CRM alone.
fn patience(
    connection: &Connection,
    link: &SharedLink,
    is_in_use: impl FnOnce(i32) -> bool,
) -> Option<Duration> {
    // Half open: a request in flight finds out whether the CRM is back.
    if connection.failures >= connection_state::OPENS_AFTER && is_in_use(connection.id) {
        return Some(LOCKED_RETRY);
    }
    let days = connection.day.into_iter().chain(link.day());
    let reserve = link.settings.limits().reserve;
    let waits = days.filter_map(|day| day.day_wait(reserve, now_ms()));
    Some(Duration::from_millis(waits.max()? as u64))
}

/// The stub CRM's response; it lives in this database.
fn ask_stub(connection: &str, request: &Request) -> Result<Response, Failure> {
    let failure = |code, message: String| Failure::connection(ErrorClass::Transient, code, message);
    match transaction(|client| stub_crm::handle(client, connection, request)) {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(failure(
            "no_answer",
            "the stub CRM's answer was lost".to_owned(),
        )),
        Err(error) if error.is_about_values() => Ok(stub_crm::refusal(&error)),
        Err(error) => Err(failure("stub", error.message())),
    }
}
