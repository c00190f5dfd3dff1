//! `/tokens`, `/clock`, `/config`: the knobs.
//!
//! Guarantees: a request that is refused has changed nothing; `GET` shows what is in force.

use super::{AdminError, Answer, body, no_route, ok, services_of};
use crate::http::Request;
use crate::vendor::{Services, Sim};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenOrder {
    vendor: String,
    /// Makes this access token valid.
    issue: Option<String>,
    /// With `issue`: for how long. Alone: lifetime of tokens given out from now on; `null` is for
    /// ever.
    #[serde(default, deserialize_with = "given")]
    lifetime_s: Option<Option<i64>>,
    issue_refresh: Option<String>,
    /// An access token, or "all": expired from now on.
    expire: Option<String>,
    /// An access or refresh token, or "all": unknown from now on.
    revoke: Option<String>,
    rotate_refresh: Option<bool>,
    /// The public key of the client's assertions: PEM, BEGIN RSA PUBLIC KEY.
    public_key: Option<String>,
}

fn der(pem: &str) -> Result<Vec<u8>, AdminError> {
    let lines = pem.lines().map(str::trim);
    let mut marks = 0;
    let body: String = lines
        .filter(|line| {
            let is_mark = line.starts_with("-----");
            marks += usize::from(is_mark && line.contains("RSA PUBLIC KEY"));
            !is_mark
        })
        .collect();
    let der = STANDARD.decode(body).ok().filter(|_| marks == 2);
    der.ok_or_else(|| AdminError::Input("public_key: not PEM with BEGIN RSA PUBLIC KEY".to_owned()))
}

/// Tells `null` from absent.
fn given<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::<i64>::deserialize(input).map(Some)
}

pub fn tokens(sim: &Sim, request: &Request) -> Answer {
    match request.method.as_str() {
        "GET" => ok(&per_vendor(sim, |services| json!(services.tokens.state()))),
        "POST" => {
            let order: TokenOrder = body(request)?;
            let services = services_of(sim, &order.vendor)?;
            let (tokens, now) = (&services.tokens, sim.clock.now());
            let key = order.public_key.as_deref().map(der).transpose()?;
            let one = |name: &String| (name != "all").then(|| name.clone());
            if let Some(name) = &order.expire {
                tokens.expire(one(name).as_deref(), now);
            }
            if let Some(name) = &order.revoke {
                tokens.revoke(one(name).as_deref());
            }
            if let Some(name) = &order.issue {
                tokens.admit(name, order.lifetime_s.flatten(), now);
            } else if let Some(lifetime) = order.lifetime_s {
                tokens.set_lifetime(lifetime);
            }
            if let Some(name) = &order.issue_refresh {
                tokens.admit_refresh(name);
            }
            if let Some(on) = order.rotate_refresh {
                tokens.set_rotation(on);
            }
            if let Some(key) = key {
                tokens.set_public_key(key);
            }
            ok(&tokens.state())
        }
        _ => Err(no_route(request)),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockOrder {
    skew_s: f64,
}

pub fn clock(sim: &Sim, request: &Request) -> Answer {
    match request.method.as_str() {
        "GET" => {}
        "POST" => {
            let order: ClockOrder = body(request)?;
            sim.clock.set_skew_ms((order.skew_s * 1000.0) as i64);
        }
        _ => return Err(no_route(request)),
    }
    let skew_s = sim.clock.skew_ms() as f64 / 1000.0;
    ok(&json!({"skew_s": skew_s, "now": crate::clock::iso(sim.clock.now())}))
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ConfigOrder {
    /// All vendors, if absent.
    vendor: Option<String>,
    latency_ms: Option<u64>,
    bulk_latency_ms: Option<u64>,
    gzip: Option<bool>,
    search_lag_ms: Option<i64>,
    daily_limit: Option<u64>,
    daily_used: Option<u64>,
    interval_limit: Option<u64>,
    interval_ms: Option<i64>,
}

pub fn config(sim: &Sim, request: &Request) -> Answer {
    match request.method.as_str() {
        "GET" => {}
        "POST" => {
            let order: ConfigOrder = body(request)?;
            if order.interval_ms.is_some_and(|ms| ms < 1) {
                return Err(AdminError::Input("interval_ms must be at least 1".into()));
            }
            match &order.vendor {
                Some(name) => configure(services_of(sim, name)?, &order),
                None => (sim.services()).for_each(|(_, services)| configure(services, &order)),
            }
        }
        _ => return Err(no_route(request)),
    }
    ok(&per_vendor(
        sim,
        |services| json!({"settings": *services.settings.read(), "budget": services.budget.meter()}),
    ))
}

fn configure(services: &Services, order: &ConfigOrder) {
    let mut settings = services.settings.write();
    set(&mut settings.latency_ms, order.latency_ms);
    set(&mut settings.bulk_latency_ms, order.bulk_latency_ms);
    set(&mut settings.gzip, order.gzip);
    set(&mut settings.search_lag_ms, order.search_lag_ms);
    services.budget.set(|meter| {
        set(&mut meter.daily_limit, order.daily_limit);
        set(&mut meter.daily_used, order.daily_used);
        set(&mut meter.interval_limit, order.interval_limit);
        set(&mut meter.interval_ms, order.interval_ms);
    });
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn per_vendor(sim: &Sim, show: impl Fn(&Services) -> Value) -> Map<String, Value> {
    let entries = sim.services();
    entries
        .map(|(name, services)| (name.to_owned(), show(services)))
        .collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountOrder {
    status: Option<String>,
    /// The token of the CRM that the broker keeps.
    access_token: Option<String>,
}

/// The accounts that the broker keeps.
pub fn accounts(sim: &Sim, id: Option<&str>, request: &Request) -> Answer {
    match (request.method.as_str(), id) {
        ("GET", None) => {}
        ("PATCH", Some(id)) => {
            let order: AccountOrder = body(request)?;
            let changed = sim.composio.accounts.change(id, |account| {
                if let Some(status) = &order.status {
                    account.status = status.parse()?;
                }
                if let Some(token) = order.access_token {
                    account.access_token = token;
                }
                Ok(())
            });
            changed.map_err(AdminError::Input)?;
        }
        _ => return Err(no_route(request)),
    }
    ok(&sim.composio.accounts.show())
}
