//! One link per connection, made anew when its configuration changed, and who may use it when.

pub mod describe;

use std::sync::Arc;
use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use crm_provider::News;
use pgrx::prelude::*;
use serde_json::json;

use crate::secrets;
use crate::shared::now_ms;
use crate::store::config::{self, Connection, Map};
use crate::store::{StoreError, connection_state, transaction};
use crate::worker::link::http::Http;
use crate::worker::link::{Errand, Keys, Lane, Link, SharedLink, Transport};
use crate::worker::main_loop::event::Event;
use crate::worker::main_loop::{HELD_AGAIN, IDLE, Worker};
use crate::worker::step_backoff::{Of, Step};
use crate::worker::waiters::stands_still;

/// Why nothing is asked of a CRM.
pub const AWAY: &str = "the connection came with a restore or a copy of a database and waits for crm.adopt_connections()";

/// Whether work of a map can go to its CRM.
pub enum Readiness<'c> {
    Ready(&'c Connection, SharedLink),
    /// The connection waits, for a rate limit for instance, or finds out whether the CRM is back.
    Blocked(Duration),
    /// Until a person does something.
    Stopped,
}

impl Worker {
    pub fn readiness<'c>(&self, map: &Map, connections: &'c [Connection]) -> Readiness<'c> {
        let connection = connections.iter().find(|c| c.id == map.connection_id);
        let link = connection.and_then(|c| self.links.get(&c.id));
        match (connection, link) {
            (Some(_), Some(_)) if stands_still(map, connections) => Readiness::Stopped,
            (Some(connection), Some(_)) if connection.blocked_ms > 0 => {
                Readiness::Blocked(Duration::from_millis(connection.blocked_ms as u64 + 1))
            }
            (Some(connection), Some(link)) => match self.patience(connection, link) {
                Some(wait) => Readiness::Blocked(wait),
                None => Readiness::Ready(connection, link.clone()),
            },
            _ => Readiness::Stopped,
        }
    }

    /// How long work that nobody waits for leaves the CRM alone.
    fn patience(&self, connection: &Connection, link: &SharedLink) -> Option<Duration> {
        // Half open: what is on its way finds out whether the CRM is back.
        let probes =
            connection.failures >= connection_state::OPENS_AFTER && self.is_asking(connection.id);
        let days = connection.day.into_iter().chain(link.day());
        let reserve = link.settings.terms().reserve;
        let day = || {
            let waits = days.filter_map(|day| day.day_wait(reserve, now_ms()));
            Some(Duration::from_millis(waits.max()? as u64))
        };
        probes.then_some(HELD_AGAIN).or_else(day)
    }

    /// Whether something of a connection is on its way.
    fn is_asking(&self, connection_id: i32) -> bool {
        let of = |c: &Connection| c.id == connection_id;
        self.flights.values().any(|f| of(&f.connection))
            || self.reconciling.values().any(|r| of(&r.connection))
            || self.looking.values().any(|l| of(&l.connection))
    }

    /// Keeps what the CRMs told of their budgets, so that a restart does not forget it.
    pub fn note_budgets(&self) -> Result<(), StoreError> {
        let links = self.links.values();
        let told: Vec<(i32, News)> = links
            .filter_map(|link| Some((link.connection_id, link.take_news()?)))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        transaction(|client| {
            told.iter()
                .try_for_each(|(id, news)| connection_state::used(client, *id, news))
        })
    }

    /// Keeps one link per connection, made anew when its configuration changed.
    pub fn connect(&mut self, connections: &[Connection]) -> Duration {
        self.retire_links(|link| connections.iter().any(|c| !c.is_away && link.leads_to(c)));
        self.turns
            .retain(|id, _| connections.iter().any(|c| c.id == *id));
        self.former_secrets
            .retain(|id, _| connections.iter().any(|c| c.id == *id));
        self.tell_who_is_away(connections);
        let mut next = IDLE;
        for connection in connections.iter().filter(|c| !c.is_away) {
            if !self.links.contains_key(&connection.id) {
                let of = Of::Connection(connection.id);
                next = next.min(self.confined(of, Step::Connect, |worker| {
                    worker.make_link(connection).map(|()| IDLE)
                }));
            }
        }
        next
    }

    /// Lets go of links. What they know of secrets stays: answers to what they asked may still come.
    pub fn retire_links(&mut self, stays: impl Fn(&SharedLink) -> bool) {
        let retired = self.links.extract_if(|_, link| !stays(link));
        self.former_secrets
            .extend(retired.map(|(id, link)| (id, link.known_secrets())));
    }

    fn tell_who_is_away(&mut self, connections: &[Connection]) {
        for connection in connections.iter().filter(|c| c.is_away) {
            if self.away.insert(connection.id) {
                ereport!(
                    PgLogLevel::LOG,
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!(
                        "pg_crm: connection \"{}\" came with a restore or a copy of a database, and waits",
                        connection.name
                    ),
                    "Once nobody else sends over it, crm.adopt_connections() has this database do so."
                );
            }
        }
        let is_away = |id: &i32| connections.iter().any(|c| c.id == *id && c.is_away);
        self.away.retain(is_away);
    }

    fn make_link(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let Some(provider) = crm_provider::provider(&connection.provider) else {
            return Ok(());
        };
        let secret = transaction(|client| config::secret(client, connection.id))?;
        let credentials = match secrets::resolve(&secret) {
            Ok(credentials) => credentials,
            Err(reason) => {
                let failure = Failure::connection(ErrorClass::Auth, "credentials", reason);
                if !connection.in_error {
                    transaction(|client| {
                        connection_state::troubled(client, connection, &failure, 0)
                    })?;
                }
                return Ok(());
            }
        };
        let options = connection.options.as_object().cloned().unwrap_or_default();
        let settings = crm_provider::Settings::new(options, self.settings.bulk_threshold);
        let transport = match provider.name() {
            "stub" => Transport::Stub {
                connection: connection.name.clone(),
                mailbox: self.mailbox.wrap(Event::Link),
            },
            _ => Transport::Http {
                http: Http::new(self.settings.request_timeout, self.settings.max_response),
                allowed_hosts: self.settings.allowed_hosts.clone(),
            },
        };
        let turn = self.turns.entry(connection.id).or_default().clone();
        let link = Link::new(
            connection,
            provider,
            settings,
            Keys::new(credentials, turn, self.mailbox.wrap(Event::Link)),
            transport,
            self.settings.max_value,
            self.former_secrets
                .get(&connection.id)
                .cloned()
                .unwrap_or_default(),
        );
        self.links.insert(connection.id, Arc::new(link));
        Ok(())
    }

    /// Real calls for those who asked `crm.test_connection()`.
    pub fn test(&mut self, connections: &[Connection]) {
        for (id, reply) in std::mem::take(&mut self.tests) {
            let Some(link) = self.links.get(&id).cloned() else {
                let known = connections.iter().find(|c| c.id == id);
                let detail = match known {
                    Some(c) if c.is_away => AWAY,
                    Some(_) => {
                        "the credentials cannot be resolved; see crm.status and crm.connection_state"
                    }
                    None => "the worker does not know this connection: it is not committed yet",
                };
                let _ = reply.send(json!({"ok": false, "detail": detail}));
                continue;
            };
            self.runtime.spawn(async move {
                let ping = link.provider.ping(&link.settings);
                let answer = match link.run(&Errand::new(Lane::RealTime), ping).await {
                    Ok(detail) => json!({"ok": true, "detail": detail}),
                    Err(failure) => json!({"ok": false, "detail": failure.to_string()}),
                };
                link.take_trouble();
                let _ = reply.send(answer);
            });
        }
    }
}
