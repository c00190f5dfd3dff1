//! Verifies a webhook, whether it came through `crm.receive_webhook()` or the worker's listener.
//!
//! Guarantees: a request that is not signed with the connection's secret, is too old, too large or
//! not a list of events is refused as a whole; events that are accepted can be stored. No refusal
//! shows a secret, a signature or a body.

use crm_domain::ErrorClass;
use crm_provider::{Credentials, Settings, WebhookError, WebhookEvent, WebhookRequest, provider};
use thiserror::Error;

use crate::secrets::{self, SecretError};
use crate::store::webhook_inbox::WebhookConnection;

/// Longest body. HubSpot posts a hundred events at once, in less than a tenth of it.
pub const MAX_BODY: usize = 1024 * 1024;
/// Longest id or name, in bytes: far above what vendors use, and room for two of them in an index
/// entry.
const MAX_WORD: usize = 512;
/// The end of the year 9999, in ms: the last time that has a text form.
const LAST_MS: i64 = 253_402_300_799_999;

/// A request as it was received.
pub struct InboundRequest<'a> {
    /// The address that it was sent to; empty if not known.
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

/// Distinguishes the requests of a connection's CRM from forged ones. Holds secrets and shows none.
pub struct WebhookVerifier {
    pub connection: WebhookConnection,
    settings: Settings,
    credentials: Result<Credentials, SecretError>,
}

impl WebhookVerifier {
    /// Resolves references to credentials, which only the main thread may do.
    pub fn new(connection: WebhookConnection) -> WebhookVerifier {
        let options = connection.options.as_object().cloned().unwrap_or_default();
        WebhookVerifier {
            settings: Settings {
                options,
                ..Settings::default()
            },
            credentials: secrets::resolve(&connection.secret),
            connection,
        }
    }

    /// The events of a request that are to be stored. Events of objects without a mapped table are
    /// dropped: nothing would ever remove them from the inbox.
    pub fn verify(&self, request: &InboundRequest) -> Result<Vec<WebhookEvent>, Refusal> {
        let body = request.body.filter(|body| body.len() <= MAX_BODY);
        let body = body.ok_or(WebhookError::TooLarge)?;
        let provider =
            provider(&self.connection.provider).ok_or(WebhookError::Unconfigured("provider"))?;
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
            let mut mapped = self.connection.objects.iter();
            mapped.any(|object| provider.same_object(object, &event.object))
        };
        events.retain(is_mapped);
        Ok(events)
    }
}

/// Whether PostgreSQL can store it: its texts cannot contain NUL characters.
fn fits(event: &WebhookEvent) -> bool {
    let words = [&event.event_id, &event.object, &event.crm_id];
    let word_fits = |word: &&String| word.len() <= MAX_WORD && !word.contains('\0');
    words.iter().all(word_fits) && (0..=LAST_MS).contains(&event.occurred_at)
}
