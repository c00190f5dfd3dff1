//! A link: one connection to a CRM as the threads use it.
//!
//! It drives operations, signs requests ([`token`]), bounds the requests in flight ([`permits`]) and in time ([`budget`]), and remembers trouble
//! ([`signs`]), so that what is queued behind a failing request fails at once instead of knocking on a closed door.

mod budget;
mod descriptions;
mod permits;
mod signs;
mod token;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use crm_provider::{
    Credentials, Operation, Provider, Request, Response, Settings, Step, Target, Usage,
};
use tokio::sync::Mutex as AsyncMutex;

pub use self::descriptions::Told;
pub use self::transport::Transport;
pub use crm_domain::budget::Lane;

use self::budget::Budget;
use self::descriptions::Descriptions;
use self::permits::Permits;
use self::signs::Signs;
use self::token::Keys;
use super::event::Outbox;
use crate::store::config::Connection;

/// How often a repeatable request is sent again at once when its connection broke.
const REPEATS: u32 = 2;

pub struct Link {
    pub connection_id: i32,
    pub name: String,
    pub provider: &'static dyn Provider,
    pub settings: Settings,
    /// Of the credentials; see `config::Connection`.
    pub version: i32,
    base_url: String,
    keys: Keys,
    permits: Permits,
    budget: Budget,
    transport: Transport,
    signs: Signs,
    descriptions: Descriptions,
}

/// Links are shared by the slices that use them.
pub type SharedLink = Arc<Link>;

impl Link {
    /// `turn`: see [`Keys`].
    pub fn new(
        connection: &Connection,
        provider: &'static dyn Provider,
        settings: Settings,
        credentials: Credentials,
        transport: Transport,
        outbox: Outbox,
        turn: Arc<AsyncMutex<()>>,
    ) -> Self {
        Link {
            connection_id: connection.id,
            name: connection.name.clone(),
            provider,
            permits: Permits::new(&settings),
            budget: Budget::new(&settings),
            settings,
            version: connection.version,
            base_url: base_url(connection, provider).to_owned(),
            keys: Keys::new(credentials, turn, outbox),
            transport,
            signs: Signs::default(),
            descriptions: Descriptions::default(),
        }
    }

    /// Whether it is still the way to this connection. Numbers alone do not tell: those of an extension that was made
    /// again begin anew.
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

    /// The trouble met since the last call; knocking is allowed again.
    pub fn take_trouble(&self) -> Option<Failure> {
        self.signs.take_trouble()
    }

    /// The request budget as the CRM told it, if that is news since the last call.
    pub fn take_usage(&self) -> Option<Usage> {
        self.signs.take_usage()
    }

    pub fn clock_offset_ms(&self) -> i64 {
        self.signs.clock_offset_ms()
    }

    /// Drives an operation to its end.
    pub async fn run<T>(&self, lane: Lane, operation: Box<dyn Operation<T>>) -> Result<T, Failure> {
        drive(operation, Signed(self, lane)).await
    }

    /// Sends a request: signed, repeated where that is harmless, with a fresh token if the old one expired.
    async fn send(&self, lane: Lane, mut request: Request) -> Result<Response, Failure> {
        let _permit = self.budget.admit(&self.permits, lane).await;
        let mut refreshed = false;
        let mut repeats = 0;
        loop {
            if let Some(failure) = self.signs.trouble() {
                return Err(failure);
            }
            // Signed in place and put back, so that no body is copied.
            let unsigned = request.headers.clone();
            let (url, generation) = self.prepare(&mut request).await?;
            let (back, answer) = self.transport.exchange(url, request).await?;
            request = back;
            request.headers = unsigned;
            let response = match answer {
                Ok(response) => response,
                Err(failure)
                    if request.repeatable
                        && failure.class == ErrorClass::Transient
                        && repeats < REPEATS =>
                {
                    repeats += 1;
                    tokio::time::sleep(Duration::from_millis(50 << repeats)).await;
                    continue;
                }
                Err(failure) => return Err(self.signs.note(failure)),
            };
            let usage = self.provider.usage(&response);
            self.budget.note(&usage);
            self.signs.note_usage(usage);
            self.signs.note_clock(&response);
            let Some(failure) = self.provider.failure(&response) else {
                return Ok(response);
            };
            if failure.class == ErrorClass::Auth
                && !refreshed
                && matches!(request.target, Target::Api(_))
                && self.refresh(generation).await?
            {
                refreshed = true;
                continue;
            }
            if failure.scope == Scope::Connection {
                self.signs.note(failure);
            }
            return Ok(response);
        }
    }

    /// Signs the request; its absolute URL, and the generation of the token it is signed with.
    async fn prepare(&self, request: &mut Request) -> Result<(String, u64), Failure> {
        let path = match &request.target {
            Target::Url(url) => return Ok((url.clone(), 0)),
            Target::Api(path) => path.clone(),
        };
        let token = self.token().await?;
        if let Some(access) = &token.access {
            self.provider.sign(request, access);
        }
        let base_url = token.base_url.as_deref().unwrap_or(&self.base_url);
        Ok((format!("{base_url}{path}"), token.generation))
    }
}

fn base_url<'a>(connection: &'a Connection, provider: &'static dyn Provider) -> &'a str {
    let given = connection.base_url.as_deref();
    given.or(provider.default_base_url()).unwrap_or_default()
}

/// How the requests of an operation are sent.
trait Way {
    fn send(&self, request: Request)
    -> impl Future<Output = Result<Response, Failure>> + Send + '_;
}

struct Signed<'a>(&'a Link, Lane);

impl Way for Signed<'_> {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        self.0.send(self.1, request).await
    }
}

/// Takes an operation from step to step, to its end.
async fn drive<T>(mut operation: Box<dyn Operation<T>>, way: impl Way) -> Result<T, Failure> {
    let mut step = operation.step(None);
    loop {
        step = match step {
            Step::Done(result) => return result,
            Step::Wait(time) => {
                tokio::time::sleep(time).await;
                operation.step(None)
            }
            Step::Send(request) => match way.send(request).await {
                Ok(response) => operation.step(Some(response)),
                Err(failure) => operation.interrupted(failure),
            },
        };
    }
}
