//! How Salesforce grants access tokens: by a refresh token, or by client credentials. The grant says
//! where the org's API lives (`instance_url`), which may have moved.

use crate::oauth::{self, Client};
use crate::{Credentials, Grant, Operation};

/// Where refresh tokens are honoured for every production org. Client credentials are not: they
/// belong to the org's own host ("My Domain").
const LOGIN_URL: &str = "https://login.salesforce.com";

pub(super) fn authorise(
    base_url: &str,
    credentials: &Credentials,
) -> Option<Box<dyn Operation<Grant>>> {
    let get = |key| credentials.get(key).filter(|value| !value.is_empty());
    let (client_id, client_secret) = (get("client_id")?, get("client_secret"));
    let (mut form, default_url) = match (get("refresh_token"), client_secret) {
        (Some(token), _) => (
            vec![("grant_type", "refresh_token"), ("refresh_token", token)],
            LOGIN_URL,
        ),
        (None, Some(_)) => (vec![("grant_type", "client_credentials")], base_url),
        (None, None) => return None,
    };
    form.push(("client_id", client_id));
    form.extend(client_secret.map(|secret| ("client_secret", secret)));
    let login_url = get("login_url").unwrap_or(default_url);
    let url = format!("{}/services/oauth2/token", login_url.trim_end_matches('/'));
    Some(oauth::exchange(&url, &form, Client::InForm, credentials))
}
