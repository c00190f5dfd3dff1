//! `/{tenant}/oauth2/v2.0/token`, as Microsoft Entra has it: client credentials and refresh tokens.

use crate::http::{Request, Response};
use crate::vendor::Services;
use serde_json::json;
use std::collections::HashMap;

pub const TENANT: &str = "d365-tenant";

type Denied = (u16, &'static str, &'static str);

pub fn token(services: &Services, request: &Request, tenant: &str) -> Response {
    let form: HashMap<String, String> = request.form().into_iter().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let used = match check(services, tenant, &field) {
        Ok(used) => used,
        Err((status, error, text)) => {
            let told = json!({"error": error, "error_description": text, "error_codes": [],
                              "trace_id": "00000000-0000-0000-0000-000000000000"});
            return Response::json(status, &told);
        }
    };
    let issued = services.tokens.issue(used.as_deref(), services.clock.now());
    let mut body = json!({
        "token_type": "Bearer",
        "expires_in": issued.lifetime_s.unwrap_or(3599),
        "ext_expires_in": issued.lifetime_s.unwrap_or(3599),
        "access_token": issued.access,
    });
    if let Some(used) = used {
        body["refresh_token"] = issued.rotated.unwrap_or(used).into();
    }
    Response::json(200, &body)
}

/// The refresh token that was used, if one was.
fn check<'a>(
    services: &Services,
    tenant: &str,
    field: &impl Fn(&str) -> &'a str,
) -> Result<Option<String>, Denied> {
    let tokens = &services.tokens;
    let secret = Some(field("client_secret")).filter(|secret| !secret.is_empty());
    if tenant != TENANT && tenant != "organizations" {
        return Err((400, "invalid_request", "AADSTS90002: Tenant not found."));
    }
    if !tokens.client_known(field("client_id"), secret) {
        return Err((
            401,
            "invalid_client",
            "AADSTS7000215: Invalid client secret provided.",
        ));
    }
    let mut scopes = field("scope").split(' ');
    if !scopes.any(|scope| scope.starts_with("http") && scope.ends_with("/.default")) {
        return Err((
            400,
            "invalid_scope",
            "AADSTS70011: The provided value for scope is not valid.",
        ));
    }
    match field("grant_type") {
        "client_credentials" if secret.is_none() => Err((
            401,
            "invalid_client",
            "AADSTS7000218: The request body must contain client_secret.",
        )),
        "client_credentials" if tenant != TENANT => Err((
            400,
            "invalid_request",
            "AADSTS53003: Client credentials need a tenant of their own.",
        )),
        "client_credentials" => Ok(None),
        "refresh_token" if tokens.refresh_known(field("refresh_token")) => {
            Ok(Some(field("refresh_token").to_owned()))
        }
        "refresh_token" => Err((
            400,
            "invalid_grant",
            "AADSTS70008: The refresh token has expired or was revoked.",
        )),
        _ => Err((
            400,
            "unsupported_grant_type",
            "AADSTS70003: The grant type is not supported.",
        )),
    }
}
