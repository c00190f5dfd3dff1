//! Token flows.

use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::json;

use super::super::Salesforce;
use crate::scripted_server::{answer, drive, line, page};
use crate::{Credentials, Grant, Provider, Request, Response};

fn credentials(pairs: &[(&str, &str)]) -> Credentials {
    Credentials(
        pairs
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
    )
}

fn ask(pairs: &[(&str, &str)], response: Response) -> (Result<Grant, Failure>, Request) {
    let operation = Salesforce
        .authorise("https://acme.my.salesforce.com/", &credentials(pairs))
        .unwrap();
    let (result, mut log) = drive(operation, |_, _| response.clone());
    (result, log.requests.remove(0))
}

fn form(request: &Request) -> &str {
    str::from_utf8(&request.body).unwrap()
}

#[test]
fn a_given_token_cannot_be_refreshed() {
    for pairs in [
        &[("access_token", "t")][..],
        &[],
        &[("client_id", "c")],
        &[("refresh_token", "r")],
    ] {
        assert!(
            Salesforce
                .authorise("https://x", &credentials(pairs))
                .is_none()
        );
    }
}

#[test]
fn client_credentials_are_asked_at_the_orgs_own_host() {
    let granted = json!({
        "access_token": "00Dx!new", "instance_url": "https://acme-2.my.salesforce.com/",
        "token_type": "Bearer", "issued_at": "1700000000000",
    });
    let (result, request) = ask(
        &[("client_id", "id"), ("client_secret", "s&cret=")],
        answer(200, &granted),
    );
    assert_eq!(
        line(&request),
        "POST https://acme.my.salesforce.com/services/oauth2/token"
    );
    assert_eq!(
        form(&request),
        "grant_type=client_credentials&client_id=id&client_secret=s%26cret%3D"
    );
    let grant = result.unwrap();
    assert_eq!(grant.access_token, "00Dx!new");
    assert_eq!(
        grant.base_url.as_deref(),
        Some("https://acme-2.my.salesforce.com")
    );
    assert_eq!((grant.refresh_token, grant.expires_in), (None, None));
}

#[test]
fn a_refresh_token_is_asked_at_the_login_host() {
    let granted = json!({ "access_token": "t", "refresh_token": "r2", "expires_in": "7200" });
    let pairs = [("client_id", "id"), ("refresh_token", "r1")];
    let (result, request) = ask(&pairs, answer(200, &granted));
    assert_eq!(
        line(&request),
        "POST https://login.salesforce.com/services/oauth2/token"
    );
    assert_eq!(
        form(&request),
        "grant_type=refresh_token&refresh_token=r1&client_id=id"
    );
    let grant = result.unwrap();
    assert_eq!(grant.refresh_token.as_deref(), Some("r2"));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(7200)));

    let sandbox = [&pairs[..], &[("login_url", "https://test.salesforce.com/")]].concat();
    let (_, request) = ask(&sandbox, answer(200, &granted));
    assert_eq!(
        line(&request),
        "POST https://test.salesforce.com/services/oauth2/token"
    );
}

#[test]
fn a_refusal_speaks_of_the_connection_and_tells_no_secret() {
    let pairs = [
        ("client_id", "id"),
        ("client_secret", "hunter2"),
        ("refresh_token", "5Aep861"),
    ];
    for (status, code, class) in [
        (400, "invalid_grant", ErrorClass::Auth),
        (401, "invalid_client", ErrorClass::Auth),
        (400, "inactive_user", ErrorClass::Auth),
        (400, "invalid_app_access", ErrorClass::Auth),
        (400, "unsupported_grant_type", ErrorClass::Auth),
        (400, "something_new", ErrorClass::Auth),
        (400, "rate_limit_exceeded", ErrorClass::RateLimited),
    ] {
        let body =
            json!({ "error": code, "error_description": "token 5Aep861 of hunter2 is no good" });
        let failure = ask(&pairs, answer(status, &body)).0.unwrap_err();
        assert_eq!(
            (failure.class, failure.scope, failure.code.as_str()),
            (class, Scope::Connection, code)
        );
        assert_eq!(failure.message, "token … of … is no good");
    }
    for (status, class) in [
        (503, ErrorClass::Transient),
        (500, ErrorClass::Transient),
        (404, ErrorClass::Auth),
        (200, ErrorClass::Auth),
    ] {
        let failure = ask(&pairs, page(status)).0.unwrap_err();
        assert_eq!(
            (failure.class, failure.scope),
            (class, Scope::Connection),
            "{status}"
        );
    }
}

#[test]
fn a_key_of_the_servers_own_signs_for_the_user() {
    use crate::jwt::tests::{key, verified};

    let granted = json!({ "access_token": "t", "instance_url": "https://acme.my.salesforce.com" });
    for (more, url, audience) in [
        (
            &[][..],
            "https://login.salesforce.com/services/oauth2/token",
            "https://login.salesforce.com",
        ),
        (
            &[("login_url", "https://test.salesforce.com/")],
            "https://test.salesforce.com/services/oauth2/token",
            "https://test.salesforce.com",
        ),
        (
            &[
                ("login_url", "https://acme.my.salesforce.com"),
                ("audience", "https://login.salesforce.com"),
            ],
            "https://acme.my.salesforce.com/services/oauth2/token",
            "https://login.salesforce.com",
        ),
    ] {
        let mut pairs = vec![
            ("client_id", "id"),
            ("username", "a@b"),
            ("private_key", key()),
        ];
        pairs.extend(more);
        let (result, request) = ask(&pairs, answer(200, &granted));
        assert_eq!(line(&request), format!("POST {url}"));
        let assertion = form(&request).strip_prefix(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=",
        );
        let (_, claims) = verified(assertion.unwrap(), key());
        assert_eq!(
            [&claims["iss"], &claims["sub"], &claims["aud"]],
            ["id", "a@b", audience]
        );
        assert_eq!(result.unwrap().access_token, "t");
    }
}

#[test]
fn a_key_that_cannot_sign_stops_the_connection_and_an_assertion_is_never_quoted() {
    let pairs = [
        ("client_id", "id"),
        ("username", "a@b"),
        ("private_key", "no key"),
    ];
    let operation = Salesforce.authorise("https://x", &credentials(&pairs));
    let (result, log) = drive(operation.unwrap(), |_, _| page(200));
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.scope),
        (ErrorClass::Auth, Scope::Connection)
    );
    assert!(log.requests.is_empty());

    let pairs = [
        ("client_id", "id"),
        ("username", "a@b"),
        ("private_key", crate::jwt::tests::key()),
    ];
    let operation = Salesforce.authorise("https://x", &credentials(&pairs));
    let (result, _) = drive(operation.unwrap(), |_, request: &Request| {
        let assertion = form(request).rsplit('=').next().unwrap();
        answer(
            400,
            &json!({"error": "invalid_grant", "error_description": format!("no: {assertion}")}),
        )
    });
    assert_eq!(result.unwrap_err().message, "no: …");
}

#[test]
fn a_token_url_takes_the_place_of_every_address() {
    let granted = json!({ "access_token": "t" });
    let url = ("token_url", "https://broker.example/token");
    let client = [("client_id", "id"), ("client_secret", "s")];
    for (more, expected) in [
        (
            &[("scope", "api web")][..],
            "grant_type=client_credentials&client_id=id&client_secret=s&scope=api%20web",
        ),
        (
            &[("refresh_token", "r")],
            "grant_type=refresh_token&refresh_token=r&client_id=id&client_secret=s",
        ),
    ] {
        let pairs = [&client, &[url][..], more].concat();
        let (_, request) = ask(&pairs, answer(200, &granted));
        assert_eq!(line(&request), "POST https://broker.example/token");
        assert_eq!(form(&request), expected);
    }
}
