//! How HubSpot grants access tokens: by an app's refresh token. A private app's token is static.

use crate::oauth::{self, Client};
use crate::{Credentials, Grant, Operation};

pub(super) fn authorise(
    base_url: &str,
    credentials: &Credentials,
) -> Option<Box<dyn Operation<Grant>>> {
    let get = |key| credentials.get(key).filter(|value| !value.is_empty());
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", get("refresh_token")?),
        ("client_id", get("client_id")?),
        ("client_secret", get("client_secret")?),
    ];
    let url = format!("{}/oauth/v1/token", base_url.trim_end_matches('/'));
    Some(oauth::exchange(&url, &form, Client::InForm, credentials))
}
