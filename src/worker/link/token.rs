//! A link's access token: given or obtained, renewed before its end, replaced once however many
//! requests find it expired.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crm_domain::{ErrorClass, Failure};
use crm_provider::{Credentials, Grant, Provider, Request, Response, Target, composio};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::drive::{Send, drive};
use super::message::Message;
use super::transport::Transport;
use super::wire::Wire;
use crate::worker::mailbox::Sender;

/// A token that expires within this time is not used any more, or within half of its life, if that
/// is short.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
pub struct Token {
    pub access: Option<String>,
    pub base_url: Option<String>,
    /// Counts grants, so that a request knows whether the token it failed with is still the current
    /// one.
    pub generation: u64,
    /// When another is obtained.
    renewed_at: Option<Instant>,
}

/// Whose tokens they are.
pub struct Holder {
    pub connection_id: i32,
    /// Of the credentials.
    pub version: i32,
    pub provider: &'static dyn Provider,
    pub base_url: String,
    /// The account whose broker carries the requests; `None`: nobody does.
    pub account: Option<composio::Account>,
}

/// Where a link's tokens come from.
pub struct TokenSource {
    holder: Holder,
    wire: Arc<Wire>,
    credentials: Mutex<Credentials>,
    token: AsyncMutex<Token>,
    /// Locked while a token is obtained, also by the links that this one follows or is followed by:
    /// a vendor that rotates refresh tokens accepts each of them once.
    turn: Arc<AsyncMutex<()>>,
    /// Where a rotated refresh token is made durable.
    mailbox: Sender<Message>,
}

impl TokenSource {
    pub fn new(
        holder: Holder,
        wire: Arc<Wire>,
        credentials: Credentials,
        turn: Arc<AsyncMutex<()>>,
        mailbox: Sender<Message>,
    ) -> Self {
        TokenSource {
            holder,
            wire,
            credentials: Mutex::new(credentials),
            token: AsyncMutex::default(),
            turn,
            mailbox,
        }
    }

    fn credentials(&self) -> Credentials {
        let credentials = self.credentials.lock();
        credentials.expect("no panic under this lock").clone()
    }

    /// Takes over a refresh token that the link before this one was given.
    pub fn adopt(&self, refresh_token: &str) {
        self.wire.secrets().add([refresh_token.to_owned()]);
        self.credentials
            .lock()
            .expect("no panic under this lock")
            .0
            .insert("refresh_token".into(), refresh_token.to_owned());
    }

    /// The current token, obtained or renewed when its end is known to be near.
    pub async fn current(&self) -> Result<Token, Failure> {
        let mut token = self.token.lock().await;
        let ending = token.renewed_at.is_some_and(|at| at <= Instant::now());
        if token.access.is_some() && !ending {
            return Ok(token.clone());
        }
        let given = match self.holder.account {
            Some(_) => None,
            None => self.holder.provider.given_token(&self.credentials()),
        };
        if given.is_some() && token.generation == 0 {
            token.access = given;
            return Ok(token.clone());
        }
        let granted = self.authorise(&mut token).await?;
        let needs_one = matches!(self.wire.transport, Transport::Http { .. });
        if !granted && token.access.is_none() && needs_one {
            return Err(self.wire.note(Failure::connection(
                ErrorClass::Auth,
                "no_credentials",
                "the connection has no credentials; crm.set_credentials() gives it some",
            )));
        }
        Ok(token.clone())
    }

    /// Replaces the token of that generation; a caller that comes second finds it replaced.
    /// `false`: it cannot be.
    pub async fn replace(&self, generation: u64) -> Result<bool, Failure> {
        let mut token = self.token.lock().await;
        if token.generation != generation {
            return Ok(true);
        }
        self.authorise(&mut token).await
    }

    async fn authorise(&self, token: &mut Token) -> Result<bool, Failure> {
        let _turn = self.turn.lock().await;
        if let Some(failure) = self.wire.health.outage() {
            return Err(failure);
        }
        let credentials = self.credentials();
        let Holder {
            provider, base_url, ..
        } = &self.holder;
        let operation = match &self.holder.account {
            Some(account) => account.authorise(base_url, provider.name(), &credentials),
            None => provider.authorise(base_url, &credentials),
        };
        let Some(operation) = operation else {
            return Ok(false);
        };
        let grant = drive(operation, Unsigned(&self.wire))
            .await
            .map_err(|failure| self.wire.note(failure))?;
        let granted = [
            Some(grant.access_token.clone()),
            grant.refresh_token.clone(),
        ];
        self.wire.secrets().add(granted.into_iter().flatten());
        if let Some(rotated) = grant.refresh_token.as_deref()
            && credentials.get("refresh_token") != Some(rotated)
        {
            self.store(rotated).await?;
        }
        token.renew(grant);
        Ok(true)
    }

    /// Makes a new refresh token durable before anything is done with what came along with it.
    async fn store(&self, rotated: &str) -> Result<(), Failure> {
        let (reply, stored) = oneshot::channel();
        self.mailbox.send(Message::TokenRotated {
            connection_id: self.holder.connection_id,
            version: self.holder.version,
            refresh_token: rotated.to_owned(),
            reply,
        });
        if !stored.await.unwrap_or(false) {
            return Err(Failure::connection(
                ErrorClass::Transient,
                "rotation",
                "a new refresh token could not be stored",
            ));
        }
        self.adopt(rotated);
        Ok(())
    }
}

/// A request for a grant is sent as it is: no token could sign it.
struct Unsigned<'a>(&'a Wire);

impl Send for Unsigned<'_> {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let Target::Url(url) = request.target.clone() else {
            return Err(Failure::connection(
                ErrorClass::Internal,
                "authorise",
                "a grant needs an absolute URL",
            ));
        };
        self.0.secrets().learn(&request);
        self.0.transport.exchange(url, request).await?.1
    }
}

impl Token {
    fn renew(&mut self, grant: Grant) {
        *self = Token {
            access: Some(grant.access_token),
            base_url: grant
                .base_url
                .or(self.base_url.take())
                .map(|url| url.trim_end_matches('/').to_owned()),
            generation: self.generation + 1,
            renewed_at: grant.expires_in.and_then(|time| {
                let used = time - EXPIRY_MARGIN.min(time / 2);
                Instant::now().checked_add(used)
            }),
        };
    }
}
