//! `/services/oauth2/token`: refresh token, client credentials and JWT bearer flows.
//!
//! Guarantees: tokens given out here open the API until they expire or are revoked; errors have the
//! OAuth shape, not the API's. An assertion must be signed with the key that the client has shown,
//! name the client, a user and this server, and end within three minutes.

use super::org;
use crate::http::{Request, Response};
use crate::store::Actor;
use crate::tokens::Issued;
use crate::vendor::Services;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

const JWT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Servers that an assertion may be meant for, beside the org's own.
const AUDIENCES: [&str; 2] = [
    "https://login.salesforce.com",
    "https://test.salesforce.com",
];
/// How far away its end may be, and a little for clocks that differ.
const LONGEST_MS: i64 = 180_000 + 5_000;

type Denied = (u16, &'static str, &'static str);

pub fn token(services: &Services, request: &Request, origin: &str) -> Response {
    let form: HashMap<String, String> = request.form().into_iter().collect();
    let now = services.clock.now();
    match grant(services, request, &form, origin, now) {
        Ok(issued) => {
            let user = org::user(Actor::Integration);
            let mut body = json!({
                "access_token": issued.access,
                "instance_url": origin,
                "id": format!("{origin}/id/{}/{user}", org::ORG_ID),
                "token_type": "Bearer",
                "scope": "api refresh_token",
                "issued_at": now.to_string(),
                "signature": "c2lnbmF0dXJlIG9mIHRoZSBzaW11bGF0b3I=",
            });
            if let Some(rotated) = issued.rotated {
                body["refresh_token"] = rotated.into();
            }
            Response::json(200, &body)
        }
        Err((status, error, text)) => {
            Response::json(status, &json!({"error": error, "error_description": text}))
        }
    }
}

fn grant(
    services: &Services,
    request: &Request,
    form: &HashMap<String, String>,
    origin: &str,
    now: i64,
) -> Result<Issued, Denied> {
    let tokens = &services.tokens;
    let field = |name: &str| form.get(name).map(String::as_str);
    let basic = basic(request);
    let (client, secret) = match &basic {
        Some((client, secret)) => (Some(client.as_str()), Some(secret.as_str())),
        None => (field("client_id"), field("client_secret")),
    };
    let known = |secret: Option<&str>| match client {
        Some(client) if tokens.client_known(client, secret) => Ok(()),
        _ => Err((400, "invalid_client_id", "client identifier invalid")),
    };
    match field("grant_type") {
        Some("refresh_token") => {
            known(secret)?;
            let refresh = field("refresh_token").unwrap_or_default();
            if !tokens.refresh_known(refresh) {
                return Err((400, "invalid_grant", "expired access/refresh token"));
            }
            Ok(tokens.issue(Some(refresh), now))
        }
        Some("client_credentials") => {
            known(None)?;
            if secret.is_none() || known(secret).is_err() {
                return Err((400, "invalid_client", "invalid client credentials"));
            }
            Ok(tokens.issue(None, now))
        }
        Some(JWT) => {
            let assertion = field("assertion").unwrap_or_default();
            check_jwt(services, assertion, origin, now)?;
            Ok(tokens.issue(None, now))
        }
        _ => Err((400, "unsupported_grant_type", "grant type not supported")),
    }
}

fn basic(request: &Request) -> Option<(String, String)> {
    let encoded = request.header("authorization")?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (client, secret) = text.split_once(':')?;
    Some((client.to_owned(), secret.to_owned()))
}

fn check_jwt(services: &Services, assertion: &str, origin: &str, now: i64) -> Result<(), Denied> {
    let invalid = |text| (400, "invalid_grant", text);
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        return Err(invalid("invalid assertion"));
    };
    let decode = |part: &str| -> Option<Json> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let (Some(header), Some(claims)) = (decode(header), decode(claims)) else {
        return Err(invalid("invalid assertion"));
    };
    let signed = &assertion[..assertion.len() - signature.len() - 1];
    let is_signed = || {
        let key =
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, services.tokens.public_key()?);
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        key.verify(signed.as_bytes(), &signature).ok()
    };
    if header["alg"] != "RS256" || is_signed().is_none() {
        return Err(invalid("invalid assertion"));
    }
    if !services
        .tokens
        .client_known(claims["iss"].as_str().unwrap_or_default(), None)
    {
        return Err((400, "invalid_client_id", "client identifier invalid"));
    }
    let audience = claims["aud"].as_str().unwrap_or_default();
    if !AUDIENCES.contains(&audience) && audience != origin {
        return Err(invalid("audience is invalid"));
    }
    if claims["sub"].as_str().is_none_or(str::is_empty) {
        return Err(invalid("user hasn't approved this consumer"));
    }
    // Some clients write the expiry as text.
    let expiry = match &claims["exp"] {
        Json::String(text) => text.parse().ok(),
        number => number.as_f64(),
    };
    match expiry {
        Some(expiry) if expiry * 1000.0 <= now as f64 => Err(invalid("expired authorization code")),
        Some(expiry) if expiry * 1000.0 <= (now + LONGEST_MS) as f64 => Ok(()),
        _ => Err(invalid("expiration is too far away")),
    }
}
