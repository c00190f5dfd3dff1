//! The broker's own errors. Its codes are undocumented numbers, so its HTTP statuses decide.

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use crate::Response;
use crate::errors::{self, Rule, VendorError};

use ErrorClass::{Auth, Mapping, RateLimited, Transient};

/// By `composio_` and the status. The docs' page "Errors"; of 400 the sentence tells more.
pub(super) const TABLE: &[Rule] = &[
    Rule::new(Auth, "composio_400")
        .says("connected account")
        .connection(),
    Rule::new(Auth, "composio_400")
        .says("Connected account")
        .connection(),
    Rule::new(Auth, "composio_400")
        .says("MissingAuthContext")
        .connection(),
    // OriginMismatch, and arguments that are not what they should be.
    Rule::new(Mapping, "composio_400"),
    // The key.
    Rule::new(Auth, "composio_401").connection(),
    // The key is not allowed to, or the account's user is not.
    Rule::new(Auth, "composio_403").connection(),
    // The account.
    Rule::new(Auth, "composio_404").connection(),
    // A request with the same key is on its way.
    Rule::new(Transient, "composio_409").connection().wait(1),
    Rule::new(Mapping, "composio_410"),
    // The account's state: EXPIRED, INACTIVE ...
    Rule::new(Auth, "composio_422").connection(),
    Rule::new(RateLimited, "composio_429").connection().wait(10),
    // It may have reached the CRM or not.
    Rule::new(Transient, "composio_502").connection(),
];

/// The failure of a request that the broker did not carry, or of which it does not know what came.
pub(super) fn refusal(response: &Response) -> Failure {
    let body = response
        .json()
        .unwrap_or_else(|| "no answer of Composio's API".into());
    // {"error": {"message", "suggested_fix", "request_id", ..}}; the gateway's: {"message"}.
    let error = body.get("error").filter(|error| error.is_object());
    let part = |name| error.and_then(|error| error.get(name)?.as_str());
    let own = || text_of(body.get("message").or(body.get("error")).unwrap_or(&body));
    let mut message = part("message").map_or_else(own, str::to_owned);
    for (before, told) in [
        (". ", part("suggested_fix")),
        (" Composio's request_id: ", part("request_id")),
    ] {
        if let Some(told) = told.filter(|told| !told.is_empty()) {
            message.push_str(before);
            message.push_str(told);
        }
    }
    let vendor_error = VendorError {
        codes: vec![format!("composio_{}", response.status)],
        message,
        names_field: false,
    };
    errors::classify_response(TABLE, &vendor_error, response)
}

/// An account that cannot be used as it is.
pub(super) fn unfit(why: &str) -> Failure {
    Failure::connection(Auth, "connected_account", errors::clean(why))
}

/// A failure of which nothing is told but a sentence: what came of the request is not known.
pub(super) fn unknown(told: &str) -> Failure {
    let message = match errors::clean(told) {
        told if told.is_empty() => "Composio reported a failure without a reason".to_owned(),
        told => told,
    };
    Failure::record(Transient, "composio_failed", message)
}

pub(super) fn in_connection(failure: Failure) -> Failure {
    Failure {
        scope: Scope::Connection,
        class: Transient,
        ..failure
    }
}

pub(super) fn text_of(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        Json::Object(error) => match error.get("message").and_then(Json::as_str) {
            Some(message) => message.to_owned(),
            None => json.to_string(),
        },
        other => other.to_string(),
    }
}
