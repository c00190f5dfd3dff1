//! `/oauth/v1/token`, `/oauth/v3/token` and what goes with them.
//!
//! Guarantees: a token given out here opens the API for its lifetime; a revoked refresh token gives
//! out no more.

use super::error::correlation_id;
use super::portal::{APP, PORTAL};
use crate::http::{Request, Response};
use crate::tokens::Standing;
use crate::vendor::Services;
use serde_json::json;
use std::collections::HashMap;

pub fn answer(services: &Services, request: &Request, path: &[&str]) -> Response {
    let form: HashMap<String, String> = request.form().into_iter().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let now = services.clock.now();
    match (request.method.as_str(), path) {
        ("POST", [version @ ("v1" | "v3"), "token"]) => token(services, &form, *version == "v3"),
        ("POST", ["v3", "token", "introspect"]) => {
            let active = services.tokens.standing(field("token"), now) == Standing::Valid;
            Response::json(
                200,
                &json!({"active": active, "hub_id": PORTAL, "token_type": "bearer"}),
            )
        }
        ("POST", ["v3", "token", "revoke"]) => {
            services.tokens.revoke(Some(field("token")));
            Response::empty(204)
        }
        ("GET", ["v1", "access-tokens", token]) => match services.tokens.standing(token, now) {
            Standing::Valid => Response::json(
                200,
                &json!({"token": token, "hub_id": PORTAL, "app_id": APP}),
            ),
            _ => refused(404, "INVALID_TOKEN", "token not found"),
        },
        ("DELETE", ["v1", "refresh-tokens", token]) => {
            services.tokens.revoke(Some(token));
            Response::empty(204)
        }
        _ => refused(404, "NOT_FOUND", "resource not found"),
    }
}

fn token(services: &Services, form: &HashMap<String, String>, newer: bool) -> Response {
    let tokens = &services.tokens;
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if !tokens.client_known(field("client_id"), Some(field("client_secret"))) {
        return refused(
            400,
            "BAD_CLIENT_ID",
            "missing or unknown client id or secret",
        );
    }
    let refresh = field("refresh_token");
    let used = match field("grant_type") {
        "refresh_token" if tokens.refresh_known(refresh) => Some(refresh),
        "refresh_token" => {
            return refused(400, "BAD_REFRESH_TOKEN", "missing or invalid refresh token");
        }
        "client_credentials" if newer => None,
        _ => return refused(400, "BAD_GRANT_TYPE", "missing or unknown grant type"),
    };
    let issued = tokens.issue(used, services.clock.now());
    let mut body = json!({
        "access_token": issued.access,
        "expires_in": issued.lifetime_s.unwrap_or(1800),
        "token_type": "bearer",
    });
    if let Some(used) = used {
        body["refresh_token"] = issued.rotated.unwrap_or_else(|| used.to_owned()).into();
    }
    if newer {
        body["hub_id"] = PORTAL.into();
        body["user_id"] = 98.into();
        body["scopes"] = json!(["crm.objects.contacts.write", "crm.objects.contacts.read"]);
        body["token_use"] = "access_token".into();
    }
    Response::json(200, &body)
}

fn refused(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"status": code, "message": message, "correlationId": correlation_id()});
    Response::json(status, &body)
}
