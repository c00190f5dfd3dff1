//! What concerns the connection: tokens, budgets, the ping.

use std::time::Duration;

use crm_domain::ErrorClass;
use crm_domain::failure::Scope;
use serde_json::json;

use super::super::HubSpot;
use crate::scripted_server::{answer, drive, line, page, settings, with_header};
use crate::{Credentials, Provider, Usage, WriteKind};

fn credentials(pairs: &[(&str, &str)]) -> Credentials {
    Credentials(
        pairs
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
    )
}

const APP: &[(&str, &str)] = &[
    ("client_id", "id"),
    ("client_secret", "s/1"),
    ("refresh_token", "r-1"),
];

#[test]
fn a_private_apps_token_cannot_be_refreshed() {
    for pairs in [&[("access_token", "pat-1")][..], &APP[..2], &APP[1..], &[]] {
        assert!(
            HubSpot
                .authorise("https://api.hubapi.com", &credentials(pairs))
                .is_none()
        );
    }
}

#[test]
fn a_refresh_token_is_exchanged() {
    let operation = HubSpot
        .authorise("https://api.hubapi.com/", &credentials(APP))
        .unwrap();
    let granted = json!({ "access_token": "t", "refresh_token": "r-2", "expires_in": 1800, "token_type": "bearer" });
    let (result, log) = drive(operation, |_, _| answer(200, &granted));
    assert_eq!(log.lines(), ["POST https://api.hubapi.com/oauth/v1/token"]);
    let form = str::from_utf8(&log.requests[0].body).unwrap();
    assert_eq!(
        form,
        "grant_type=refresh_token&refresh_token=r-1&client_id=id&client_secret=s%2F1"
    );
    let grant = result.unwrap();
    assert_eq!((grant.access_token.as_str(), grant.base_url), ("t", None));
    assert_eq!(grant.refresh_token.as_deref(), Some("r-2"));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(1800)));
}

#[test]
fn a_bad_refresh_token_needs_a_person() {
    let operation = HubSpot.authorise("https://x", &credentials(APP)).unwrap();
    let body =
        json!({ "status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token r-1" });
    let (result, _) = drive(operation, |_, _| answer(400, &body));
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.scope),
        (ErrorClass::Auth, Scope::Connection)
    );
    assert_eq!(
        (failure.code.as_str(), failure.message.contains("r-1")),
        ("BAD_REFRESH_TOKEN", false)
    );
}

#[test]
fn usage_is_read_from_the_headers_there_are() {
    let usage = |headers: &[(&str, &str)]| {
        let response = headers.iter().fold(page(200), |response, (name, value)| {
            with_header(response, &format!("x-hubspot-ratelimit-{name}"), value)
        });
        HubSpot.usage(&response)
    };
    let daily = [("daily", "250000"), ("daily-remaining", "249999")];
    let interval = [
        ("interval-milliseconds", "10000"),
        ("max", "100"),
        ("remaining", "99"),
    ];
    let window = |remaining, window_limit, window| Usage {
        window_remaining: Some(remaining),
        window_limit,
        window: Some(window),
        ..Usage::default()
    };
    assert_eq!(
        usage(&[&daily[..], &interval[..]].concat()),
        Usage {
            daily_limit: Some(250_000),
            daily_remaining: Some(249_999),
            ..window(99, Some(100), Duration::from_secs(10))
        }
    );
    assert_eq!(
        usage(&interval),
        window(99, Some(100), Duration::from_secs(10))
    );
    assert_eq!(
        usage(&[("secondly", "10"), ("secondly-remaining", "9")]),
        window(9, None, Duration::from_secs(1))
    );
    assert_eq!(usage(&[("remaining", "lots")]), Usage::default());
    assert_eq!(usage(&[]), Usage::default());
}

#[test]
fn the_ping_accepts_a_token_for_other_objects() {
    let ping =
        |response: crate::Response| drive(HubSpot.ping(&settings(1)), |_, _| response.clone());
    let (result, log) = ping(answer(200, &json!({ "results": [] })));
    assert!(result.is_ok());
    assert_eq!(
        line(&log.requests[0]),
        "GET /crm/v3/objects/contacts?limit=1"
    );
    let missing = json!({ "status": "error", "category": "MISSING_SCOPES", "message": "contacts" });
    assert!(ping(answer(403, &missing)).0.is_ok());
    let invalid =
        json!({ "status": "error", "category": "INVALID_AUTHENTICATION", "message": "no" });
    assert_eq!(
        ping(answer(401, &invalid)).0.unwrap_err().class,
        ErrorClass::Auth
    );
}

#[test]
fn batches_are_of_100() {
    assert_eq!(
        HubSpot.write_size(&settings(1), WriteKind::Upsert, 5000),
        100
    );
    assert_eq!(HubSpot.read_size("contacts"), 100);
}

#[test]
fn clients_are_granted_tokens_only_where_they_say() {
    let client = [("client_id", "id"), ("client_secret", "s")];
    assert!(
        HubSpot
            .authorise("https://x", &credentials(&client))
            .is_none()
    );
    let pairs = [&client[..], &[("token_url", "https://broker.example/t")]].concat();
    assert!(
        HubSpot
            .authorise("https://x", &credentials(&pairs))
            .is_some()
    );
}
