//! OAuth 2.0 token endpoints, which the vendors share but for the address: a form is posted, a grant
//! or a refusal comes back. A refusal speaks of the connection and quotes none of the secrets sent.
//! Zoho refuses with a status of 200, so what counts is whether there is a token.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use crate::errors::{self, Complaint, Rule};
use crate::operation::Exchange;
use crate::request::encode;
use crate::{Credentials, Grant, Method, Operation, Request, Response};

use ErrorClass::{Auth, RateLimited, Transient};

/// RFC 6749 section 5.2 and what the vendors add to it.
const TABLE: &[Rule] = &[
    Rule::new(Auth, "invalid_grant"),
    Rule::new(Auth, "invalid_client"),
    Rule::new(Auth, "invalid_client_id"),
    Rule::new(Auth, "invalid_client_credentials"),
    Rule::new(Auth, "invalid_request"),
    Rule::new(Auth, "invalid_scope"),
    Rule::new(Auth, "unauthorized_client"),
    Rule::new(Auth, "unsupported_grant_type"),
    Rule::new(Auth, "invalid_app_access"),
    Rule::new(Auth, "inactive_user"),
    Rule::new(Auth, "inactive_org"),
    Rule::new(Auth, "BAD_REFRESH_TOKEN"),
    Rule::new(Auth, "BAD_CLIENT_ID"),
    Rule::new(Auth, "BAD_CLIENT_SECRET"),
    // Zoho's, in answers of 200.
    Rule::new(Auth, "invalid_code"),
    Rule::new(RateLimited, "Access Denied")
        .says("too many")
        .wait(10 * 60),
    Rule::new(Auth, "Access Denied"),
    Rule::new(Transient, "general_error"),
    Rule::new(RateLimited, "rate_limit_exceeded").wait(10),
    Rule::new(Transient, "temporarily_unavailable"),
    Rule::new(Transient, "server_error"),
];

/// Credentials that are secrets. The others name the client.
const SECRETS: [&str; 3] = ["access_token", "refresh_token", "client_secret"];

/// How the client proves itself (RFC 6749 section 2.3.1).
pub(crate) enum Client {
    /// By what the form holds.
    InForm,
    /// By HTTP Basic, from `client_id` and `client_secret`.
    Basic,
}

/// Exchanges a refresh token, by a client that names itself in the form; `None` if a part of it is lacking.
pub(crate) fn refresh(url: &str, credentials: &Credentials) -> Option<Box<dyn Operation<Grant>>> {
    let get = |key| credentials.get(key).filter(|value| !value.is_empty());
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", get("refresh_token")?),
        ("client_id", get("client_id")?),
        ("client_secret", get("client_secret")?),
    ];
    Some(exchange(url, &form, Client::InForm, credentials))
}

/// Posts a form to a token endpoint.
pub(crate) fn exchange(
    url: &str,
    form: &[(&str, &str)],
    client: Client,
    credentials: &Credentials,
) -> Box<dyn Operation<Grant>> {
    let pairs: Vec<String> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    let request = match client {
        Client::InForm => Request::url(Method::Post, url),
        Client::Basic => {
            let part = |key| credentials.get(key).unwrap_or_default();
            let pair = format!("{}:{}", part("client_id"), part("client_secret"));
            let header = format!("Basic {}", STANDARD.encode(pair));
            Request::url(Method::Post, url).header("authorization", header)
        }
    };
    let request = request.header("accept", "application/json").body(
        "application/x-www-form-urlencoded",
        pairs.join("&").into_bytes(),
    );
    let credentials = credentials.clone();
    Box::new(Exchange::new(request, move |response| {
        grant(&response, &credentials)
    }))
}

fn grant(response: &Response, credentials: &Credentials) -> Result<Grant, Failure> {
    if !response.is_success() {
        return Err(refusal(response, credentials));
    }
    let body = response.json().unwrap_or_default();
    let text = |name: &str| {
        body[name]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let Some(access_token) = text("access_token") else {
        return Err(match text("error") {
            Some(_) => refusal(response, credentials),
            None => in_connection(errors::unreadable(response)),
        });
    };
    // Seconds, as a number or as text.
    let expires_in = match &body["expires_in"] {
        Json::Number(n) => n.as_u64(),
        Json::String(s) => s.parse().ok(),
        _ => None,
    };
    Ok(Grant {
        access_token,
        // Salesforce's name for it, and Pipedrive's and Zoho's.
        base_url: text("instance_url")
            .or(text("api_domain"))
            .map(|url| url.trim_end_matches('/').to_owned()),
        refresh_token: text("refresh_token"),
        expires_in: expires_in.map(Duration::from_secs),
    })
}

fn refusal(response: &Response, credentials: &Credentials) -> Failure {
    let Some(Json::Object(body)) = response.json() else {
        return in_connection(errors::foreign(response));
    };
    let first = |names: [&str; 2]| {
        names
            .into_iter()
            .filter_map(|name| body.get(name)?.as_str())
            .next()
    };
    let mut message = first(["error_description", "message"])
        .unwrap_or_default()
        .to_owned();
    for secret in SECRETS
        .iter()
        .filter_map(|key| credentials.get(key))
        .filter(|s| !s.is_empty())
    {
        message = message.replace(secret, "…");
    }
    let complaint = Complaint {
        codes: Vec::from_iter(first(["error", "status"]).map(str::to_owned)),
        message,
        names_field: false,
    };
    in_connection(errors::classify_response(TABLE, &complaint, response))
}

/// No record is at fault when a token is refused, whatever the status.
fn in_connection(failure: Failure) -> Failure {
    let class = match failure.class {
        class @ (Auth | RateLimited | Transient) => class,
        _ => Auth,
    };
    Failure {
        class,
        scope: Scope::Connection,
        ..failure
    }
}
