//! Each row of the error table, and the bodies that errors come in.

use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::super::errors::{TABLE, of_response};
use crate::Response;
use crate::scripted_server::{answer, assert_rules, page, with_header};

use ErrorClass::*;

fn error(status: u16, code: Option<&str>, message: &str) -> Response {
    let mut body =
        json!({ "success": false, "error": message, "data": null, "additional_data": null });
    if let Some(code) = code {
        body["code"] = code.into();
    }
    answer(status, &body)
}

fn failure(response: &Response) -> Failure {
    of_response(response).expect("a failure")
}

#[test]
fn every_row_of_the_table_can_apply() {
    assert_rules(TABLE, |rule, message| {
        let response = match rule.code {
            "daily_tokens_spent" => with_header(
                error(429, None, message),
                "x-daily-ratelimit-token-remaining",
                "0",
            ),
            "blocked" => page(403),
            "not_successful" => error(200, None, message),
            code => match code.strip_prefix("http_") {
                Some(status) => error(status.parse().unwrap(), None, message),
                None => error(400, Some(code), message),
            },
        };
        failure(&response)
    });
}

#[test]
fn codes_and_statuses_have_their_classes() {
    let schema = Some("ERR_SCHEMA_VALIDATION_FAILED");
    let field = "Validation failed: x: Parameter 'x' is not allowed for this request";
    for (status, code, message, class, scope) in [
        (400, schema, field, Mapping, Scope::Records),
        (
            400,
            schema,
            "Validation failed: name: Required",
            Validation,
            Scope::Records,
        ),
        (
            400,
            schema,
            "Validation failed: name: Parameter is required",
            Mapping,
            Scope::Records,
        ),
        (
            400,
            schema,
            "Validation failed: org_id: Expected number",
            Mapping,
            Scope::Records,
        ),
        (
            400,
            schema,
            "Validation failed: name: too long",
            Validation,
            Scope::Records,
        ),
        (400, None, "Bad request", Validation, Scope::Records),
        (400, Some("ERR_BRAND_NEW"), "hm", Validation, Scope::Records),
        (401, None, "unauthorized access", Auth, Scope::Connection),
        (403, None, "Scope and URL mismatch", Auth, Scope::Connection),
        (
            403,
            None,
            "You do not have permission to edit this",
            Mapping,
            Scope::Records,
        ),
        (404, None, "Deal not found", NotFound, Scope::Records),
        (410, None, "Deal deleted", NotFound, Scope::Records),
        (413, None, "hm", Validation, Scope::Records),
        (422, None, "hm", Validation, Scope::Records),
        (
            429,
            None,
            "request over limit",
            RateLimited,
            Scope::Connection,
        ),
        (500, None, "hm", Transient, Scope::Records),
        (503, None, "hm", Transient, Scope::Connection),
    ] {
        let failure = failure(&error(status, code, message));
        assert_eq!(
            (failure.class, failure.scope),
            (class, scope),
            "{status} {message}"
        );
    }
    assert_eq!(failure(&page(503)).class, Transient);
    assert_eq!(failure(&page(404)).class, Mapping);
    assert_eq!(failure(&page(403)).class, RateLimited);
}

#[test]
fn success_is_what_says_so() {
    assert!(of_response(&answer(200, &json!({ "success": true, "data": {} }))).is_none());
    let created = answer(201, &json!({ "success": true, "data": {} }));
    assert!(of_response(&created).is_some());
    assert!(of_response(&created.answering(&[200, 201])).is_none());
    assert!(of_response(&answer(200, &json!({ "success": false }))).is_some());
}

#[test]
fn too_many_requests_wait_for_the_window_or_for_the_day() {
    let wait = |headers: &[(&str, &str)]| {
        let response = headers
            .iter()
            .fold(error(429, None, "limit"), |r, (name, value)| {
                with_header(r, name, value)
            });
        let failure = failure(&response);
        (failure.code, failure.retry_after.unwrap())
    };
    let burst = |seconds| ("http_429".to_owned(), Duration::from_secs(seconds));
    assert_eq!(wait(&[]), burst(2));
    assert_eq!(wait(&[("x-ratelimit-reset", "1")]), burst(1));
    assert_eq!(wait(&[("x-ratelimit-reset", "86400")]), burst(2));
    assert_eq!(
        wait(&[("x-ratelimit-reset", "1"), ("retry-after", "5")]),
        burst(5)
    );
    assert_eq!(
        wait(&[("x-daily-ratelimit-token-remaining", "7")]),
        burst(2)
    );
    let (code, day) = wait(&[
        ("x-daily-ratelimit-token-remaining", "0"),
        ("x-ratelimit-reset", "1"),
    ]);
    assert_eq!(
        (code.as_str(), day),
        ("daily_tokens_spent", Duration::from_secs(900))
    );
}

#[test]
fn messages_are_the_vendors() {
    let told = |body: Json| failure(&answer(400, &body)).message;
    assert_eq!(
        told(json!({ "success": false, "error": "Bad", "error_info": "see" })),
        "Bad"
    );
    assert_eq!(told(json!({ "success": false, "message": "Bad" })), "Bad");
    assert_eq!(
        told(json!({ "success": false, "error_info": "see" })),
        "see"
    );
    assert_eq!(told(json!({})), "HTTP 400");
}
