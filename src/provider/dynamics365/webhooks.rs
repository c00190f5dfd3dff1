//! Dataverse's webhooks, as steps of its event pipeline post them. Nothing is signed: the sender
//! shows the secret, by `WebhookKey` (`?code=…`) or by `HttpHeader` in a header of a name that we
//! chose.

use percent_encoding::percent_decode_str;
use serde_json::Value as Json;

use super::api;
use crate::webhook::{self, SECRET};
use crate::{Credentials, WebhookError, WebhookEvent, WebhookKind, WebhookRequest, wire};

const HEADER: &str = "x-pgcrm-secret";

pub(super) fn read(
    credentials: &Credentials,
    request: &WebhookRequest<'_>,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let secret = webhook::secret(credentials, &[SECRET])?;
    let shown = request.header(HEADER).map(str::to_owned);
    let shown = shown.or_else(|| code(request.url));
    webhook::check_shown(secret, &shown.ok_or(WebhookError::Forged)?)?;
    let body: Json = crate::body::read(request.body).ok_or(WebhookError::Malformed)?;
    events(&body).ok_or(WebhookError::Malformed)
}

fn code(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let code = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("code="))?;
    let code = percent_decode_str(code).decode_utf8().ok()?;
    Some(code.into_owned())
}

/// One request tells of one message; a merge of two records.
fn events(context: &Json) -> Option<Vec<WebhookEvent>> {
    let message = context["MessageName"].as_str()?;
    let object = context["PrimaryEntityName"]
        .as_str()
        .filter(|name| !name.is_empty())?;
    let created_on = &context["OperationCreatedOn"];
    let occurred_at = moment(created_on.as_str()?).or_else(|| wire::moment(created_on))?;
    let crm_id = id(&context["PrimaryEntityId"])?;
    let kind = match message {
        "Delete" => WebhookKind::Deleted,
        _ => WebhookKind::Changed,
    };
    let taken_in = parameter(context, "SubordinateId").filter(|_| message == "Merge");
    // The record that another took in is kept, as an inactive one.
    let ids = [Some(crm_id), taken_in.and_then(id)].into_iter().flatten();
    let word = |name: &str| wire::scalar_text(&context[name]).unwrap_or_default();
    let one = |crm_id: String| {
        let parts = [
            word("CorrelationId"),
            word("OperationId"),
            object.to_owned(),
            crm_id.clone(),
            message.to_owned(),
            occurred_at.to_string(),
        ];
        WebhookEvent {
            event_id: parts.join(":"),
            object: object.to_owned(),
            crm_id,
            kind,
            occurred_at,
        }
    };
    Some(ids.map(one).collect())
}

fn id(json: &Json) -> Option<String> {
    json.as_str().filter(|id| api::is_id(id)).map(api::id_form)
}

/// A value of the list of what the message was given.
fn parameter<'a>(context: &'a Json, name: &str) -> Option<&'a Json> {
    let mut given = context["InputParameters"].as_array()?.iter();
    given
        .find(|pair| pair["key"] == name)
        .map(|pair| &pair["value"])
}

/// `/Date(1506409448000-0700)/`: milliseconds of UTC, and a zone that changes nothing about them.
fn moment(text: &str) -> Option<i64> {
    let within = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
    let end = within
        .get(1..)?
        .find(['+', '-'])
        .map_or(within.len(), |at| at + 1);
    within[..end].parse().ok()
}
