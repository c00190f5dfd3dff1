//! Access to Pipedrive: by a user's API token, which does not expire, or by an app's refresh token.
//! The grant names the host of the company's API.

use crate::oauth::{Client, Endpoint};
use crate::{BoxOperation, Credentials, Grant, Request};

const LOGIN_URL: &str = "https://oauth.pipedrive.com";

/// An API token has a header of its own. A token is no more than text on its way to the request, so
/// this begins those that are API tokens; no OAuth token has a blank in it.
const API_TOKEN: &str = "x-api-token ";

pub(super) fn given_token(credentials: &Credentials) -> Option<String> {
    let api_token = credentials
        .get("api_token")
        .filter(|token| !token.is_empty());
    let given = credentials.get("access_token").map(str::to_owned);
    given.or(api_token.map(|token| format!("{API_TOKEN}{token}")))
}

pub(super) fn authorise(credentials: &Credentials) -> Option<BoxOperation<Grant>> {
    let login_url = credentials.get("login_url").filter(|url| !url.is_empty());
    let host = login_url.unwrap_or(LOGIN_URL).trim_end_matches('/');
    Endpoint {
        client: Client::Basic,
        ..Endpoint::new(format!("{host}/oauth/token"))
    }
    .obtain(credentials)
}

pub(super) fn sign(request: &mut Request, token: &str) {
    let header = match token.strip_prefix(API_TOKEN) {
        Some(token) => ("x-api-token", token.to_owned()),
        None => ("authorization", format!("Bearer {token}")),
    };
    request.headers.push(header);
}
