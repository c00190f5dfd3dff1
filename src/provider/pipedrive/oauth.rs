//! How Pipedrive lets one in: by a user's API token, which never ends, or by an app's refresh token. The
//! grant says on which host the company's API lives.

use crate::oauth::{self, Client};
use crate::operation::Ready;
use crate::{Credentials, Grant, Operation, Request};

const LOGIN_URL: &str = "https://oauth.pipedrive.com";

/// An API token has a header of its own. A token is no more than text on its way to the request, so
/// this begins those that are API tokens; no OAuth token has a blank in it.
const API_TOKEN: &str = "x-api-token ";

pub(super) fn authorise(credentials: &Credentials) -> Option<Box<dyn Operation<Grant>>> {
    let get = |key| credentials.get(key).filter(|value| !value.is_empty());
    if let Some(token) = get("api_token") {
        return Some(Box::new(Ready::new(Grant {
            access_token: format!("{API_TOKEN}{token}"),
            base_url: None,
            refresh_token: None,
            expires_in: None,
        })));
    }
    get("client_id").and(get("client_secret"))?;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", get("refresh_token")?),
    ];
    let host = get("login_url").unwrap_or(LOGIN_URL).trim_end_matches('/');
    let url = format!("{host}/oauth/token");
    Some(oauth::exchange(&url, &form, Client::Basic, credentials))
}

pub(super) fn sign(request: &mut Request, token: &str) {
    let header = match token.strip_prefix(API_TOKEN) {
        Some(token) => ("x-api-token", token.to_owned()),
        None => ("authorization", format!("Bearer {token}")),
    };
    request.headers.push(header);
}
