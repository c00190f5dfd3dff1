//! Each row of the error table, and the bodies that errors come in.

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use super::super::errors::{TABLE, of_response};
use super::*;
use crate::scripted_server::{assert_rules, page};

use ErrorClass::*;

fn failure(response: &Response) -> Failure {
    of_response(response).expect("a failure")
}

#[test]
fn every_row_of_the_table_can_apply() {
    assert_rules(TABLE, |rule, message| {
        let code = match rule.code {
            Failure::STALE => "0x80060882",
            code => code,
        };
        failure(&answer(400, &error(code, message)))
    });
}

#[test]
fn codes_have_their_classes_and_others_that_of_the_status() {
    for (status, code, class, scope) in [
        (400, "0x80048D19", Validation, Scope::Records),
        (400, "0x80040265", Validation, Scope::Records),
        (400, "0x89abcdef", Validation, Scope::Records),
        (400, "", Validation, Scope::Records),
        (401, "", Auth, Scope::Connection),
        (403, "0x80040220", Mapping, Scope::Records),
        (403, "0x80072560", Auth, Scope::Connection),
        (403, "0x89abcdef", Auth, Scope::Connection),
        (404, "0x80040217", NotFound, Scope::Records),
        (404, "0x8006088a", Mapping, Scope::Records),
        (404, "", Mapping, Scope::Records),
        (405, "0x80040227", Validation, Scope::Records),
        (405, "", Mapping, Scope::Records),
        (413, "", Validation, Scope::Records),
        (429, "0x80072321", RateLimited, Scope::Connection),
        (429, "", RateLimited, Scope::Connection),
        (500, "0x80040216", Transient, Scope::Records),
        (500, "", Transient, Scope::Records),
        (503, "0x80040216", Transient, Scope::Connection),
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
    assert_eq!(failure(&empty(429)).class, RateLimited);
    assert!(of_response(&empty(204).answering(&[204])).is_none());
    assert_eq!(failure(&empty(204)).code, "undocumented_status");
}

#[test]
fn a_412_is_a_changed_row_or_a_second_one() {
    let told = |code: &str| failure(&answer(412, &error(code, "no")));
    for code in ["0x80060882", "", "0x89abcdef"] {
        assert!(told(code).is_stale(), "{code}");
    }
    assert!(failure(&empty(412)).is_stale());
    for code in ["0x80060892", "0x80040237", "0x80040333"] {
        let failure = told(code);
        assert_eq!((failure.class, failure.code.as_str()), (Conflict, code));
        assert!(!failure.is_stale());
    }
}

#[test]
fn words_tell_where_codes_do_not() {
    for (message, class) in [
        (
            "Could not find a property named 'x' on type 'contact'.",
            Mapping,
        ),
        ("Resource not found for the segment 'x'.", Mapping),
        ("A validation error", Validation),
    ] {
        assert_eq!(failure(&answer(400, &error("0x0", message))).class, class);
    }
    let undeclared = "An undeclared property 'x' which only has property annotations";
    let undeclared = error("0x80048d19", undeclared);
    assert_eq!(failure(&answer(400, &undeclared)).class, Mapping);
}

#[test]
fn limits_wait_as_long_as_they_are_told_to() {
    let limited = answer(
        429,
        &error("0x80072326", "Number of concurrent requests exceeded"),
    );
    assert_eq!(failure(&limited).retry_after.unwrap().as_secs(), 10);
    let told = with_header(limited, "retry-after", "125");
    assert_eq!(failure(&told).retry_after.unwrap().as_secs(), 125);
}

#[test]
fn a_token_in_a_message_is_not_told_on() {
    let token = "eyJ0eXAiOiJKV1Qi.eyJhdWQiOiJodHRwczov.c2lnbmF0dXJl";
    let refused = error("", &format!("the token {token} has expired"));
    let message = failure(&answer(401, &refused)).message;
    assert_eq!(message, "the token … has expired");
}
