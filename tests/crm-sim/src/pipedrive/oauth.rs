//! `/oauth/token`: the refresh of an app's token, by HTTP Basic.

use crate::http::{Request, Response};
use crate::vendor::Services;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::collections::HashMap;

pub fn token(services: &Services, request: &Request, origin: &str) -> Response {
    let tokens = &services.tokens;
    let known = client(request).is_some_and(|(id, secret)| tokens.client_known(&id, Some(&secret)));
    if !known {
        return refused(401, "invalid_client", "Client authentication failed");
    }
    let form: HashMap<String, String> = request.form().into_iter().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let refresh = field("refresh_token");
    match field("grant_type") {
        "refresh_token" if tokens.refresh_known(refresh) => {}
        "refresh_token" => {
            return refused(
                400,
                "invalid_grant",
                "The refresh token is invalid or has expired",
            );
        }
        _ => return refused(400, "unsupported_grant_type", "Unsupported grant type"),
    }
    let issued = tokens.issue(Some(refresh), services.clock.now());
    Response::json(
        200,
        &json!({
            "access_token": issued.access,
            "token_type": "bearer",
            "refresh_token": issued.rotated.unwrap_or_else(|| refresh.to_owned()),
            "scope": "deals:full contacts:full leads:full products:full activities:full search:read recents:read",
            "expires_in": issued.lifetime_s.unwrap_or(3599),
            "api_domain": origin,
        }),
    )
}

fn client(request: &Request) -> Option<(String, String)> {
    let (scheme, pair) = request.header("authorization")?.split_once(' ')?;
    let pair = String::from_utf8(STANDARD.decode(pair.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then(|| (id.to_owned(), secret.to_owned()))
}

fn refused(status: u16, error: &str, message: &str) -> Response {
    Response::json(
        status,
        &json!({"success": false, "error": error, "message": message}),
    )
}
