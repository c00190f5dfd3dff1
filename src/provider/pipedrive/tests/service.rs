//! What concerns the connection: tokens, budgets, the ping, names.

use std::time::Duration;

use crm_domain::ErrorClass;
use serde_json::json;

use super::super::Pipedrive;
use super::data;
use crate::scripted_server::{answer, drive, settings, with_header};
use crate::webhook::tests::credentials;
use crate::{Method, Provider, Request, Usage};

const APP: &[(&str, &str)] = &[
    ("client_id", "id"),
    ("client_secret", "s"),
    ("refresh_token", "r-1"),
];

#[test]
fn an_api_token_has_a_header_of_its_own() {
    let given = credentials(&[("api_token", "0123456789abcdef")]);
    assert!(Pipedrive.authorise("https://x", &given).is_none());
    let mut request = Request::new(Method::Get, "/x");
    Pipedrive.sign(&mut request, &Pipedrive.given_token(&given).unwrap());
    assert_eq!(
        request.headers,
        [("x-api-token", "0123456789abcdef".to_owned())]
    );
    let mut request = Request::new(Method::Get, "/x");
    Pipedrive.sign(&mut request, "v1u:AQIB");
    assert_eq!(
        request.headers,
        [("authorization", "Bearer v1u:AQIB".to_owned())]
    );
}

#[test]
fn a_refresh_token_is_exchanged_and_moves_to_the_companys_host() {
    let operation = Pipedrive.authorise("https://x", &credentials(APP)).unwrap();
    let granted = json!({
        "access_token": "t", "refresh_token": "r-2", "expires_in": 3599, "token_type": "bearer",
        "scope": "deals:full", "api_domain": "https://acme.pipedrive.com",
    });
    let (result, log) = drive(operation, |_, _| answer(200, &granted));
    assert_eq!(
        log.lines(),
        ["POST https://oauth.pipedrive.com/oauth/token"]
    );
    let form = str::from_utf8(&log.requests[0].body).unwrap();
    assert_eq!(form, "grant_type=refresh_token&refresh_token=r-1");
    let basic = ("authorization", "Basic aWQ6cw==".to_owned());
    assert!(log.requests[0].headers.contains(&basic));
    let grant = result.unwrap();
    assert_eq!(
        grant.base_url.as_deref(),
        Some("https://acme.pipedrive.com")
    );
    assert_eq!(grant.refresh_token.as_deref(), Some("r-2"));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(3599)));
    let elsewhere = [APP, &[("login_url", "http://localhost:1/")]].concat();
    let operation = Pipedrive
        .authorise("https://x", &credentials(&elsewhere))
        .unwrap();
    let (_, log) = drive(operation, |_, _| answer(200, &granted));
    assert_eq!(log.lines(), ["POST http://localhost:1/oauth/token"]);
}

#[test]
fn a_token_alone_cannot_be_refreshed() {
    for pairs in [&[("access_token", "t")][..], &APP[..2], &APP[1..], &[]] {
        assert!(
            Pipedrive
                .authorise("https://x", &credentials(pairs))
                .is_none()
        );
    }
    let operation = Pipedrive.authorise("https://x", &credentials(APP)).unwrap();
    let refused =
        json!({ "success": false, "error": "invalid_grant", "message": "r-1 is no more" });
    let (result, _) = drive(operation, |_, _| answer(400, &refused));
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (ErrorClass::Auth, "invalid_grant")
    );
    assert!(!failure.message.contains("r-1"));
}

#[test]
fn usage_is_read_from_the_headers_there_are() {
    let usage = |headers: &[(&str, &str)]| {
        let response = headers.iter().fold(data(json!({})), |r, (name, value)| {
            with_header(r, name, value)
        });
        Pipedrive.usage(&response)
    };
    let daily = [
        ("x-daily-ratelimit-token-limit", "30000"),
        ("x-daily-ratelimit-token-remaining", "29990"),
    ];
    assert_eq!(
        usage(&[&daily[..], &[("x-ratelimit-remaining", "19")]].concat()),
        Usage {
            daily_limit: Some(30_000),
            daily_remaining: Some(29_990),
            window_remaining: Some(19),
            window_limit: None,
            window: Some(Duration::from_secs(2)),
        }
    );
    assert_eq!(usage(&[]), Usage::default());
}

#[test]
fn the_ping_says_whose_account_it_is() {
    let me = json!({ "id": 1, "company_name": "Acme", "company_domain": "acme" });
    let (result, log) = drive(Pipedrive.ping(&settings(1)), |_, _| data(me.clone()));
    assert_eq!(log.lines(), ["GET /api/v1/users/me"]);
    assert_eq!(result.unwrap(), "Pipedrive answers: Acme");
}

#[test]
fn objects_are_told_in_singular_and_plural() {
    assert!(Pipedrive.same_object("deals", "Deal"));
    assert!(Pipedrive.same_object("x", "X"));
    assert!(!Pipedrive.same_object("deals", "persons"));
    assert!(!Pipedrive.same_object("x", "y"));
}
