//! Each row of the error table, in each shape that errors come in.

use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::json;

use super::super::errors::{ErrorItem, TABLE, of_job, of_record, of_response, of_row};
use crate::errors::When;
use crate::scripted_server::{answer, empty, page, sf_error, with_header};

use ErrorClass::*;

/// The classes as the requirements state them, independently of the table.
const EXPECTED: &[(&str, ErrorClass)] = &[
    ("INVALID_SESSION_ID", Auth),
    ("API_DISABLED_FOR_ORG", Auth),
    ("API_CURRENTLY_DISABLED", Auth),
    ("REQUEST_LIMIT_EXCEEDED", RateLimited),
    ("SERVER_UNAVAILABLE", Transient),
    ("QUERY_TIMEOUT", Transient),
    ("REQUEST_RUNNING_TOO_LONG", Transient),
    ("UNKNOWN_EXCEPTION", Transient),
    ("UNABLE_TO_LOCK_ROW", Transient),
    ("ALL_OR_NONE_OPERATION_ROLLED_BACK", Transient),
    ("PROCESSING_HALTED", Transient),
    ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", Mapping),
    ("FIELD_CUSTOM_VALIDATION_EXCEPTION", Validation),
    ("FIELD_INTEGRITY_EXCEPTION", Validation),
    ("STRING_TOO_LONG", Validation),
    ("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", Validation),
    ("NUMBER_OUTSIDE_VALID_RANGE", Validation),
    ("INVALID_EMAIL_ADDRESS", Validation),
    ("REQUIRED_FIELD_MISSING", Mapping),
    ("INVALID_FIELD", Mapping),
    ("INVALID_FIELD_FOR_INSERT_UPDATE", Mapping),
    ("INVALID_TYPE_ON_FIELD_IN_RECORD", Mapping),
    ("INVALID_TYPE", Mapping),
    ("JSON_PARSER_ERROR", Mapping),
    ("MALFORMED_ID", Mapping),
    ("MALFORMED_QUERY", Mapping),
    ("INSUFFICIENT_ACCESS_OR_READONLY", Mapping),
    ("DUPLICATE_VALUE", Conflict),
    ("DUPLICATES_DETECTED", Conflict),
    ("DUPLICATE_EXTERNAL_ID", Conflict),
    ("ENTITY_IS_LOCKED", Conflict),
    ("ENTITY_IS_DELETED", NotFound),
    ("INVALID_CROSS_REFERENCE_KEY", NotFound),
    ("NOT_FOUND", NotFound),
];

fn record_error(code: &str, message: &str, fields: &[&str]) -> Failure {
    let item = json!({ "statusCode": code, "message": message, "fields": fields });
    of_record(vec![serde_json::from_value::<ErrorItem>(item).unwrap()])
}

#[test]
fn every_code_has_its_class_in_every_shape() {
    for &(code, class) in EXPECTED {
        let rest = of_response(&answer(400, &sf_error(code, "what happened"))).unwrap();
        let record = record_error(code, "what happened", &[]);
        let row = of_row(&format!("{code}:what happened:--"));
        for failure in [rest, record, row] {
            assert_eq!((failure.class, failure.code.as_str()), (class, code));
            assert_eq!(failure.message, "what happened");
        }
    }
}

#[test]
fn every_row_of_the_table_can_apply() {
    for rule in TABLE {
        let (message, fields): (&str, &[&str]) = match rule.when {
            When::Always => ("no more", &[]),
            When::Says(text) => (text, &[]),
            When::NamesField => ("no more", &["AccountId"]),
        };
        let failure = record_error(rule.code, message, fields);
        assert_eq!(
            (failure.class, failure.scope, failure.retry_after),
            (rule.class, rule.scope, rule.wait),
            "{}",
            rule.code
        );
    }
}

#[test]
fn refused_service_speaks_of_the_connection_and_a_bad_payload_of_the_records() {
    for status in [401, 402, 403, 408, 420, 423, 429, 502, 503, 504, 520, 524] {
        assert_eq!(
            of_response(&page(status)).unwrap().scope,
            Scope::Connection,
            "{status}"
        );
    }
    for status in [300, 400, 404, 405, 409, 412, 413, 414, 415, 422, 431, 500] {
        assert_eq!(
            of_response(&page(status)).unwrap().scope,
            Scope::Records,
            "{status}"
        );
    }
}

#[test]
fn an_outage_is_the_connections_whatever_code_comes_with_it() {
    let told = |status| of_response(&answer(status, &sf_error("UNKNOWN_EXCEPTION", "hm"))).unwrap();
    for (status, class, scope) in [
        (429, RateLimited, Scope::Connection),
        (503, Transient, Scope::Connection),
        (500, Transient, Scope::Records),
    ] {
        let failure = told(status);
        assert_eq!((failure.class, failure.scope), (class, scope), "{status}");
    }
}

#[test]
fn unknown_codes_fall_into_the_class_of_their_status() {
    for (status, class) in [
        (400, Validation),
        (401, Auth),
        (403, Auth),
        (404, Mapping),
        (409, Conflict),
        (420, Transient),
        (429, RateLimited),
        (500, Transient),
        (503, Transient),
    ] {
        let failure = of_response(&answer(status, &sf_error("BRAND_NEW", "hm"))).unwrap();
        assert_eq!((failure.class, failure.code.as_str()), (class, "BRAND_NEW"));
    }
    assert_eq!(record_error("BRAND_NEW", "hm", &[]).class, Validation);
    assert_eq!(of_row("BRAND_NEW:hm:--").class, Validation);
}

#[test]
fn a_404_that_is_not_the_vendors_takes_no_record_for_deleted() {
    for response in [
        page(404),
        empty(404),
        answer(404, &json!({ "error": "no such host" })),
    ] {
        assert_eq!(of_response(&response).unwrap().class, Mapping);
    }
}

#[test]
fn limits_say_how_long_to_wait() {
    let wait = |message: &str| {
        let failure =
            of_response(&answer(403, &sf_error("REQUEST_LIMIT_EXCEEDED", message))).unwrap();
        assert_eq!(
            (failure.class, failure.scope),
            (RateLimited, Scope::Connection)
        );
        failure.retry_after.unwrap()
    };
    let daily = wait("TotalRequests Limit exceeded.");
    let concurrent = wait("ConcurrentPerOrgLongTxn Limit exceeded.");
    assert!(daily >= Duration::from_secs(600), "{daily:?}");
    assert!(concurrent <= Duration::from_secs(10), "{concurrent:?}");
}

#[test]
fn retry_after_is_heeded_and_clamped() {
    let told = |status: u16, value: &str| {
        of_response(&with_header(page(status), "retry-after", value))
            .unwrap()
            .retry_after
    };
    assert_eq!(told(503, "7"), Some(Duration::from_secs(7)));
    assert_eq!(told(429, "0"), Some(Duration::from_millis(100)));
    assert_eq!(
        told(429, "5000"),
        Some(Duration::from_secs(5)),
        "milliseconds"
    );
    assert_eq!(told(429, "99999999999"), Some(Duration::from_secs(600)));
    for nonsense in ["-1", "NaN", "inf", "soon", ""] {
        let wait = told(429, nonsense);
        assert!(
            wait.is_none_or(|wait| wait <= Duration::from_secs(600)),
            "{nonsense}: {wait:?}"
        );
    }
    assert_eq!(told(400, "7"), None);
}

#[test]
fn a_lookup_that_is_missing_is_not_the_record_missing() {
    for code in ["INVALID_CROSS_REFERENCE_KEY", "ENTITY_IS_DELETED"] {
        assert_eq!(record_error(code, "gone", &["AccountId"]).class, Mapping);
        assert_eq!(record_error(code, "gone", &["Id"]).class, NotFound);
        assert_eq!(
            of_row(&format!("{code}:invalid cross reference id:AccountId --")).class,
            Mapping
        );
        assert_eq!(
            of_row(&format!("{code}:invalid cross reference id:Id --")).class,
            NotFound
        );
        assert_eq!(
            of_row(&format!("{code}:invalid cross reference id:--")).class,
            NotFound
        );
    }
}

#[test]
fn a_lock_met_by_a_trigger_is_transient() {
    let message =
        "execution of AfterUpdate caused by: UNABLE_TO_LOCK_ROW, unable to obtain exclusive access";
    assert_eq!(
        record_error("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message, &[]).class,
        Transient
    );
}

#[test]
fn a_bulk_row_tells_code_message_and_fields() {
    let failure =
        of_row("REQUIRED_FIELD_MISSING:Required fields are missing: [LastName]:LastName --");
    assert_eq!(failure.code, "REQUIRED_FIELD_MISSING");
    assert_eq!(failure.message, "Required fields are missing: [LastName]");
    let failure = of_row("something without any code");
    assert_eq!(
        (failure.class, failure.message.as_str()),
        (Validation, "something without any code")
    );
    assert_eq!(of_row("").class, Validation);
}

#[test]
fn a_failed_job_tells_its_code_in_a_sentence() {
    let failure = of_job("Failed", "InvalidBatch : Field name not found : Nope__c");
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Mapping, "InvalidBatch")
    );
    assert!(failure.message.contains("Nope__c"));
    let failure = of_job("Failed", "ApiBatchItems Limit exceeded.");
    assert_eq!(
        (failure.class, failure.scope),
        (RateLimited, Scope::Connection)
    );
    let failure = of_job("Aborted", "");
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Transient, "job_aborted")
    );
}

#[test]
fn several_records_of_one_external_id_are_a_conflict() {
    let body = json!([
        "/services/data/v66.0/sobjects/Contact/003A",
        "/services/data/v66.0/sobjects/Contact/003B"
    ]);
    let failure = of_response(&answer(300, &body)).unwrap();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Conflict, "DUPLICATE_EXTERNAL_ID")
    );
}

#[test]
fn messages_are_bounded_printable_and_tell_no_token() {
    let token = "00D5g000004abcd!AQEAQKxLmN0pQrStUvWxYz1234567890";
    let message = format!(
        "Session\u{0}expired\nfor {token}: Bearer abc.def/ghi and pat-na1-0123456789abcdef01 {}",
        "é".repeat(5000)
    );
    let failure = of_response(&answer(401, &sf_error("INVALID_SESSION_ID", &message))).unwrap();
    assert!(
        failure.message.starts_with("Session expired for …"),
        "{}",
        failure.message
    );
    for secret in [token, "abc.def", "pat-na1"] {
        assert!(!failure.message.contains(secret), "{}", failure.message);
    }
    assert!(failure.message.len() <= Failure::MESSAGE_BYTES);
    assert!(!failure.message.contains(char::is_control));
    let failure = of_response(&answer(400, &sf_error(&"X".repeat(5000), ""))).unwrap();
    assert!(failure.code.len() <= 100 && !failure.message.is_empty());
}

#[test]
fn success_states_no_failure() {
    for status in [200, 201, 204] {
        let documented: &[u16] = &[200, 201, 204];
        assert_eq!(of_response(&empty(status).answering(documented)), None);
    }
}
