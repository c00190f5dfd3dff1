//! A link: one connection to a CRM as the threads use it.
//!
//! It drives operations, signs requests, refreshes a token once however many requests find it expired, bounds the
//! requests in flight, and remembers trouble, so that what is queued behind a failing request fails at once instead of
//! knocking on a closed door.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crm_domain::{ErrorClass, Failure};
use crm_provider::{
    Credentials, Grant, Operation, Provider, Request, Response, Settings, Step, Target, Usage,
};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot};

use super::event::{Event, Outbox};
use super::http::Http;
use super::target;

pub enum Transport {
    Http(Http),
    /// The embedded CRM, asked through the main thread.
    Stub,
}

/// Whose requests wait for whom: those that a person waits for are not queued behind those of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    RealTime,
    Batch,
}

/// Requests of callers who wait, at once. Vendors bound rates and long requests, not short ones at once.
const REAL_TIME_IN_FLIGHT: usize = 400;

#[derive(Clone, Default)]
struct Token {
    access: Option<String>,
    base_url: Option<String>,
    expires: Option<Instant>,
    /// Counts grants, so that a request knows whether the token it failed with is still the current one.
    generation: u64,
}

pub struct Link {
    pub connection_id: i32,
    pub name: String,
    pub provider: &'static dyn Provider,
    pub settings: Settings,
    /// Of the credentials; see `config::Connection`.
    pub version: i32,
    base_url: String,
    credentials: Mutex<Credentials>,
    token: AsyncMutex<Token>,
    /// Held while a token is obtained, also by the links that this one follows or is followed by.
    turn: Arc<AsyncMutex<()>>,
    permits: Semaphore,
    real_time_permits: Semaphore,
    transport: Transport,
    allowed_hosts: Vec<String>,
    outbox: Outbox,
    trouble: Mutex<Option<Failure>>,
    usage: Mutex<Usage>,
    /// How far the CRM's clock is ahead of ours, in ms, as its last answer told.
    clock_offset_ms: AtomicI64,
}

/// A token that expires within this time is not used any more.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// How often a repeatable request is sent again at once when its connection broke.
const REPEATS: u32 = 2;

impl Link {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        connection: &crate::store::config::Connection,
        provider: &'static dyn Provider,
        settings: Settings,
        credentials: Credentials,
        transport: Transport,
        allowed_hosts: Vec<String>,
        outbox: Outbox,
        turn: Arc<AsyncMutex<()>>,
    ) -> Self {
        let permits = settings
            .options
            .get("max_in_flight")
            .and_then(|n| n.as_u64())
            .unwrap_or(4)
            .clamp(1, 64);
        Link {
            connection_id: connection.id,
            name: connection.name.clone(),
            provider,
            settings,
            version: connection.version,
            base_url: connection
                .base_url
                .clone()
                .or(provider.default_base_url().map(str::to_owned))
                .unwrap_or_default(),
            credentials: Mutex::new(credentials),
            token: AsyncMutex::new(Token::default()),
            turn,
            permits: Semaphore::new(permits as usize),
            real_time_permits: Semaphore::new(REAL_TIME_IN_FLIGHT),
            transport,
            allowed_hosts,
            outbox,
            trouble: Mutex::new(None),
            usage: Mutex::new(Usage::default()),
            clock_offset_ms: AtomicI64::new(0),
        }
    }

    pub fn clock_offset_ms(&self) -> i64 {
        self.clock_offset_ms.load(Ordering::Relaxed)
    }

    /// An answer tells the CRM's time, in whole seconds.
    fn note_clock(&self, response: &Response) {
        if let Some(theirs) = response.date() {
            let offset = theirs + 500 - crate::shared::now_ms();
            // Less than the second that the header cuts off is no offset.
            let offset = if offset.abs() <= 1500 { 0 } else { offset };
            self.clock_offset_ms.store(offset, Ordering::Relaxed);
        }
    }

    /// Whether it is still the way to this connection. Numbers alone do not tell: those of an extension that was made
    /// again begin anew.
    pub fn leads_to(&self, connection: &crate::store::config::Connection) -> bool {
        let base_url = connection.base_url.as_deref();
        self.connection_id == connection.id
            && self.version == connection.version
            && self.name == connection.name
            && self.provider.name() == connection.provider
            && base_url
                .or(self.provider.default_base_url())
                .unwrap_or_default()
                == self.base_url
            && connection
                .options
                .as_object()
                .is_some_and(|o| *o == self.settings.options)
    }

    /// The trouble met since the last call; knocking is allowed again.
    pub fn take_trouble(&self) -> Option<Failure> {
        self.trouble
            .lock()
            .expect("no panic under this lock")
            .take()
    }

    fn trouble(&self) -> Option<Failure> {
        self.trouble
            .lock()
            .expect("no panic under this lock")
            .clone()
    }

    /// Takes over a refresh token that the link before this one was given.
    pub fn adopt(&self, refresh_token: &str) {
        let mut credentials = self.credentials.lock().expect("no panic under this lock");
        credentials
            .0
            .insert("refresh_token".into(), refresh_token.to_owned());
    }

    pub fn usage(&self) -> Usage {
        *self.usage.lock().expect("no panic under this lock")
    }

    /// Drives an operation to its end.
    pub async fn run<T>(
        &self,
        lane: Lane,
        mut operation: Box<dyn Operation<T>>,
    ) -> Result<T, Failure> {
        let mut step = operation.step(None);
        loop {
            step = match step {
                Step::Done(result) => return result,
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    operation.step(None)
                }
                Step::Send(request) => match self.send(lane, request).await {
                    Ok(response) => operation.step(Some(response)),
                    Err(failure) => operation.interrupted(failure),
                },
            };
        }
    }

    /// Sends a request: signed, repeated where that is harmless, with a fresh token if the old one expired.
    async fn send(&self, lane: Lane, mut request: Request) -> Result<Response, Failure> {
        let permits = match lane {
            Lane::RealTime => &self.real_time_permits,
            Lane::Batch => &self.permits,
        };
        let _permit = permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut refreshed = false;
        let mut repeats = 0;
        loop {
            if let Some(failure) = self.trouble() {
                return Err(failure);
            }
            // Signed in place and put back, so that no body is copied.
            let unsigned = request.headers.clone();
            let (url, generation) = self.prepare(&mut request).await?;
            let (back, answer) = self.exchange(url, request).await?;
            request = back;
            request.headers = unsigned;
            match answer {
                Err(failure)
                    if request.repeatable
                        && failure.class == ErrorClass::Transient
                        && repeats < REPEATS =>
                {
                    repeats += 1;
                    tokio::time::sleep(Duration::from_millis(50 << repeats)).await;
                }
                Err(failure) => return Err(self.note(failure)),
                Ok(response) => {
                    self.note_usage(self.provider.usage(&response));
                    self.note_clock(&response);
                    let failure = self.provider.failure(&response);
                    let expired = failure
                        .as_ref()
                        .is_some_and(|f| f.class == ErrorClass::Auth);
                    if expired
                        && !refreshed
                        && matches!(request.target, Target::Api(_))
                        && self.refresh(generation).await?
                    {
                        refreshed = true;
                        continue;
                    }
                    if let Some(failure) =
                        failure.filter(|f| f.scope == crm_domain::failure::Scope::Connection)
                    {
                        self.note(failure);
                    }
                    return Ok(response);
                }
            }
        }
    }

    fn note(&self, failure: Failure) -> Failure {
        if failure.scope == crm_domain::failure::Scope::Connection {
            self.trouble
                .lock()
                .expect("no panic under this lock")
                .get_or_insert(failure.clone());
        }
        failure
    }

    fn note_usage(&self, usage: Usage) {
        if usage != Usage::default() {
            *self.usage.lock().expect("no panic under this lock") = usage;
        }
    }

    /// Signs the request; its absolute URL, and the generation of the token it is signed with.
    async fn prepare(&self, request: &mut Request) -> Result<(String, u64), Failure> {
        match &request.target {
            Target::Url(url) => Ok((url.clone(), 0)),
            Target::Api(path) => {
                let path = path.clone();
                let token = self.token().await?;
                if let Some(access) = &token.access {
                    self.provider.sign(request, access);
                }
                Ok((
                    format!(
                        "{}{path}",
                        token.base_url.as_deref().unwrap_or(&self.base_url)
                    ),
                    token.generation,
                ))
            }
        }
    }

    /// Gives the request back along with what came of it.
    async fn exchange(
        &self,
        url: String,
        request: Request,
    ) -> Result<(Request, Result<Response, Failure>), Failure> {
        match &self.transport {
            Transport::Http(http) => {
                target::check(&url, &self.allowed_hosts).map_err(|reason| {
                    Failure::connection(ErrorClass::Auth, "url_not_allowed", reason)
                })?;
                http.send(url, request).await
            }
            Transport::Stub => {
                let (reply, answer) = oneshot::channel();
                self.outbox.send(Event::Stub {
                    connection: self.name.clone(),
                    request: request.clone(),
                    reply,
                });
                let answer = answer.await.unwrap_or_else(|_| {
                    Err(Failure::connection(
                        ErrorClass::Transient,
                        "no_answer",
                        "the stub CRM did not answer",
                    ))
                });
                Ok((request, answer))
            }
        }
    }

    /// The current token, obtained or renewed when its end is known to be near.
    async fn token(&self) -> Result<Token, Failure> {
        let mut token = self.token.lock().await;
        let ending = token
            .expires
            .is_some_and(|at| at < Instant::now() + EXPIRY_MARGIN);
        if token.access.is_none() || ending {
            let given = self
                .credentials
                .lock()
                .expect("no panic under this lock")
                .get("access_token")
                .map(str::to_owned);
            match given {
                Some(access) if token.generation == 0 => token.access = Some(access),
                _ => {
                    let granted = self.authorise(&mut token).await?;
                    if !granted
                        && token.access.is_none()
                        && matches!(self.transport, Transport::Http(_))
                    {
                        let message = "the connection has no credentials; crm.set_credentials() gives it some";
                        return Err(self.note(Failure::connection(
                            ErrorClass::Auth,
                            "no_credentials",
                            message,
                        )));
                    }
                }
            }
        }
        Ok(token.clone())
    }

    /// Replaces the token of that generation; a caller that comes second finds it replaced. `false`: it cannot be.
    async fn refresh(&self, generation: u64) -> Result<bool, Failure> {
        let mut token = self.token.lock().await;
        if token.generation != generation {
            return Ok(true);
        }
        self.authorise(&mut token).await
    }

    async fn authorise(&self, token: &mut Token) -> Result<bool, Failure> {
        // One at a time: a vendor that rotates refresh tokens takes each of them once.
        let _turn = self.turn.lock().await;
        if let Some(failure) = self.trouble() {
            return Err(failure);
        }
        let credentials = self
            .credentials
            .lock()
            .expect("no panic under this lock")
            .clone();
        let Some(mut operation) = self.provider.authorise(&self.base_url, &credentials) else {
            return Ok(false);
        };
        let mut step = operation.step(None);
        let grant: Grant = loop {
            step = match step {
                Step::Done(Ok(grant)) => break grant,
                Step::Done(Err(failure)) => return Err(self.note(failure)),
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    operation.step(None)
                }
                Step::Send(request) => {
                    let Target::Url(url) = request.target.clone() else {
                        return Err(Failure::connection(
                            ErrorClass::Internal,
                            "authorise",
                            "a grant needs an absolute URL",
                        ));
                    };
                    match self
                        .exchange(url, request)
                        .await
                        .and_then(|(_, answer)| answer)
                    {
                        Ok(response) => operation.step(Some(response)),
                        Err(failure) => operation.interrupted(failure),
                    }
                }
            };
        };
        if let Some(rotated) = grant
            .refresh_token
            .as_deref()
            .filter(|r| credentials.get("refresh_token") != Some(r))
        {
            let (reply, kept) = oneshot::channel();
            self.outbox.send(Event::Rotated {
                connection_id: self.connection_id,
                version: self.version,
                refresh_token: rotated.to_owned(),
                reply,
            });
            if !kept.await.unwrap_or(false) {
                return Err(Failure::connection(
                    ErrorClass::Transient,
                    "rotation",
                    "a new refresh token could not be kept",
                ));
            }
            self.adopt(rotated);
        }
        *token = Token {
            access: Some(grant.access_token),
            base_url: grant
                .base_url
                .or(token.base_url.take())
                .map(|url| url.trim_end_matches('/').to_owned()),
            expires: grant.expires_in.map(|time| Instant::now() + time),
            generation: token.generation + 1,
        };
        Ok(true)
    }
}

/// Links are shared by the slices that use them.
pub type SharedLink = Arc<Link>;
