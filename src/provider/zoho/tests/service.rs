//! What concerns the connection: data centres, tokens, credits, the ping.

use std::time::Duration;

use crm_domain::ErrorClass;
use serde_json::json;

use super::super::Zoho;
use crate::scripted_server::{answer, drive, settings, with_header};
use crate::webhook::tests::credentials;
use crate::{Method, Provider, Request, Usage};

const APP: &[(&str, &str)] = &[
    ("client_id", "id"),
    ("client_secret", "s"),
    ("refresh_token", "r-1"),
];

#[test]
fn tokens_are_asked_for_at_the_data_centre_of_the_api() {
    for (api, accounts) in [
        ("https://www.zohoapis.com", "https://accounts.zoho.com"),
        ("https://sandbox.zohoapis.com", "https://accounts.zoho.com"),
        ("https://www.zohoapis.eu/", "https://accounts.zoho.eu"),
        ("https://www.zohoapis.in", "https://accounts.zoho.in"),
        (
            "https://www.zohoapis.com.au",
            "https://accounts.zoho.com.au",
        ),
        (
            "https://www.zohoapis.com.cn",
            "https://accounts.zoho.com.cn",
        ),
        ("https://www.zohoapis.jp", "https://accounts.zoho.jp"),
        ("https://www.zohoapis.sa", "https://accounts.zoho.sa"),
        ("https://www.zohoapis.ca", "https://accounts.zohocloud.ca"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
    ] {
        let operation = Zoho.authorise(api, &credentials(APP)).unwrap();
        let (_, log) = drive(operation, |_, _| answer(200, &json!({})));
        assert_eq!(log.lines(), [format!("POST {accounts}/oauth/v2/token")]);
    }
    for pairs in [&[("access_token", "t")][..], &APP[..2], &APP[1..], &[]] {
        assert!(Zoho.authorise("https://x", &credentials(pairs)).is_none());
    }
}

#[test]
fn a_grant_names_the_host_and_a_refusal_comes_with_200() {
    let ask = |status: u16, body: serde_json::Value| {
        let operation = Zoho
            .authorise("https://www.zohoapis.com", &credentials(APP))
            .unwrap();
        drive(operation, |_, _| answer(status, &body)).0
    };
    let granted = json!({ "access_token": "1000.x", "api_domain": "https://www.zohoapis.eu", "token_type": "Bearer", "expires_in": 3600 });
    for token in ["1000\u{687}", "1000.x\r\nx-more: y", "1000.\0"] {
        let answer = json!({ "access_token": token });
        assert_eq!(ask(200, answer).unwrap_err().code, "unreadable_answer");
    }
    let grant = ask(200, granted).unwrap();
    assert_eq!(grant.base_url.as_deref(), Some("https://www.zohoapis.eu"));
    assert_eq!(
        (grant.refresh_token, grant.expires_in),
        (None, Some(Duration::from_secs(3600)))
    );
    for (body, class) in [
        (json!({ "error": "invalid_code" }), ErrorClass::Auth),
        (json!({ "error": "invalid_client" }), ErrorClass::Auth),
        (json!({ "error": "brand_new" }), ErrorClass::Auth),
        (
            json!({ "error": "Access Denied", "error_description": "You have made too many requests continuously." }),
            ErrorClass::RateLimited,
        ),
    ] {
        let failure = ask(200, body).unwrap_err();
        assert_eq!(failure.class, class);
    }
}

#[test]
fn requests_bear_the_token_in_zohos_own_scheme() {
    let mut request = Request::new(Method::Get, "/x");
    Zoho.sign(&mut request, "1000.x");
    let header = ("authorization", "Zoho-oauthtoken 1000.x".to_owned());
    assert_eq!(request.headers, [header]);
}

#[test]
fn credits_are_told_once_half_of_them_are_spent() {
    let response = answer(200, &json!({}));
    assert_eq!(Zoho.usage(&response), Usage::default());
    let usage = Zoho.usage(&with_header(response, "x-api-credits-remaining", "4321"));
    assert_eq!(usage.daily_remaining, Some(4321));
}

#[test]
fn the_ping_accepts_a_token_for_records_alone() {
    let ping = |status: u16, code: &str| {
        let body = json!({ "status": "error", "code": code, "message": "no", "details": {} });
        drive(Zoho.ping(&settings(1)), |_, _| answer(status, &body)).0
    };
    assert!(ping(401, "OAUTH_SCOPE_MISMATCH").is_ok());
    // Nor is the connection in trouble for it.
    let told = |code: &str| {
        let body = json!({ "status": "error", "code": code, "message": "no", "details": {} });
        Zoho.failure(&answer(401, &body)).is_some()
    };
    assert!(!told("OAUTH_SCOPE_MISMATCH") && told("INVALID_TOKEN"));
    assert_eq!(
        ping(401, "INVALID_TOKEN").unwrap_err().class,
        ErrorClass::Auth
    );
    let (result, log) = drive(Zoho.ping(&settings(1)), |_, _| {
        answer(200, &json!({ "users": [] }))
    });
    assert_eq!(log.lines(), ["GET /crm/v8/users?type=CurrentUser"]);
    assert!(result.is_ok());
}

#[test]
fn a_file_is_asked_for_whatever_its_address_holds() {
    let url = |file| Zoho.file_url(&settings(1), "https://www.zohoapis.com", file);
    for (file, expected) in [
        ("/a b", "https://content.zohoapis.com/a%20b"),
        (
            "https://download-accl.zoho.com/9\u{e9}%2F\0.zip#x",
            "https://download-accl.zoho.com/9%C3%A9%2F%00.zip%23x",
        ),
    ] {
        assert_eq!(url(file).as_deref(), Some(expected));
    }
}
