//! OAuth 2.0 token endpoints, which the vendors share but for the address: a form is posted, a
//! grant or a refusal comes back. Which grant is asked for follows from the credentials: by refresh
//! token, or as the client itself (RFC 6749 section 4.4); `token_url` takes the place of the
//! vendor's own address. A refusal speaks of the connection and quotes none of the secrets sent.
//! Zoho refuses with a status of 200, so what counts is whether there is a token.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use crate::errors::{self, Rule, VendorError};
use crate::operation::Exchange;
use crate::request::encode;
use crate::{BoxOperation, Credentials, Grant, Method, Request, Response};

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

/// What a form or credentials hold that is secret. The others name the client.
const SECRETS: [&str; 4] = [
    "access_token",
    "refresh_token",
    "client_secret",
    "assertion",
];

/// How the client proves itself (RFC 6749 section 2.3.1).
pub(crate) enum Client {
    /// By what the form holds.
    InForm,
    /// By HTTP Basic, from `client_id` and `client_secret`.
    Basic,
}

/// Where a vendor grants tokens.
pub(crate) struct Endpoint {
    /// To those who have a refresh token.
    pub url: String,
    /// To clients for themselves. `None`: nowhere, unless `token_url` says where.
    pub for_clients: Option<String>,
    pub client: Client,
    /// Whether a client that has no secret may exchange refresh tokens.
    pub allows_public_clients: bool,
}

impl Endpoint {
    /// For clients that name themselves, by a secret too, in the form.
    pub fn new(url: String) -> Endpoint {
        Endpoint {
            url,
            for_clients: None,
            client: Client::InForm,
            allows_public_clients: false,
        }
    }

    /// Asks for a token with these credentials; `None` if they lack a part.
    pub fn obtain(self, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
        let get = |key| credentials.get(key).filter(|value| !value.is_empty());
        let (client_id, client_secret) = (get("client_id")?, get("client_secret"));
        let (mut form, url) = match get("refresh_token") {
            Some(token) => (
                vec![("grant_type", "refresh_token"), ("refresh_token", token)],
                Some(self.url),
            ),
            None => (vec![("grant_type", "client_credentials")], self.for_clients),
        };
        if client_secret.is_none() && !(self.allows_public_clients && form.len() > 1) {
            return None;
        }
        if matches!(self.client, Client::InForm) {
            form.push(("client_id", client_id));
            form.extend(client_secret.map(|secret| ("client_secret", secret)));
        }
        form.extend(get("scope").map(|scope| ("scope", scope)));
        let url = get("token_url").map(str::to_owned).or(url)?;
        Some(exchange(&url, &form, self.client, credentials))
    }
}

/// Posts a form to a token endpoint.
pub(crate) fn exchange(
    url: &str,
    form: &[(&str, &str)],
    client: Client,
    credentials: &Credentials,
) -> BoxOperation<Grant> {
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
    let given = SECRETS.iter().filter_map(|key| credentials.get(key));
    let sent = form.iter().filter(|(key, _)| SECRETS.contains(key));
    let secrets = given.chain(sent.map(|(_, value)| *value));
    let secrets: Vec<String> = secrets
        .filter(|secret| !secret.is_empty())
        .map(str::to_owned)
        .collect();
    Box::new(Exchange::new(request, move |response| {
        grant(&response, &secrets)
    }))
}

fn grant(response: &Response, secrets: &[String]) -> Result<Grant, Failure> {
    if !response.is_success() {
        return Err(refusal(response, secrets));
    }
    let body = response.json().unwrap_or_default();
    let text = |name: &str| {
        body[name]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    // RFC 6749, appendix A.12. Nothing else fits the header that a token travels in.
    let is_token = |token: &String| token.bytes().all(|b| matches!(b, b' '..=b'~'));
    let Some(access_token) = text("access_token").filter(is_token) else {
        return Err(match text("error") {
            Some(_) => refusal(response, secrets),
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

fn refusal(response: &Response, secrets: &[String]) -> Failure {
    let Some(Json::Object(body)) = response.json() else {
        return in_connection(errors::foreign_body(response));
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
    for secret in secrets {
        message = message.replace(secret.as_str(), "…");
    }
    let vendor_error = VendorError {
        codes: Vec::from_iter(first(["error", "status"]).map(str::to_owned)),
        message,
        names_field: false,
    };
    in_connection(errors::classify_response(TABLE, &vendor_error, response))
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
