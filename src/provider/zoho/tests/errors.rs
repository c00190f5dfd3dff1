//! Each row of the error table, and the bodies that errors come in.

use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::super::errors::{TABLE, of_record, of_response};
use crate::Response;
use crate::scripted_server::{answer, assert_rules, empty, page, with_header};

use ErrorClass::*;

fn error(code: &str, message: &str) -> Json {
    json!({ "status": "error", "code": code, "message": message, "details": {} })
}

fn failure(response: &Response) -> Failure {
    of_response(response).expect("a failure")
}

#[test]
fn every_row_of_the_table_can_apply() {
    assert_rules(TABLE, |rule, message| of_record(&error(rule.code, message)));
}

#[test]
fn codes_have_their_classes_whatever_the_status() {
    for (status, code, class, scope) in [
        (401, "INVALID_TOKEN", Auth, Scope::Connection),
        (401, "AUTHENTICATION_FAILURE", Auth, Scope::Connection),
        (401, "OAUTH_SCOPE_MISMATCH", Auth, Scope::Connection),
        (403, "NO_PERMISSION", Mapping, Scope::Records),
        (400, "INVALID_MODULE", Mapping, Scope::Records),
        (404, "INVALID_URL_PATTERN", Mapping, Scope::Records),
        (400, "INVALID_DATA", Validation, Scope::Records),
        (200, "INVALID_DATA", Validation, Scope::Records),
        (400, "BRAND_NEW", Validation, Scope::Records),
        (404, "BRAND_NEW", Mapping, Scope::Records),
        (429, "BRAND_NEW", RateLimited, Scope::Connection),
        (400, "TOO_MANY_REQUESTS", RateLimited, Scope::Connection),
        (500, "INTERNAL_ERROR", Transient, Scope::Records),
        (503, "INTERNAL_ERROR", Transient, Scope::Connection),
    ] {
        let failure = failure(&answer(status, &error(code, "hm")));
        assert_eq!(
            (failure.class, failure.scope),
            (class, scope),
            "{status} {code}"
        );
    }
    assert_eq!(failure(&page(502)).class, Transient);
    assert_eq!(failure(&page(404)).class, Mapping);
}

#[test]
fn a_missing_record_is_told_as_invalid_data() {
    let mut item = error("INVALID_DATA", "the id given seems to be invalid");
    assert_eq!(of_record(&item).class, NotFound);
    item["details"] = json!({ "api_name": "id", "json_path": "$.data[0].id" });
    assert_eq!(of_record(&item).class, NotFound);
    let mut item = error("INVALID_DATA", "invalid data");
    item["details"] = json!({ "api_name": "Email", "expected_data_type": "email" });
    let failure = of_record(&item);
    assert_eq!(
        (failure.class, failure.message.as_str()),
        (Validation, "invalid data: Email, expected email")
    );
}

#[test]
fn an_answer_that_tells_of_records_is_no_failure() {
    let refused = json!({ "data": [error("INVALID_DATA", "no")] });
    for status in [200, 201, 202, 207, 400] {
        assert!(of_response(&answer(status, &refused)).is_none());
    }
    assert!(of_response(&empty(204).answering(&[200, 204])).is_none());
    assert!(of_response(&empty(204)).is_some());
    assert!(of_response(&answer(200, &json!({ "data": [{ "id": "1" }] }))).is_none());
    assert!(of_response(&answer(401, &json!({ "data": [{ "id": "1" }] }))).is_some());
}

#[test]
fn too_many_requests_are_told_from_no_credits() {
    let limited = answer(429, &error("TOO_MANY_REQUESTS", "slow down"));
    let wait = |response: &Response| {
        let failure = failure(response);
        (failure.code, failure.retry_after.unwrap().as_secs())
    };
    assert_eq!(wait(&limited), ("TOO_MANY_REQUESTS".to_owned(), 10));
    let left = |count: &str| with_header(limited.clone(), "x-api-credits-remaining", count);
    assert_eq!(wait(&left("3")).1, 10);
    assert_eq!(wait(&left("0")), ("credits_spent".to_owned(), 900));
    let told = with_header(limited.clone(), "retry-after", "3");
    assert_eq!(failure(&told).retry_after, Some(Duration::from_secs(3)));
    assert_eq!(wait(&page(429)).1, 10);
}

#[test]
fn no_token_shows_in_a_message() {
    let token = "1000.0123456789abcdef.fedcba9876543210";
    let failure = of_record(&error("INVALID_DATA", &format!("token {token} of 1000.5")));
    assert_eq!(failure.message, "token … of 1000.5");
}
