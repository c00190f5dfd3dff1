//! Zoho's notifications. Nothing is signed: the sender shows the token that the channel was given.

use serde_json::Value as Json;

use crate::webhook::{self, SECRET};
use crate::{Credentials, WebhookError, WebhookEvent, WebhookKind, WebhookRequest, wire};

pub(super) fn read(
    credentials: &Credentials,
    request: &WebhookRequest<'_>,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let secret = webhook::secret(credentials, &[SECRET])?;
    let body: Json = crate::body::read(request.body).ok_or(WebhookError::Forged)?;
    webhook::check_shown(secret, body["token"].as_str().ok_or(WebhookError::Forged)?)?;
    events(&body).ok_or(WebhookError::Malformed)
}

/// One request tells of one kind of change, and of many records.
fn events(body: &Json) -> Option<Vec<WebhookEvent>> {
    let object = body["module"]
        .as_str()
        .filter(|module| !module.is_empty())?;
    let operation = body["operation"].as_str()?;
    let kind = match operation.to_ascii_lowercase().as_str() {
        "insert" | "update" => WebhookKind::Changed,
        "delete" => WebhookKind::Deleted,
        "restore" => WebhookKind::Restored,
        _ => return Some(Vec::new()),
    };
    let occurred_at = wire::moment(&body["server_time"])?;
    let channel = wire::scalar_text(&body["channel_id"]).unwrap_or_default();
    let event = |id: &Json| {
        let crm_id = wire::scalar_text(id).filter(|id| !id.is_empty())?;
        let parts = [
            channel.as_str(),
            object,
            operation,
            &crm_id,
            &occurred_at.to_string(),
        ];
        Some(WebhookEvent {
            event_id: parts.join(":"),
            object: object.to_owned(),
            crm_id,
            kind,
            occurred_at,
        })
    };
    body["ids"].as_array()?.iter().map(event).collect()
}
