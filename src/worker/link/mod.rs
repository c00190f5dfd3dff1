//! A link: one connection to a CRM as the threads use it.
//!
//! It drives operations, signs requests ([`token`]) or has a broker carry them ([`composio`]),
//! bounds the requests in flight ([`permits`]) and in time ([`budget`]), has maps take turns
//! ([`fair_queue`]), and remembers an outage ([`health`]), so that what is queued behind a failing
//! request fails at once instead of being sent to a CRM that is down.
//!
//! Guarantee: no text that it hands on, of a CRM, a broker, a proxy or the transport, holds a
//! secret of the connection ([`Secrets`]). Whatever is kept or shown of them comes from here.

pub mod allowed_hosts;
mod budget;
mod descriptions;
mod drive;
mod fair_queue;
mod health;
pub mod http;
mod message;
mod permits;
mod request_context;
mod token;
mod transport;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure, Value};
use crm_provider::record::Field;
use crm_provider::{
    BoxOperation, Credentials, Mask, Provider, Request, Response, Secrets, Settings, Target, Usage,
    UsageReport, composio, default_base_url,
};

pub use self::descriptions::KnownDescription;
pub use self::message::Message;
pub use self::request_context::RequestContext;
pub use self::transport::Transport;
pub use crm_domain::budget::Priority;
use crm_domain::budget::{Reported as ReportedDay, Source};

use self::allowed_hosts::without_user;
use self::budget::Budget;
use self::descriptions::Descriptions;
use self::drive::{Send, drive};
use self::permits::Permits;
use self::token::{Holder, Token, TokenSource};
use self::wire::Wire;
use crate::counters::{self, Counter};
use crate::secrets::proxy_passwords;
use crate::store::config::Connection;
use crate::store::table::read::TOO_LARGE;
use crate::worker::mailbox::Sender;
use serde_json::Value as Json;
use tokio::sync::Mutex as AsyncMutex;

/// How often a repeatable request is sent again at once when its connection broke. One that took
/// all the time that a request may take is not.
const REPEATS: u32 = 2;

pub struct Link {
    pub connection_id: i32,
    pub name: String,
    pub provider: &'static dyn Provider,
    pub settings: Settings,
    /// Of the credentials; see `config::Connection`.
    pub version: i32,
    base_url: String,
    /// The account whose broker carries the requests; `None`: nobody does.
    account: Option<composio::Account>,
    tokens: TokenSource,
    permits: Permits,
    budget: Budget,
    wire: Arc<Wire>,
    max_value: usize,
    descriptions: Descriptions,
}

/// What a link is made from, beside its connection.
pub struct Configuration {
    pub settings: Settings,
    pub credentials: Credentials,
    /// Locked while a token is obtained; shared by the links of a connection.
    pub token_turn: Arc<AsyncMutex<()>>,
    pub transport: Transport,
    pub mailbox: Sender<Message>,
    /// The bytes of one value that is accepted.
    pub max_value: usize,
    /// Secrets of the link before this one, which responses may still quote.
    pub former_secrets: Vec<String>,
}

/// Links are shared by the tasks that use them.
pub type SharedLink = Arc<Link>;

impl Link {
    pub fn new(
        connection: &Connection,
        provider: &'static dyn Provider,
        configuration: Configuration,
    ) -> Self {
        let Configuration {
            settings,
            credentials,
            token_turn,
            transport,
            mailbox,
            max_value,
            former_secrets,
        } = configuration;
        let more = proxy_passwords().chain(former_secrets);
        let wire = Arc::new(Wire::new(transport, Secrets::new(&credentials, more)));
        let base_url = base_url(connection, provider).to_owned();
        let holder = Holder {
            connection_id: connection.id,
            version: connection.version,
            provider,
            base_url: base_url.clone(),
            account: composio::Account::of(&settings.options),
        };
        Link {
            connection_id: connection.id,
            name: connection.name.clone(),
            provider,
            permits: Permits::new(&settings),
            budget: Budget::new(&settings, connection.used),
            account: composio::Account::of(&settings.options),
            settings,
            version: connection.version,
            base_url,
            tokens: TokenSource::new(holder, wire.clone(), credentials, token_turn, mailbox),
            wire,
            max_value,
            descriptions: Descriptions::default(),
        }
    }

    /// Whether it is still the way to this connection. Its number alone is not enough: an extension
    /// that was created again starts over.
    pub fn leads_to(&self, connection: &Connection) -> bool {
        self.connection_id == connection.id
            && self.version == connection.version
            && self.name == connection.name
            && self.provider.name() == connection.provider
            && self.base_url == base_url(connection, self.provider)
            && connection
                .options
                .as_object()
                .is_some_and(|o| *o == self.settings.options)
    }

    /// The outage met since the last call; requests are sent again.
    pub fn take_outage(&self) -> Option<Failure> {
        self.wire.health.take_outage()
    }

    /// The request budgets as they were reported since the last call.
    pub fn take_usage_report(&self) -> Option<UsageReport> {
        let report = UsageReport {
            used: self.budget.take_used(),
            ..self.wire.health.take_usage_report()
        };
        Some(report).filter(|report| *report != UsageReport::default())
    }

    /// What the admin leaves of the day's requests.
    pub fn day(&self) -> Option<ReportedDay> {
        self.budget.day()
    }

    pub fn clock_offset_ms(&self) -> i64 {
        self.wire.health.clock_offset_ms()
    }

    /// Drives an operation to its end.
    pub async fn run<T: Mask>(
        &self,
        context: &RequestContext,
        operation: BoxOperation<T>,
    ) -> Result<T, Failure> {
        let mut result = drive(operation, Signed(self, context)).await;
        result.mask(&self.wire.secrets());
        result
    }

    /// What is masked, for the link that follows.
    pub fn known_secrets(&self) -> Vec<String> {
        self.wire.secrets().all()
    }

    /// Takes over a refresh token that the link before this one was given.
    pub fn adopt(&self, refresh_token: &str) {
        self.tokens.adopt(refresh_token);
    }

    /// The fields of an object; `None`: the provider cannot ask.
    pub async fn describe(&self, object: &str, fresh: bool) -> Option<KnownDescription> {
        let operation = self.provider.describe(&self.settings, object)?;
        let had_outage = self.wire.health.outage().is_some();
        let ask = async {
            let context = RequestContext::new(Priority::RealTime);
            let description = self.run(&context, operation).await;
            description.map(|description| self.provider.with_storage_rules(description))
        };
        let description = self.descriptions.get(object, fresh, ask).await;
        if !had_outage && !description.is_kept {
            // No work of a map failed: it will find out for itself.
            self.take_outage();
        }
        Some(description)
    }

    /// Sends a request: signed, repeated where that is harmless, with a fresh token if the old one
    /// expired.
    async fn send(
        &self,
        context: &RequestContext,
        mut request: Request,
    ) -> Result<Response, Failure> {
        let admitted = self.budget.admit(&self.permits, context).await;
        let _permit = admitted.map_err(|failure| self.wire.note(failure))?;
        let mut refreshed = false;
        let mut repeats = 0;
        loop {
            if let Some(failure) = self.wire.health.outage() {
                return Err(failure);
            }
            let token = self.tokens.current().await?;
            let (start, sent) = (Instant::now(), request.body.len());
            let answer = match &self.account {
                Some(account) => self.carry(account, &token, context, &request).await?,
                None => self.sign_and_send(&token, &mut request).await?,
            };
            self.count(context.priority, start.elapsed(), sent, &answer);
            let response = match answer {
                Ok(response) => response,
                Err(failure)
                    if request.repeatable
                        && failure.class == ErrorClass::Transient
                        && failure.code != http::TIMEOUT
                        && repeats < REPEATS =>
                {
                    repeats += 1;
                    tokio::time::sleep(Duration::from_millis(50 << repeats)).await;
                    continue;
                }
                Err(failure) => return Err(self.wire.note(failure)),
            };
            self.note_usage(Source::Crm, self.provider.usage(&response));
            self.wire.health.note_clock(&response);
            let Some(failure) = self.provider.failure(&response) else {
                return Ok(response);
            };
            if failure.class == ErrorClass::Auth
                && !refreshed
                && !matches!(request.target, Target::Url(_))
                && self.tokens.replace(token.generation).await?
            {
                refreshed = true;
                continue;
            }
            if failure.scope == Scope::Connection {
                self.wire.note(failure);
            }
            return Ok(response);
        }
    }

    async fn sign_and_send(
        &self,
        token: &Token,
        request: &mut Request,
    ) -> Result<Result<Response, Failure>, Failure> {
        let url = self.url(token, &request.target)?;
        // Signed in place and put back, so that no body is copied.
        let unsigned = request.headers.clone();
        if let (Some(access), Target::Api(_) | Target::File(_)) = (&token.access, &request.target) {
            self.provider.sign(request, access);
        }
        self.wire.secrets().learn(request);
        let sent = std::mem::replace(request, Request::new(request.method, ""));
        let (back, answer) = self.wire.transport.exchange(url, sent).await?;
        *request = back;
        request.headers = unsigned;
        Ok(answer)
    }

    fn url(&self, token: &Token, target: &Target) -> Result<String, Failure> {
        let base_url = token.base_url.as_deref().unwrap_or(&self.base_url);
        match target {
            Target::Url(url) => Ok(url.clone()),
            Target::Api(path) => Ok(format!("{base_url}{path}")),
            Target::File(file) => self
                .provider
                .file_url(&self.settings, base_url, file)
                .ok_or_else(|| {
                    let message = format!("no host of this CRM's: {}", without_user(file));
                    Failure::record(ErrorClass::Internal, "foreign_host", message)
                }),
        }
    }

    /// Has the broker send the request; the CRM's answer.
    async fn carry(
        &self,
        account: &composio::Account,
        token: &Token,
        context: &RequestContext,
        request: &Request,
    ) -> Result<Result<Response, Failure>, Failure> {
        let key = token.access.as_deref().unwrap_or_default();
        let (correlation, operation) = (&context.correlation_id, &context.operation_id);
        let ids = (correlation.as_deref(), operation.as_deref());
        let carried = account.carry(request, key, ids);
        self.wire.secrets().learn(&carried);
        let (Target::Api(path) | Target::File(path) | Target::Url(path)) = &carried.target;
        let url = format!("{}{path}", self.base_url);
        let answer = self.wire.transport.exchange(url, carried).await?.1;
        Ok(answer.and_then(|answer| {
            self.note_usage(Source::Broker, composio::usage(&answer));
            composio::deliver(answer).map(|answer| answer.answering(request.success))
        }))
    }

    /// A field of the CRM's as a canonical value.
    pub fn value(&self, field: &Field, wire: &Json) -> Result<Value, Failure> {
        let value = self.provider.from_wire(field.data_type, wire);
        let value = value.map_err(|error| {
            let message = format!("field \"{}\": {error}", field.name);
            Failure::record(ErrorClass::Mapping, "unreadable_value", message)
        })?;
        let bytes = value.size() - size_of::<Value>();
        if bytes > self.max_value {
            let (name, most) = (&field.name, self.max_value);
            let message = format!(
                "the CRM's field \"{name}\" has {bytes} bytes; pg_crm.max_value_bytes allows {most}"
            );
            return Err(Failure::record(ErrorClass::Validation, TOO_LARGE, message));
        }
        Ok(value)
    }

    /// Counts a request, but for those that obtain a token.
    fn count(
        &self,
        priority: Priority,
        took: Duration,
        sent: usize,
        answer: &Result<Response, Failure>,
    ) {
        let connection_id = self.connection_id;
        let (class, received) = match answer {
            Ok(response) => {
                let failure = self.provider.failure(response);
                (failure.map(|failure| failure.class), response.body.len())
            }
            Err(failure) => (Some(failure.class), 0),
        };
        let requests = Counter::Requests {
            connection_id,
            priority,
            class,
        };
        let bucket = counters::bucket(took);
        let micros = took.as_micros() as u64;
        for (counter, count) in [
            (requests, 1),
            (
                Counter::Duration {
                    connection_id,
                    bucket,
                },
                1,
            ),
            (Counter::Microseconds { connection_id }, micros),
            (Counter::Sent { connection_id }, sent as u64),
            (Counter::Received { connection_id }, received as u64),
        ] {
            counters::add(counter, count);
        }
    }

    fn note_usage(&self, source: Source, usage: Usage) {
        self.budget.note(source, &usage);
        self.wire.health.note_usage(source, usage);
    }
}

fn base_url<'a>(connection: &'a Connection, provider: &'static dyn Provider) -> &'a str {
    let given = connection.base_url.as_deref();
    let none = serde_json::Map::new();
    let options = connection.options.as_object().unwrap_or(&none);
    given
        .or_else(|| default_base_url(provider, options))
        .unwrap_or_default()
}

struct Signed<'a>(&'a Link, &'a RequestContext);

impl Send for Signed<'_> {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        self.0.send(self.1, request).await
    }
}
