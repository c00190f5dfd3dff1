//! `crm.receive_webhook()`: an application hands over what a CRM posted to it.
//!
//! Stored in the caller's transaction; the worker is woken when it commits. An error stores
//! nothing.

use crm_provider::WebhookError;
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use serde_json::Value as Json;

use super::caller::refuse_restricted;
use super::document::Document;
use super::{or_raise, raise, wake};
use crate::store::webhook_inbox::{self, WebhookConnection};
use crate::webhook_verifier::{InboundRequest, MAX_BODY, Refusal, WebhookVerifier};

/// How many of the events are new. `headers`: name -> value, names in any case.
#[pg_extern(volatile, parallel_unsafe, schema = "crm")]
fn receive_webhook(connection: Option<&str>, headers: Option<Document>, body: Option<&str>) -> i32 {
    refuse_restricted();
    let (Some(connection), Some(headers), Some(body)) = (connection, headers, body) else {
        raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "connection, headers and body must not be NULL".to_owned(),
            None,
            "Pass the request's headers as a JSON object and its body unchanged.",
        )
    };
    let headers = read_headers(&headers.0);
    let known = or_raise(webhook_inbox::in_callers_transaction(|client| {
        webhook_inbox::connection(client, connection)
    }));
    let Some(known) = known else {
        unknown(connection)
    };
    let request = InboundRequest {
        // Only the application knows it; option webhook_url states it.
        url: "",
        headers: &headers,
        body: Some(body.as_bytes()),
    };
    let verifier = WebhookVerifier::new(known);
    let events = verifier.verify(&request);
    let events = events.unwrap_or_else(|refusal| refuse(&verifier.connection, &refusal));
    let stored = or_raise(webhook_inbox::in_callers_transaction(|client| {
        webhook_inbox::keep(client, verifier.connection.id, &events)
    }));
    if stored > 0 {
        wake::for_what_waits();
    }
    stored as i32
}

/// Frameworks give a header that came several times as a list.
fn read_headers(headers: &Json) -> Vec<(String, String)> {
    let text = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let value = |value: &Json| match value {
        Json::Array(list) => {
            let texts: Option<Vec<String>> = list.iter().map(text).collect();
            Some(texts?.join(", "))
        }
        one => text(one),
    };
    let read = headers.as_object().and_then(|headers| {
        let pairs = headers.iter();
        pairs
            .map(|(name, held)| Some((name.clone(), value(held)?)))
            .collect()
    });
    read.unwrap_or_else(|| {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "headers must be a JSON object of name -> text".to_owned(),
            None,
            "For example '{\"X-PgCrm-Timestamp\": \"1767323045678\", \"X-PgCrm-Signature\": \"sha256=…\"}'.",
        )
    })
}

fn unknown(connection: &str) -> ! {
    let known = or_raise(webhook_inbox::in_callers_transaction(|client| {
        webhook_inbox::connection_names(client)
    }));
    let known = match known.is_empty() {
        true => "There are no connections yet.".to_owned(),
        false => format!("Connections: {}.", known.join(", ")),
    };
    raise(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("connection \"{connection}\" does not exist"),
        Some(known),
        "Create it with crm.create_connection().",
    )
}

fn refuse(connection: &WebhookConnection, refusal: &Refusal) -> ! {
    use PgSqlErrorCode::*;
    let signing = match connection.provider.as_str() {
        "hubspot" => {
            "HubSpot signs POST, the app's target address, the body and the time with the app's secret: option webhook_url must be that \
             address letter by letter, the body must be as it came, and headers must hold X-HubSpot-Signature-v3 and \
             X-HubSpot-Request-Timestamp."
        }
        "pipedrive" | "zoho" | "dynamics365" => {
            "This CRM signs nothing and shows the credential webhook_secret: Pipedrive by HTTP Basic as user:password, Zoho as the token in \
             the body, Dynamics 365 in the header X-PgCrm-Secret."
        }
        _ => {
            "X-PgCrm-Signature is sha256= and the hexadecimal HMAC-SHA256 of X-PgCrm-Timestamp, a dot and the body as it came, with the \
             credential webhook_secret."
        }
    };
    let (code, hint) = match refusal {
        Refusal::Request(WebhookError::Forged) => {
            (ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, signing)
        }
        Refusal::Request(WebhookError::Stale) => (
            ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            "Pass it on as it arrives, and check the clocks of both sides.",
        ),
        Refusal::Request(WebhookError::Malformed) => (
            ERRCODE_INVALID_PARAMETER_VALUE,
            "docs/providers.md shows the form of what each CRM, or its relay, posts.",
        ),
        Refusal::Request(WebhookError::TooLarge) => (
            ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "Configure the sender to post fewer events per request.",
        ),
        Refusal::Request(WebhookError::Unconfigured("webhook_url")) => (
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "Option webhook_url of crm.create_connection() must be exactly the address that the CRM posts to.",
        ),
        Refusal::Request(WebhookError::Unconfigured(_)) | Refusal::Credentials(_) => (
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "crm.set_credentials() sets it.",
        ),
    };
    let detail = match refusal {
        Refusal::Request(WebhookError::TooLarge) => {
            format!("A body may have {MAX_BODY} bytes. Nothing of it is stored.")
        }
        _ => "Nothing of it is stored.".to_owned(),
    };
    raise(
        code,
        format!("connection \"{}\": {refusal}", connection.name),
        Some(detail),
        hint,
    )
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm.receive_webhook(text, jsonb, text) IS
    'receives a webhook: verifies its signature and stores new events in the caller''s transaction; the worker then fetches their records. '
    'headers: name -> value, in any case; body: unchanged. Returns the number of new events. Errors: 42704 no such connection, 28000 invalid '
    'signature or too old, 22023 malformed, 54000 too large, 55000 no secret or address to verify it with';
"#,
    name = "webhook_comments",
    requires = [receive_webhook]
);
