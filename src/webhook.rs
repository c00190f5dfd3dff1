//! What is done with a request that a CRM sent of its own accord, whichever way it came: by
//! `crm.receive_webhook()` or by the worker's listener.
//!
//! Guarantees: what is not signed with the connection's secret, is too old, too large or no list of
//! events is refused as a whole; what is let in can be stored. No refusal shows a secret, a
//! signature or a body.

use crm_domain::ErrorClass;
use crm_provider::{Credentials, Settings, WebhookError, WebhookEvent, WebhookRequest, provider};
use thiserror::Error;

use crate::secrets::{self, SecretError};
use crate::store::webhook_inbox::Door;

/// Longest body. HubSpot posts a hundred events at once, in less than a tenth of it.
pub const MAX_BODY: usize = 1024 * 1024;
/// Longest id or name, in bytes: far above what vendors use, and room for two of them in an index
/// entry.
const MAX_WORD: usize = 512;
/// The year 9999, in ms: what comes after it is no time of an event, and text forms of times end
/// there.
const LAST_MS: i64 = 253_402_300_799_999;

/// A request as it came in.
pub struct Incoming<'a> {
    /// The address that it was sent to, as far as it is known.
    pub url: &'a str,
    pub headers: &'a [(String, String)],
    /// `None`: it was too large to be read.
    pub body: Option<&'a [u8]>,
}

#[derive(Debug, Error)]
pub enum Refusal {
    #[error(transparent)]
    Request(#[from] WebhookError),
    /// The reason names keys and references of credentials, never a value.
    #[error("the connection's credentials cannot be resolved: {0}")]
    Credentials(String),
}

impl Refusal {
    /// As the audit names it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Refusal::Request(WebhookError::Malformed | WebhookError::TooLarge) => {
                ErrorClass::Validation
            }
            Refusal::Request(_) | Refusal::Credentials(_) => ErrorClass::Auth,
        }
    }
}

/// A connection that can tell its CRM's requests from others. Knows secrets, and shows none.
pub struct Doorkeeper {
    pub door: Door,
    settings: Settings,
    credentials: Result<Credentials, SecretError>,
}

impl Doorkeeper {
    /// Resolves references, so not for threads.
    pub fn new(door: Door) -> Doorkeeper {
        let options = door.options.as_object().cloned().unwrap_or_default();
        Doorkeeper {
            settings: Settings {
                options,
                ..Settings::default()
            },
            credentials: secrets::resolve(&door.secret),
            door,
        }
    }

    /// The events of a request that are to be stored. Those of objects that no table is mapped to
    /// are let go: nobody would ever take them out of the inbox.
    pub fn admit(&self, request: &Incoming) -> Result<Vec<WebhookEvent>, Refusal> {
        let body = request.body.filter(|body| body.len() <= MAX_BODY);
        let body = body.ok_or(WebhookError::TooLarge)?;
        let provider =
            provider(&self.door.provider).ok_or(WebhookError::Unconfigured("provider"))?;
        let credentials = self.credentials.as_ref();
        let credentials = credentials.map_err(|reason| Refusal::Credentials(reason.to_string()))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let request = WebhookRequest {
            method: "POST",
            url: request.url,
            headers: request.headers,
            body,
            now_ms: now.map_or(0, |now| now.as_millis() as i64),
        };
        let mut events = provider.webhook(&self.settings, credentials, &request)?;
        if !events.iter().all(fits) {
            return Err(WebhookError::Malformed.into());
        }
        let is_mapped = |event: &WebhookEvent| {
            let mut mapped = self.door.objects.iter();
            mapped.any(|object| provider.same_object(object, &event.object))
        };
        events.retain(is_mapped);
        Ok(events)
    }
}

/// Whether PostgreSQL can hold it: no text of it takes NUL characters.
fn fits(event: &WebhookEvent) -> bool {
    let words = [&event.event_id, &event.object, &event.crm_id];
    let word_fits = |word: &&String| word.len() <= MAX_WORD && !word.contains('\0');
    words.iter().all(word_fits) && (0..=LAST_MS).contains(&event.occurred_at)
}
