//! How Microsoft Entra grants access tokens: by client credentials, or by a refresh token, at the
//! tenant's own endpoint. A token is for one environment, which the scope names by its address.

use crate::oauth::{self, Client};
use crate::{BoxOperation, Credentials, Grant};

const LOGIN_URL: &str = "https://login.microsoftonline.com";

/// Where users of any tenant are known. Client credentials belong to a tenant of their own.
const ANY_TENANT: &str = "organizations";

pub(super) fn authorise(base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
    let get = |key| credentials.get(key).filter(|value| !value.is_empty());
    let (client_id, secret) = (get("client_id")?, get("client_secret"));
    let environment = format!("{}/.default", base_url.trim_end_matches('/'));
    let with_refresh = format!("{environment} offline_access");
    let (mut form, tenant) = match (get("refresh_token"), secret) {
        (Some(token), _) => (
            vec![
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("scope", &with_refresh),
            ],
            get("tenant_id").unwrap_or(ANY_TENANT),
        ),
        (None, Some(_)) => (
            vec![
                ("grant_type", "client_credentials"),
                ("scope", &environment),
            ],
            get("tenant_id")?,
        ),
        (None, None) => return None,
    };
    form.push(("client_id", client_id));
    form.extend(secret.map(|secret| ("client_secret", secret)));
    let login_url = get("login_url").unwrap_or(LOGIN_URL).trim_end_matches('/');
    let url = format!("{login_url}/{tenant}/oauth2/v2.0/token");
    Some(oauth::exchange(&url, &form, Client::InForm, credentials))
}
