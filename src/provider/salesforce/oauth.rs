//! How Salesforce grants access tokens: by a refresh token, by client credentials, or by an
//! assertion that is signed with a key of the server's own (JWT bearer). The grant says where the
//! org's API lives (`instance_url`), which may have moved.

use crate::jwt::{self, Claims};
use crate::oauth::{self, Client, Endpoint};
use crate::operation::FailedOperation;
use crate::{BoxOperation, Credentials, Grant};

/// Where refresh tokens and assertions are honoured for every production org. Client credentials
/// are not: they belong to the org's own host ("My Domain").
const LOGIN_URL: &str = "https://login.salesforce.com";

pub(super) fn authorise(base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
    let get = |key| credentials.get(key).filter(|value| !value.is_empty());
    let login_url = get("login_url").map(|url| url.trim_end_matches('/'));
    let url = |host: &str| format!("{}/services/oauth2/token", host.trim_end_matches('/'));
    let login = login_url.unwrap_or(LOGIN_URL);
    if let Some(key) = get("private_key") {
        let claims = Claims {
            issuer: get("client_id")?,
            subject: get("username")?,
            audience: get("audience").unwrap_or(login),
        };
        let assertion = match claims.sign(key) {
            Ok(assertion) => assertion,
            Err(failure) => return Some(Box::new(FailedOperation::new(failure))),
        };
        let form = [("grant_type", jwt::GRANT), ("assertion", &assertion)];
        let url = get("token_url").map_or_else(|| url(login), str::to_owned);
        return Some(oauth::exchange(&url, &form, Client::InForm, credentials));
    }
    Endpoint {
        for_clients: Some(url(login_url.unwrap_or(base_url))),
        allows_public_clients: true,
        ..Endpoint::new(url(login))
    }
    .obtain(credentials)
}
