//! How HubSpot grants access tokens: by an app's refresh token. A private app's token is static.

use crate::oauth::Endpoint;
use crate::{BoxOperation, Credentials, Grant};

pub(super) fn authorise(base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
    let url = format!("{}/oauth/v1/token", base_url.trim_end_matches('/'));
    Endpoint::new(url).obtain(credentials)
}
