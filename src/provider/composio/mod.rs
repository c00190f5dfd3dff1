//! Composio: a broker that keeps the credentials of a CRM, and carries requests to it.
//!
//! It is not a provider but a route to one. A provider's own requests travel inside Composio's
//! ("proxy execute"), and what the CRM answered comes out of Composio's answers as it was, so
//! conditions, batches and classes of errors stay that provider's. What Composio itself refuses is
//! classed by a table of its own, like any vendor's errors.

mod answers;
mod errors;
#[cfg(test)]
mod tests;

pub use answers::{deliver, usage};

use form_urlencoded::parse;
use serde_json::{Map, Value as Json, json};

use crate::operation::Exchange;
use crate::request::encode;
use crate::{
    BoxOperation, Credentials, Grant, Method, Request, Response, Target, errors as classes,
};

/// The option that names the way to the CRM, and this broker's name there.
pub const VIA_OPTION: &str = "via";
pub const NAME: &str = "composio";
/// The account of the CRM that the broker keeps, and whose it is.
pub const ACCOUNT_OPTION: &str = "connected_account_id";
pub const USER_OPTION: &str = "user_id";
/// The credential: the project's key.
pub const KEY: &str = "api_key";
/// What a connection by way of the broker has to know: the CRM's own webhooks still come directly.
pub const CREDENTIAL_KEYS: [&str; 2] = [KEY, crate::webhook::SECRET];
pub const BASE_URL: &str = "https://backend.composio.dev";

/// The version that both calls are documented for.
const API: &str = "/api/v3.1";

/// Providers whose requests and answers are JSON but for bulk jobs, which nobody confirmed that the
/// broker carries.
pub const CARRIED: [&str; 2] = ["salesforce", "hubspot"];

/// An account of a CRM at the broker, as a connection's options name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    id: String,
    user: Option<String>,
}

/// Whether a connection's options lead by way of the broker.
pub fn is_way(options: &Map<String, Json>) -> bool {
    options.get(VIA_OPTION).is_some_and(|via| via == NAME)
}

impl Account {
    /// `None`: the connection speaks to its CRM directly.
    pub fn of(options: &Map<String, Json>) -> Option<Account> {
        let text = |name| options.get(name).and_then(Json::as_str).map(str::to_owned);
        is_way(options).then(|| Account {
            id: text(ACCOUNT_OPTION).unwrap_or_default(),
            user: text(USER_OPTION),
        })
    }

    /// Asks whether the account is one of `provider`'s, the user's, and fit for use. The key itself
    /// is the token that is granted. A key that may not ask is taken at its word: what it may not
    /// do, it will be told.
    pub fn authorise(
        &self,
        base_url: &str,
        provider: &'static str,
        credentials: &Credentials,
    ) -> Option<BoxOperation<Grant>> {
        let key = credentials.get(KEY).filter(|key| !key.is_empty())?;
        let url = format!("{base_url}{API}/connected_accounts/{}", encode(&self.id));
        let request = Request::url(Method::Get, url).header("x-api-key", key);
        let (account, key) = (self.clone(), key.to_owned());
        Some(Box::new(Exchange::new(
            request,
            move |response: Response| {
                if response.status != 403 {
                    account.examine(provider, &response)?;
                }
                Ok(Grant {
                    access_token: key,
                    base_url: None,
                    refresh_token: None,
                    expires_in: None,
                })
            },
        )))
    }

    fn examine(&self, provider: &str, response: &Response) -> Result<(), crm_domain::Failure> {
        if !response.is_success() {
            return Err(errors::refusal(response));
        }
        let Some(held) = response.json().filter(Json::is_object) else {
            return Err(errors::in_connection(classes::unreadable(response)));
        };
        let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
        let (of, user, status) = (
            text(&held["toolkit"]["slug"]),
            text(&held["user_id"]),
            text(&held["status"]),
        );
        let is_other = |held: &str, own: &str| !held.is_empty() && !held.eq_ignore_ascii_case(own);
        let why = if is_other(&of, provider) {
            format!("belongs to {of}, not to {provider}")
        } else if self
            .user
            .as_deref()
            .is_some_and(|own| !user.is_empty() && user != own)
        {
            "belongs to another user than the connection's".to_owned()
        } else if is_other(&status, "ACTIVE") {
            format!("is {status}: link it again in Composio, then crm.set_credentials()")
        } else {
            return Ok(());
        };
        Err(errors::unfit(&format!(
            "connected account {} {why}",
            self.id
        )))
    }

    /// The request that has the broker send another one. Its query goes apart, as the broker
    /// documents it. `ids`: of the application for what it does, and of the round, a uuid; the
    /// broker's log shows the latter.
    pub fn carry(
        &self,
        request: &Request,
        key: &str,
        (correlation_id, operation_id): (Option<&str>, Option<&str>),
    ) -> Request {
        let (Target::Api(target) | Target::File(target) | Target::Url(target)) = &request.target;
        let (endpoint, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter =
            |name: &str, value: &str, kind| json!({"name": name, "value": value, "type": kind});
        let json_type = |value: &str| value.starts_with("application/json");
        let headers = request.headers.iter();
        // Of JSON the broker says so by itself.
        let headers =
            headers.filter(|(name, value)| !(*name == "content-type" && json_type(value)));
        let parameters: Vec<Json> = headers
            .map(|(name, value)| parameter(name, value, "header"))
            .chain(parse(query.as_bytes()).map(|(name, value)| parameter(&name, &value, "query")))
            .collect();
        let mut order = json!({
            "connected_account_id": self.id,
            "endpoint": endpoint,
            "method": request.method.name(),
            "parameters": parameters,
        });
        if !request.body.is_empty() {
            order["body"] = serde_json::from_slice(&request.body)
                .unwrap_or_else(|_| String::from_utf8_lossy(&request.body).into());
        }
        let carried = Request::new(Method::Post, format!("{API}/tools/execute/proxy"))
            .header("x-api-key", key)
            .json(&order);
        let ids = [
            ("x-correlation-id", correlation_id),
            ("x-request-id", operation_id),
        ];
        ids.into_iter()
            .fold(carried, |carried, (name, id)| match id {
                Some(id) => carried.header(name, header_text(id)),
                None => carried,
            })
    }
}

/// What a header can hold of a text.
fn header_text(text: &str) -> String {
    let fits = |c: &char| matches!(c, ' '..='~');
    text.chars().filter(fits).take(200).collect()
}
