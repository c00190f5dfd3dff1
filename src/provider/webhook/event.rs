//! Requests that a CRM sends by itself, and the events in them.

use thiserror::Error;

use crate::Credentials;

/// The credential that webhooks are signed with.
pub(crate) const SECRET: &str = "webhook_secret";
/// The option that names the address that the CRM sends to.
pub(crate) const URL_OPTION: &str = "webhook_url";

/// A request as it came in.
#[derive(Clone, Copy)]
pub struct WebhookRequest<'a> {
    pub method: &'a str,
    /// The whole address, as far as it is known; option `webhook_url` takes precedence.
    pub url: &'a str,
    /// Names in any case.
    pub headers: &'a [(String, String)],
    /// As it came, byte by byte.
    pub body: &'a [u8],
    /// The time of the server that received it, UTC milliseconds.
    pub now_ms: i64,
}

impl WebhookRequest<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter();
        let mut found = found.filter(|(held, _)| held.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookKind {
    /// Created or updated.
    Changed,
    Deleted,
    /// Merged into another record.
    Merged,
    /// Back from the recycle bin.
    Restored,
}

/// One record that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    /// The same if the CRM sends the event again, and unique among the connection's events.
    pub event_id: String,
    /// The object's name; compare it by [`crate::Provider::same_object`].
    pub object: String,
    pub crm_id: String,
    pub kind: WebhookKind,
    /// UTC milliseconds, by the CRM.
    pub occurred_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WebhookError {
    #[error("the connection has no {0} to verify webhooks with")]
    Unconfigured(&'static str),
    #[error("the request is not signed with the connection's secret")]
    Forged,
    #[error("the time of the request's signature is more than five minutes off")]
    Stale,
    #[error("the request is signed, but is not a list of events")]
    Malformed,
    /// Checked by the receiver: no provider looks at sizes.
    #[error("the request is too large")]
    TooLarge,
}

/// The first of these credentials that there is.
pub(crate) fn secret<'a>(
    credentials: &'a Credentials,
    keys: &[&str],
) -> Result<&'a str, WebhookError> {
    let given = keys.iter().filter_map(|key| credentials.get(key));
    let mut given = given.filter(|secret| !secret.is_empty());
    given.next().ok_or(WebhookError::Unconfigured(SECRET))
}
