//! Pipedrive's webhooks, version 2, and version 1 of old subscriptions. Nothing is signed: the
//! sender shows the user name and the password of the subscription, by HTTP Basic.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::objects::known;
use crate::webhook::{self, SECRET};
use crate::{Credentials, WebhookError, WebhookEvent, WebhookKind, WebhookRequest, wire};

pub(super) fn read(
    credentials: &Credentials,
    request: &WebhookRequest<'_>,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let secret = webhook::secret(credentials, &[SECRET])?;
    webhook::check_shown(secret, &shown(request).ok_or(WebhookError::Forged)?)?;
    let body: Json = crate::body::read(request.body).ok_or(WebhookError::Malformed)?;
    event(&body)
}

/// `user:password`, as the secret has it.
fn shown(request: &WebhookRequest<'_>) -> Option<String> {
    let (scheme, pair) = request.header("authorization")?.split_once(' ')?;
    let pair = STANDARD.decode(pair.trim()).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    scheme.eq_ignore_ascii_case("basic").then_some(pair)
}

fn event(body: &Json) -> Result<Vec<WebhookEvent>, WebhookError> {
    let meta = &body["meta"];
    let word = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| wire::scalar_text(&meta[*name]))
    };
    // Version 1 calls the record's id `id`, which is the event's in version 2.
    let is_first = body["v"] == 1 || meta["entity"].is_null();
    let id = match is_first {
        true => wire::scalar_text(&meta["id"]),
        false => wire::scalar_text(&meta["entity_id"]),
    };
    let entity = word(["entity", "object"]).ok_or(WebhookError::Malformed)?;
    let (crm_id, action) = id
        .zip(word(["action", "action"]))
        .ok_or(WebhookError::Malformed)?;
    let Some(object) = known(&entity) else {
        return Ok(Vec::new());
    };
    let kind = match action.as_str() {
        "create" | "change" | "added" | "updated" => WebhookKind::Changed,
        "delete" | "deleted" if meta["merged_to_id"].is_null() => WebhookKind::Deleted,
        "delete" | "deleted" | "merge" | "merged" => WebhookKind::Merged,
        _ => return Ok(Vec::new()),
    };
    let occurred_at = match wire::moment(&meta["timestamp"]) {
        // Version 1 counts seconds.
        Some(seconds @ 0..100_000_000_000) => seconds * 1000,
        Some(ms) => ms,
        None => return Err(WebhookError::Malformed),
    };
    let own = word(["id", "correlation_id"]).filter(|_| !is_first);
    let parts = [
        own.unwrap_or_default(),
        entity,
        crm_id.clone(),
        action,
        occurred_at.to_string(),
    ];
    Ok(vec![WebhookEvent {
        event_id: parts.join(":"),
        object: object.name.to_owned(),
        crm_id,
        kind,
        occurred_at,
    }])
}
