//! Connected accounts: whose they are, of which CRM, and whether they can be used.

use super::refusal;
use crate::http::{Request, Response};
use crate::tokens::{Standing, Tokens};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Initializing,
    Initiated,
    Active,
    Failed,
    Expired,
    Inactive,
    Revoked,
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_value(text.into()).map_err(|error| error.to_string())
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// The vendor, as the simulator calls it too.
    pub toolkit: &'static str,
    pub user_id: &'static str,
    pub status: Status,
    #[serde(skip)]
    pub access_token: String,
    #[serde(skip)]
    refresh_token: &'static str,
}

#[derive(Debug)]
pub struct Accounts(Mutex<BTreeMap<String, Account>>);

impl Default for Accounts {
    fn default() -> Self {
        Accounts(Mutex::new(initial()))
    }
}

fn initial() -> BTreeMap<String, Account> {
    let account = |(toolkit, token, refresh_token): (&'static str, &str, &'static str)| {
        let account = Account {
            toolkit,
            user_id: "user-1",
            status: Status::Active,
            access_token: token.to_owned(),
            refresh_token,
        };
        (format!("ca_{toolkit}"), account)
    };
    [
        ("salesforce", "sf-token", "sf-refresh"),
        ("hubspot", "hs-token", "hs-refresh"),
    ]
    .map(account)
    .into()
}

impl Accounts {
    pub fn reset(&self) {
        *self.0.lock() = initial();
    }

    pub fn show(&self) -> Value {
        json!(*self.0.lock())
    }

    pub fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut Account) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut accounts = self.0.lock();
        let account = accounts.get_mut(id);
        change(account.ok_or_else(|| format!("there is no account \"{id}\""))?)
    }

    /// An account that can be used.
    pub fn fit(&self, id: &str) -> Result<Account, Response> {
        let account = self.0.lock().get(id).cloned();
        let fix = "Check the connected account id";
        let account = account.ok_or_else(|| {
            refusal(
                400,
                &format!("No connected account found with id {id}"),
                fix,
            )
        })?;
        match account.status {
            Status::Active => Ok(account),
            status => Err(unfit(id, status)),
        }
    }

    /// The account with a token that is good, obtained anew if it must be. Where the CRM gives none
    /// any more, the account has expired.
    pub fn refreshed(
        &self,
        id: &str,
        account: Account,
        tokens: &Tokens,
        now: i64,
    ) -> Result<Account, Response> {
        if tokens.standing(&account.access_token, now) == Standing::Valid {
            return Ok(account);
        }
        let mut accounts = self.0.lock();
        let held = accounts.get_mut(id).expect("it was there");
        if !tokens.refresh_known(account.refresh_token) {
            held.status = Status::Expired;
            return Err(unfit(id, held.status));
        }
        held.access_token = tokens.issue(None, now).access;
        Ok(held.clone())
    }

    pub fn get(&self, id: &str) -> Response {
        match self.0.lock().get(id) {
            Some(account) => Response::json(200, &shown(id, account)),
            None => refusal(404, "Connected account not found", ""),
        }
    }

    pub fn list(&self, request: &Request) -> Response {
        let is_asked = |name: &str, held: &str| {
            let asked = request.list(name);
            asked.is_empty() || asked.iter().any(|one| one == held)
        };
        let accounts = self.0.lock();
        let items: Vec<Value> = accounts
            .iter()
            .filter(|(_, account)| {
                is_asked("toolkit_slugs", account.toolkit)
                    && is_asked("user_ids", account.user_id)
                    && is_asked(
                        "statuses",
                        json!(account.status).as_str().unwrap_or_default(),
                    )
            })
            .map(|(id, account)| shown(id, account))
            .collect();
        let total = items.len();
        Response::json(
            200,
            &json!({"items": items, "total_items": total, "total_pages": 1, "current_page": 1, "next_cursor": null}),
        )
    }

    pub fn enable(&self, id: &str, request: &Request) -> Response {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            enabled: bool,
        }
        let Ok(order) = serde_json::from_slice::<Order>(&request.body) else {
            return refusal(400, "enabled must be a boolean", "");
        };
        let changed = self.change(id, |account| {
            account.status = match order.enabled {
                true => Status::Active,
                false => Status::Inactive,
            };
            Ok(())
        });
        match changed {
            Ok(()) => Response::json(200, &json!({"success": true})),
            Err(_) => refusal(404, "Connected account not found", ""),
        }
    }
}

fn unfit(id: &str, status: Status) -> Response {
    let status = json!(status);
    let status = status.as_str().unwrap_or_default();
    let why = format!("Connected account {id} is in {status} state");
    refusal(422, &why, "Ask the user to connect again")
}

fn shown(id: &str, account: &Account) -> Value {
    let at = "2026-01-02T03:04:05.678Z";
    let masked: String = account
        .access_token
        .chars()
        .take(4)
        .chain("...".chars())
        .collect();
    json!({
        "id": id,
        "toolkit": {"slug": account.toolkit},
        "auth_config": {"id": format!("ac_{}", account.toolkit), "auth_scheme": "OAUTH2", "is_composio_managed": false,
                        "is_disabled": false},
        "user_id": account.user_id,
        "status": account.status,
        "status_reason": null,
        "is_disabled": account.status == Status::Inactive,
        "created_at": at,
        "updated_at": at,
        "state": {"authScheme": "OAUTH2", "val": {"status": account.status, "access_token": masked}},
        "data": {},
        "params": {},
    })
}
