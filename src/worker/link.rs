//! A link: one connection to a CRM as the threads use it.
//!
//! It drives operations, signs requests, refreshes a token once however many requests find it expired, bounds the
//! requests in flight, and remembers trouble, so that what is queued behind a failing request fails at once instead of
//! knocking on a closed door.

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
    transport: Transport,
    allowed_hosts: Vec<String>,
    outbox: Outbox,
    trouble: Mutex<Option<Failure>>,
    usage: Mutex<Usage>,
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
            transport,
            allowed_hosts,
            outbox,
            trouble: Mutex::new(None),
            usage: Mutex::new(Usage::default()),
        }
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
    pub async fn run<T>(&self, mut operation: Box<dyn Operation<T>>) -> Result<T, Failure> {
        let mut step = operation.step(None);
        loop {
            step = match step {
                Step::Done(result) => return result,
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    operation.step(None)
                }
                Step::Send(request) => match self.send(request).await {
                    Ok(response) => operation.step(Some(response)),
                    Err(failure) => operation.interrupted(failure),
                },
            };
        }
    }

    /// Sends a request: signed, repeated where that is harmless, with a fresh token if the old one expired.
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut refreshed = false;
        let mut repeats = 0;
        loop {
            if let Some(failure) = self.trouble() {
                return Err(failure);
            }
            let (url, signed, generation) = self.prepare(&request).await?;
            match self.exchange(url, signed).await {
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

    /// The absolute URL, the signed request and the generation of the token it is signed with.
    async fn prepare(&self, request: &Request) -> Result<(String, Request, u64), Failure> {
        let mut request = request.clone();
        let (url, generation) = match &request.target {
            Target::Url(url) => (url.clone(), 0),
            Target::Api(path) => {
                let path = path.clone();
                let token = self.token().await?;
                if let Some(access) = &token.access {
                    self.provider.sign(&mut request, access);
                }
                (
                    format!(
                        "{}{path}",
                        token.base_url.as_deref().unwrap_or(&self.base_url)
                    ),
                    token.generation,
                )
            }
        };
        Ok((url, request, generation))
    }

    async fn exchange(&self, url: String, request: Request) -> Result<Response, Failure> {
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
                    request,
                    reply,
                });
                answer.await.unwrap_or_else(|_| {
                    Err(Failure::connection(
                        ErrorClass::Transient,
                        "no_answer",
                        "the stub CRM did not answer",
                    ))
                })
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
                    match self.exchange(url, request).await {
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
