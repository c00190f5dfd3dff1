//! Webhooks of a relay, which stands between a CRM that sends none of its own and pg_crm.

use serde::Deserialize;

use super::event::{SECRET, WebhookError, WebhookEvent, WebhookKind, WebhookRequest, secret};
use super::signature::{check_age, is_signed};
use crate::{Credentials, wire};

/// An event of a relay.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Relayed {
    event_id: serde_json::Value,
    object: String,
    id: String,
    change_type: String,
    #[serde(default)]
    occurred_at: Option<serde_json::Value>,
}

/// Checks and reads a relay's request: `X-PgCrm-Signature: sha256=HEX` is the HMAC-SHA256 of
/// `X-PgCrm-Timestamp`, a dot and the body.
pub(crate) fn relayed(
    credentials: &Credentials,
    request: &WebhookRequest<'_>,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let secret = secret(credentials, &[SECRET])?;
    let header = |name| request.header(name).ok_or(WebhookError::Forged);
    let time = header("x-pgcrm-timestamp")?;
    let hex_text = header("x-pgcrm-signature")?.strip_prefix("sha256=");
    let signature = hex_text.and_then(|text| hex::decode(text).ok());
    let signature = signature.ok_or(WebhookError::Forged)?;
    if !is_signed(secret, &[time.as_bytes(), b".", request.body], &signature) {
        return Err(WebhookError::Forged);
    }
    let signed_ms = match time.parse().map_err(|_| WebhookError::Malformed)? {
        // Nobody meant a moment of the year 1973: it is in seconds.
        seconds @ 0..100_000_000_000 => seconds * 1000,
        ms => ms,
    };
    check_age(signed_ms, request.now_ms)?;
    let events: Vec<Relayed> = crate::body::read(request.body).ok_or(WebhookError::Malformed)?;
    let event = |event: Relayed| {
        let occurred_at = match &event.occurred_at {
            None => Some(signed_ms),
            Some(told) => wire::moment(told),
        };
        Some(WebhookEvent {
            event_id: wire::scalar_text(&event.event_id).filter(|id| !id.is_empty())?,
            kind: kind(&event.change_type)?,
            crm_id: Some(event.id).filter(|id| !id.is_empty())?,
            object: Some(event.object).filter(|object| !object.is_empty())?,
            occurred_at: occurred_at?,
        })
    };
    let events = events.into_iter().map(event);
    events.collect::<Option<_>>().ok_or(WebhookError::Malformed)
}

/// Salesforce's words of change events.
fn kind(change_type: &str) -> Option<WebhookKind> {
    let word = change_type.to_ascii_uppercase();
    Some(match word.strip_prefix("GAP_").unwrap_or(&word) {
        "CREATE" | "UPDATE" => WebhookKind::Changed,
        "DELETE" => WebhookKind::Deleted,
        "UNDELETE" => WebhookKind::Restored,
        "MERGE" => WebhookKind::Merged,
        _ => return None,
    })
}
