//! Composio, the broker: keeps accounts of the CRMs, and sends requests to them for whoever has its
//! key.
//!
//! Guarantees: a request of a CRM reaches the very vendor that stands beside, with all its faults;
//! an answer of the CRM is a success of the broker, whatever its status; only an ACTIVE account is
//! used; an unknown key of a request is refused.

mod accounts;
mod proxy;

pub use accounts::Accounts;

use crate::budget::{Budget, Verdict};
use crate::clock::Clock;
use crate::http::{Request, Response};
use crate::tokens::{Defaults, Standing};
use crate::vendor::{Services, Sim};
use serde_json::{Value, json};
use std::sync::Arc;

pub const NAME: &str = "composio";

const DEFAULTS: Defaults = Defaults {
    access: "composio-key",
    refresh: "",
    client_id: "",
    client_secret: "",
    lifetime_s: None,
};

/// Its word for a window of ten minutes, in which it counts.
const WINDOW_MS: i64 = 600_000;

#[derive(Debug)]
pub struct Composio {
    pub services: Services,
    pub accounts: Accounts,
}

impl Composio {
    pub fn new(clock: Arc<Clock>) -> Self {
        let budget = Budget::new(u64::MAX, 20_000, WINDOW_MS);
        Self {
            services: Services::new(NAME, clock, DEFAULTS, budget),
            accounts: Accounts::default(),
        }
    }

    pub fn reset(&self) {
        self.services.reset();
        self.accounts.reset();
    }

    pub async fn answer(&self, sim: &Sim, request: &Request) -> Response {
        let now = self.services.clock.now();
        let key = request.header("x-api-key").unwrap_or_default();
        if self.services.tokens.standing(key, now) != Standing::Valid {
            return refusal(401, "Invalid API key", "Check the x-api-key header");
        }
        let verdict = self.services.budget.charge(now, 1);
        let meter = self.services.budget.meter();
        let response = match verdict {
            Verdict::Granted => self.route(sim, request).await,
            Verdict::DaySpent => limited(WINDOW_MS, meter.interval_limit),
            Verdict::IntervalSpent { wait_ms } => limited(wait_ms, meter.interval_limit),
        };
        let window = format!("{}s", meter.interval_ms / 1000);
        response
            .with("X-RateLimit", meter.interval_limit.to_string())
            .with("X-RateLimit-Remaining", meter.interval_left().to_string())
            .with("X-RateLimit-Window-Size", window)
    }

    async fn route(&self, sim: &Sim, request: &Request) -> Response {
        let parts = request.segments();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let ["api", "v3" | "v3.1", rest @ ..] = &parts[..] else {
            return refusal(404, "Route not found", "");
        };
        match (request.method.as_str(), rest) {
            ("GET", ["connected_accounts"]) => self.accounts.list(request),
            ("GET", ["connected_accounts", id]) => self.accounts.get(id),
            ("PATCH", ["connected_accounts", id, "status"]) => self.accounts.enable(id, request),
            ("POST", ["tools", "execute", "proxy"]) => {
                let sent = proxy::execute(sim, &self.accounts, request).await;
                sent.unwrap_or_else(|refusal| refusal)
            }
            _ => refusal(404, "Route not found", ""),
        }
    }
}

/// The gateway's own words, which are not those of the API.
fn limited(wait_ms: i64, limit: u64) -> Response {
    let seconds = wait_ms.max(1).unsigned_abs().div_ceil(1000);
    let message = format!("Rate limit exceeded. Limit: {limit} requests per 10 minutes");
    Response::json(429, &json!({"message": message})).with("Retry-After", seconds.to_string())
}

fn refusal(status: u16, message: &str, fix: &str) -> Response {
    let code = i64::from(status) * 100;
    let error: Value = json!({"message": message, "code": code, "status": status, "request_id": "req_1",
                              "suggested_fix": fix, "errors": []});
    Response::json(status, &json!({ "error": error }))
}

/// What it usually says with a failing status.
pub fn failure(status: u16) -> Response {
    match status {
        429 => limited(1000, 20_000),
        status => refusal(status, "as injected", ""),
    }
}
