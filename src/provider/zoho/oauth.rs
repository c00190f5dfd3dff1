//! How Zoho grants access tokens: by a refresh token, at the accounts server of the data centre
//! where the account lives.

use super::hosts;
use crate::oauth::Endpoint;
use crate::{BoxOperation, Credentials, Grant};

pub(super) fn authorise(base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
    let login_url = credentials.get("login_url").filter(|url| !url.is_empty());
    let known = hosts::of(base_url).map(|dc| dc.accounts);
    let accounts = login_url.or(known).unwrap_or(base_url);
    let url = format!("{}/oauth/v2/token", accounts.trim_end_matches('/'));
    Endpoint::new(url).obtain(credentials)
}
