//! How Zoho grants access tokens: by a refresh token, at the accounts server of the data centre where the
//! account lives. A token of one data centre is worth nothing at another.

use crate::oauth::Endpoint;
use crate::{Credentials, Grant, Operation};

/// Accounts servers by the end of the API's host (SDK of version 8, package `dc`).
const ACCOUNTS: [(&str, &str); 8] = [
    ("zohoapis.com.au", "https://accounts.zoho.com.au"),
    ("zohoapis.com.cn", "https://accounts.zoho.com.cn"),
    ("zohoapis.eu", "https://accounts.zoho.eu"),
    ("zohoapis.in", "https://accounts.zoho.in"),
    ("zohoapis.jp", "https://accounts.zoho.jp"),
    ("zohoapis.sa", "https://accounts.zoho.sa"),
    ("zohoapis.ca", "https://accounts.zohocloud.ca"),
    ("zohoapis.com", "https://accounts.zoho.com"),
];

pub(super) fn authorise(
    base_url: &str,
    credentials: &Credentials,
) -> Option<Box<dyn Operation<Grant>>> {
    let login_url = credentials.get("login_url").filter(|url| !url.is_empty());
    let host = base_url.trim_end_matches('/');
    let known = ACCOUNTS.iter().find(|(end, _)| host.ends_with(end));
    let accounts = login_url.or(known.map(|(_, accounts)| *accounts));
    let accounts = accounts.unwrap_or(host).trim_end_matches('/');
    let url = format!("{accounts}/oauth/v2/token");
    Endpoint::new(url).obtain(credentials)
}
