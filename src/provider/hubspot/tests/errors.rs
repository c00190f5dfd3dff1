//! Each row of the error table, and the bodies that errors come in.

use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::super::errors::{TABLE, of_records, of_response};
use crate::Response;
use crate::scripted_server::{answer, assert_rules, empty, page, with_header};

use ErrorClass::*;

fn error(category: &str, message: &str) -> Json {
    json!({ "status": "error", "message": message, "correlationId": "c0ffee", "category": category })
}

fn failure(response: &Response) -> Failure {
    of_response(response).expect("a failure")
}

#[test]
fn every_row_of_the_table_can_apply() {
    assert_rules(TABLE, |rule, message| {
        of_records(&error(rule.code, message))
    });
}

#[test]
fn categories_have_their_classes() {
    for (status, category, class, scope) in [
        (400, "VALIDATION_ERROR", Validation, Scope::Records),
        (401, "EXPIRED_AUTHENTICATION", Auth, Scope::Connection),
        (401, "INVALID_AUTHENTICATION", Auth, Scope::Connection),
        (403, "MISSING_SCOPES", Auth, Scope::Connection),
        (403, "MISSING_PERMISSIONS", Auth, Scope::Connection),
        (404, "OBJECT_NOT_FOUND", NotFound, Scope::Records),
        (409, "CONFLICT", Conflict, Scope::Records),
        (400, "BRAND_NEW", Validation, Scope::Records),
        (404, "BRAND_NEW", Mapping, Scope::Records),
        (413, "BRAND_NEW", Validation, Scope::Records),
        (414, "BRAND_NEW", Validation, Scope::Records),
        (429, "BRAND_NEW", RateLimited, Scope::Connection),
        (500, "BRAND_NEW", Transient, Scope::Records),
        (503, "BRAND_NEW", Transient, Scope::Connection),
    ] {
        let failure = failure(&answer(status, &error(category, "hm")));
        assert_eq!(
            (failure.class, failure.scope, failure.code.as_str()),
            (class, scope, category)
        );
    }
}

#[test]
fn inner_codes_tell_more_than_the_category() {
    for (code, class) in [
        ("PROPERTY_DOESNT_EXIST", Mapping),
        ("READ_ONLY_VALUE", Mapping),
        ("REQUIRED_FIELD", Mapping),
        ("INVALID_OPTION", Validation),
        ("INVALID_EMAIL", Validation),
        ("INVALID_INTEGER", Validation),
        ("INVALID_DATE", Validation),
        ("CONFLICTING_UNIQUE_VALUE", Conflict),
    ] {
        let mut listed = error("VALIDATION_ERROR", "Property values were not valid");
        listed["errors"] = json!([{ "message": "no", "code": code, "in": "x", "context": { "propertyName": ["x"] } }]);
        let quoted = json!([{ "isValid": false, "message": "no", "error": code, "name": "x" }]);
        let quoted = error(
            "VALIDATION_ERROR",
            &format!("Property values were not valid: {quoted} and more"),
        );
        for body in [listed, quoted] {
            let failure = failure(&answer(400, &body));
            assert_eq!((failure.class, failure.code.as_str()), (class, code));
        }
    }
    let broken = error(
        "VALIDATION_ERROR",
        "Property values were not valid: [{\"isValid\":fal",
    );
    assert_eq!(failure(&answer(400, &broken)).code, "VALIDATION_ERROR");
}

#[test]
fn quoted_errors_are_put_into_words() {
    let quoted = json!([
        { "isValid": false, "error": "INVALID_EMAIL", "name": "email", "message": "bad is no address", "localizedErrorMessage": "x" },
        { "isValid": false, "error": "INVALID_OPTION", "name": "stage", "message": "no such option" },
    ]);
    let body = error(
        "VALIDATION_ERROR",
        &format!("Property values were not valid: {quoted}"),
    );
    let message = failure(&answer(400, &body)).message;
    assert_eq!(
        message,
        "Property values were not valid: email: bad is no address; stage: no such option"
    );
}

#[test]
fn a_taken_unique_value_is_a_conflict() {
    let existing = failure(&answer(
        409,
        &error("CONFLICT", "Contact already exists. Existing ID: 123"),
    ));
    assert_eq!(
        (
            existing.class,
            existing.message.contains("Existing ID: 123")
        ),
        (Conflict, true)
    );
    let taken = error(
        "VALIDATION_ERROR",
        "Cannot set x on 1. 2 already has that value.",
    );
    assert_eq!(failure(&answer(400, &taken)).class, Conflict);
}

#[test]
fn both_forms_of_429_say_how_long_to_wait() {
    let limit = |policy: &str| {
        json!({
            "status": "error", "message": format!("You have reached your {policy} limit."),
            "errorType": "RATE_LIMIT", "policyName": policy, "correlationId": "c0ffee",
        })
    };
    let wait = |response: &Response| {
        let failure = failure(response);
        assert_eq!(
            (failure.class, failure.scope),
            (RateLimited, Scope::Connection)
        );
        failure.retry_after
    };
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(
        wait(&answer(429, &limit("TEN_SECONDLY_ROLLING"))),
        seconds(10)
    );
    assert_eq!(wait(&answer(429, &limit("SECONDLY"))), seconds(1));
    assert_eq!(wait(&answer(429, &limit("DAILY"))), seconds(15 * 60));
    assert_eq!(
        wait(&answer(429, &error("RATE_LIMITS", "slow down"))),
        seconds(10)
    );
    assert_eq!(wait(&page(429)), None);
    let told = |policy: &str, value: &str| {
        wait(&with_header(
            answer(429, &limit(policy)),
            "retry-after",
            value,
        ))
    };
    assert_eq!(told("SECONDLY", "3"), seconds(3));
    assert_eq!(told("SECONDLY", "4000"), seconds(4), "milliseconds");
    assert_eq!(told("DAILY", "40000"), seconds(40_000));
    assert_eq!(told("DAILY", "9999999999999"), seconds(24 * 3600));
}

#[test]
fn a_gateways_list_of_one_error_is_understood() {
    let failure = failure(&answer(
        401,
        &json!([error("EXPIRED_AUTHENTICATION", "expired 30 second(s) ago")]),
    ));
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Auth, "EXPIRED_AUTHENTICATION")
    );
    assert_eq!(of_response(&answer(401, &json!([]))).unwrap().class, Auth);
}

#[test]
fn locks_moves_and_edges_are_passing() {
    for status in [423, 477, 502, 503, 504, 521, 522, 523, 524] {
        for response in [
            page(status),
            empty(status),
            answer(status, &json!({ "message": "hm" })),
        ] {
            let failure = failure(&response);
            assert_eq!(
                (failure.class, failure.scope),
                (Transient, Scope::Connection),
                "{status}"
            );
            assert!(!failure.message.contains("html"));
        }
    }
    assert_eq!(
        failure(&page(423)).retry_after,
        Some(Duration::from_secs(2))
    );
    let moving = failure(&with_header(page(477), "retry-after", "30"));
    assert_eq!(moving.retry_after, Some(Duration::from_secs(30)));
}

#[test]
fn a_404_that_is_not_the_vendors_takes_no_record_for_deleted() {
    for response in [
        page(404),
        empty(404),
        answer(404, &json!({ "message": "no route" })),
    ] {
        assert_eq!(failure(&response).class, Mapping);
    }
}
