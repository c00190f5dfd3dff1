//! The broker's requests and answers.

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::Usage;
use crate::scripted_server::{answer, assert_rules, body, drive, page, with_header};

use ErrorClass::*;

fn account(options: Json) -> Account {
    let options: Map<String, Json> = serde_json::from_value(options).expect("an object");
    Account::of(&options).expect("an account")
}

fn ours() -> Account {
    account(json!({"via": "composio", "connected_account_id": "ca_1", "user_id": "u-1"}))
}

fn headers(request: &Request) -> Vec<(&str, &str)> {
    let all = request.headers.iter();
    all.map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn a_request_travels_whole() {
    let request = Request::new(
        Method::Patch,
        "/services/data/v66.0/sobjects/Contact/003?a=1&q=x%20%26%20y",
    )
    .header("if-unmodified-since", "Fri, 02 Jan 2026 03:04:05 GMT")
    .body(
        "application/json",
        r#"{"Amount":12345678901234567890.25,"Name":"Zoë"}"#
            .as_bytes()
            .to_vec(),
    );
    let carried = ours().carry(&request, "k", (Some("order 7\n"), Some("0d7e")));
    assert_eq!(
        carried.target,
        Target::Api("/api/v3.1/tools/execute/proxy".to_owned())
    );
    assert_eq!(carried.method, Method::Post);
    assert!(!carried.repeatable);
    assert_eq!(
        headers(&carried),
        [
            ("x-api-key", "k"),
            ("content-type", "application/json"),
            ("x-correlation-id", "order 7"),
            ("x-request-id", "0d7e"),
        ]
    );
    assert_eq!(
        body(&carried),
        json!({
            "connected_account_id": "ca_1",
            "endpoint": "/services/data/v66.0/sobjects/Contact/003",
            "method": "PATCH",
            "parameters": [
                {"name": "if-unmodified-since", "value": "Fri, 02 Jan 2026 03:04:05 GMT", "type": "header"},
                {"name": "a", "value": "1", "type": "query"},
                {"name": "q", "value": "x & y", "type": "query"},
            ],
            "body": body(&request),
        })
    );
    // Digits are kept as they were written.
    let text = String::from_utf8(carried.body).expect("text");
    assert!(
        text.contains("12345678901234567890.25") && text.contains("Zoë"),
        "{text}"
    );
}

#[test]
fn what_is_no_json_travels_as_text_and_nothing_as_nothing() {
    let csv =
        Request::new(Method::Put, "/jobs/1/batches").body("text/csv", b"Id,Name\n1,x\n".to_vec());
    let sent = body(&ours().carry(&csv, "k", (None, None)));
    assert_eq!(sent["body"], "Id,Name\n1,x\n");
    assert_eq!(
        sent["parameters"],
        json!([{"name": "content-type", "value": "text/csv", "type": "header"}])
    );
    let sent = body(&ours().carry(&Request::new(Method::Get, "/x"), "k", (None, None)));
    assert_eq!(sent.get("body"), None);
}

#[test]
fn only_options_that_say_so_lead_there() {
    for options in [
        json!({}),
        json!({"connected_account_id": "ca_1"}),
        json!({"via": "other"}),
    ] {
        let options: Map<String, Json> = serde_json::from_value(options).expect("an object");
        assert_eq!(Account::of(&options), None);
    }
}

#[test]
fn the_crms_answer_comes_out_as_it_was() {
    for (data, expected) in [
        (
            json!([{"errorCode": "ENTITY_IS_DELETED"}]),
            r#"[{"errorCode":"ENTITY_IS_DELETED"}]"#,
        ),
        (json!({"n": 1.10}), r#"{"n":1.1}"#),
        (json!("<html>"), "<html>"),
        (Json::Null, ""),
        (json!(""), ""),
    ] {
        let outer = json!({"status": 404, "data": data, "headers": {"Sforce-Limit-Info": "api-usage=1/100", "Set-Cookie": ["a", "b"]}});
        let inner = deliver(answer(200, &outer)).expect("an answer");
        assert_eq!(
            (inner.status, inner.body),
            (404, expected.as_bytes().to_vec())
        );
        assert_eq!(
            inner.headers,
            [
                ("set-cookie".to_owned(), "a, b".to_owned()),
                ("sforce-limit-info".to_owned(), "api-usage=1/100".to_owned()),
            ]
        );
    }
}

#[test]
fn a_success_with_a_failure_inside_is_a_failure() {
    let fails = |error: &str, data: Json| {
        deliver(answer(
            200,
            &json!({"successful": false, "error": error, "data": data}),
        ))
    };
    let told =
        fails("oops", json!({"status_code": 429, "message": "slow down"})).expect("an answer");
    assert_eq!(told.status, 429);
    let sentence = r#"Request failed with status code 400: [{"errorCode":"INVALID_FIELD","message":"No such column"}]"#;
    let told = fails(sentence, json!({})).expect("an answer");
    assert_eq!(told.status, 400);
    assert_eq!(
        told.json(),
        Some(json!([{"errorCode": "INVALID_FIELD", "message": "No such column"}]))
    );
    // Nothing is known: it may have been done.
    let failure = fails("Something broke 12 times", Json::Null).expect_err("a failure");
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (Transient, "composio_failed")
    );
    assert!(failure.message.contains("broke"), "{failure}");
    let done = json!({"successful": true, "error": null, "data": {"response_data": {"id": "1"}}});
    let done = deliver(answer(200, &done)).expect("an answer");
    assert_eq!((done.status, done.json()), (200, Some(json!({"id": "1"}))));
}

#[test]
fn what_cannot_be_understood_is_no_success() {
    for response in [
        page(200),
        answer(200, &json!([])),
        answer(200, &json!({"data": {}})),
        answer(200, &json!({"status": 7})),
    ] {
        let failure = deliver(response).expect_err("a failure");
        assert_eq!(failure.class, Internal);
    }
}

fn refused(status: u16, message: &str) -> Failure {
    let error = json!({"error": {"message": message, "code": 1, "status": status, "request_id": "req_9", "suggested_fix": "Look"}});
    deliver(answer(status, &error)).expect_err("a refusal")
}

#[test]
fn every_row_of_the_table_can_apply() {
    assert_rules(errors::TABLE, |rule, message| {
        let status = rule
            .code
            .rsplit('_')
            .next()
            .and_then(|status| status.parse().ok());
        let told = json!({"error": {"message": message}});
        let response = answer(status.expect("a status"), &told);
        let failure = errors::refusal(&response);
        assert!(
            failure.message.contains(message) || message == "no more",
            "{failure}"
        );
        failure
    });
}

#[test]
fn refusals_are_told_in_full_and_blame_no_record() {
    let failure = refused(422, "Connected account ca_1 is in EXPIRED state");
    assert_eq!((failure.class, failure.scope), (Auth, Scope::Connection));
    assert_eq!(
        failure.message,
        "Connected account ca_1 is in EXPIRED state. Look Composio's request_id: req_9"
    );
    for status in [401, 403, 404, 409, 422, 429, 502, 503, 504] {
        for response in [answer(status, &json!({"message": "no"})), page(status)] {
            let failure = deliver(response).expect_err("a refusal");
            assert_eq!(failure.scope, Scope::Connection, "{status}: {failure}");
        }
    }
    let limited = answer(
        429,
        &json!({"message": "Rate limit exceeded. Limit: 100000 requests per 10 minutes"}),
    );
    let failure = deliver(with_header(limited, "retry-after", "7")).expect_err("a refusal");
    assert_eq!(
        (failure.class, failure.retry_after.map(|w| w.as_secs())),
        (RateLimited, Some(7))
    );
}

#[test]
fn its_own_budget_is_read() {
    let mut response = answer(200, &json!({}));
    for (name, value) in [
        ("x-ratelimit", "20000"),
        ("x-ratelimit-remaining", "19990"),
        ("x-ratelimit-window-size", "600s"),
    ] {
        response = with_header(response, name, value);
    }
    let told = usage(&response);
    assert_eq!(
        (told.window_limit, told.window_remaining),
        (Some(20_000), Some(19_990))
    );
    assert_eq!(told.window.map(|w| w.as_secs()), Some(600));
    assert_eq!(usage(&answer(200, &json!({}))), Usage::default());
}

fn authorise(status: u16, held: Json) -> Result<Grant, Failure> {
    let credentials = Credentials([(KEY.to_owned(), "k".to_owned())].into());
    let operation = ours().authorise("https://broker.test", "salesforce", &credentials);
    let (grant, log) = drive(operation.expect("a key"), |_, _| answer(status, &held));
    assert_eq!(
        log.lines(),
        ["GET https://broker.test/api/v3.1/connected_accounts/ca_1"]
    );
    grant
}

#[test]
fn an_account_is_asked_after_before_it_is_used() {
    let held = |slug: &str, user: &str, status: &str| json!({"id": "ca_1", "toolkit": {"slug": slug}, "user_id": user, "status": status});
    assert_eq!(
        authorise(200, held("salesforce", "u-1", "ACTIVE"))
            .expect("a grant")
            .access_token,
        "k"
    );
    // A key that may not ask.
    assert!(authorise(403, json!({})).is_ok());
    for (held, why) in [
        (held("salesforce", "u-1", "EXPIRED"), "EXPIRED"),
        (held("salesforce", "u-1", "INACTIVE"), "INACTIVE"),
        (held("hubspot", "u-1", "ACTIVE"), "hubspot"),
        (held("salesforce", "u-2", "ACTIVE"), "another user"),
    ] {
        let failure = authorise(200, held).expect_err("a refusal");
        assert_eq!((failure.class, failure.scope), (Auth, Scope::Connection));
        assert!(failure.message.contains(why), "{failure}");
    }
    assert_eq!(
        authorise(404, json!({"error": {"message": "not found"}}))
            .expect_err("a refusal")
            .class,
        Auth
    );
    assert_eq!(
        authorise(503, json!({})).expect_err("a refusal").class,
        Transient
    );
}

#[test]
fn without_a_key_nothing_is_granted() {
    assert!(
        ours()
            .authorise("https://broker.test", "salesforce", &Credentials::default())
            .is_none()
    );
}

proptest! {
    /// Whatever the broker answers, something comes of it.
    #[test]
    fn no_answer_is_too_strange(status in 100u16..600, body in "\\PC{0,80}", error in any::<bool>()) {
        let strange = json!({"successful": error, "error": body, "status": body, "data": [body], "headers": body});
        for response in [
            Response { status, body: body.clone().into_bytes(), ..Response::default() },
            answer(status, &strange),
            answer(status, &json!({"error": body})),
        ] {
            let _ = deliver(response);
        }
    }
}
