//! HubSpot, as the simulator plays it.

use crate::crm::facts::{Facts, Firms, Grant, Guarded, Limit, Volume};

pub const FACTS: Facts = Facts {
    name: "hubspot",
    people: "contacts",
    // The portal keeps no owners: any id will do for one.
    firms: Firms {
        object: "companies",
        name: "name",
        held: "hubspot_owner_id",
    },
    fields: &[
        ("id", "external_key"),
        ("first_name", "firstname"),
        ("last_name", "lastname"),
        ("email", "email"),
        ("phone", "phone"),
        ("title", "jobtitle"),
        ("score", "score"),
        ("born", "birth_date"),
        ("seen", "last_seen"),
        ("opted_out", "newsletter"),
        ("interests", "interests"),
        ("source", "hs_lead_status"),
        ("extra", "message"),
        ("employer", "hubspot_owner_id"),
    ],
    held: &[
        ("title", r#""Boss""#),
        ("score", r#""12.5""#),
        ("born", r#""2001-02-03""#),
        ("seen", r#""2026-03-04T03:06:07.089Z""#),
        ("opted_out", r#""true""#),
        ("interests", r#""cloud;data""#),
        ("source", r#""NEW""#),
        ("extra", r#""{\"a\":1,\"b\":[1,null]}""#),
    ],
    beyond: &["1/3.0", "1234567890123456.78", "9007199254740993"],
    rounds: false,
    writes_are_shown: true,
    interests: ["cloud", "data"],
    sources: ["NEW", "OPEN"],
    boolean_is_never_empty: false,
    credentials: r#"{"access_token": "hs-token"}"#,
    grant: Some(Grant {
        credentials: r#"{"client_id": "hs-client", "client_secret": "hs-secret", "refresh_token": "hs-refresh"}"#,
        refresh_token: "hs-refresh",
        secret: "hs-secret",
        path: "/oauth/v1/token",
        refusal: "missing or invalid refresh token",
    }),
    requests: &[
        (
            "read",
            r#"{"method": "POST", "path": "/batch/read", "body_contains": "\"propertiesWithHistory\":[]"}"#,
        ),
        ("write", r#"{"method": "PATCH", "path": "/contacts/"}"#),
        ("create", r#"{"method": "POST", "path": "/batch/upsert"}"#),
        ("batch", r#"{"method": "POST", "path": "/batch/update"}"#),
        ("creates", r#"{"method": "POST", "path": "/batch/upsert"}"#),
    ],
    batch: 100,
    errors: &[
        (
            "validation",
            r#"{"status": 400, "body": {"status": "error", "message": "as injected", "category": "VALIDATION_ERROR", "correlationId": "c", "errors": [{"message": "as injected", "code": "INVALID_OPTION"}]}}"#,
        ),
        (
            "mapping",
            r#"{"status": 400, "body": {"status": "error", "message": "as injected", "category": "VALIDATION_ERROR", "correlationId": "c", "errors": [{"message": "as injected", "code": "PROPERTY_DOESNT_EXIST"}]}}"#,
        ),
        (
            "conflict",
            r#"{"status": 409, "body": {"status": "error", "message": "as injected", "category": "VALIDATION_ERROR", "correlationId": "c", "errors": [{"message": "as injected", "code": "CONFLICTING_UNIQUE_VALUE"}]}}"#,
        ),
        ("not_found", r#"{"status": 404}"#),
    ],
    besides: &[],
    refusals: &[
        ("validation", "VALIDATION_ERROR"),
        ("mapping", "PROPERTY_DOESNT_EXIST"),
        ("conflict", "CONFLICT"),
        ("transient", "INTERNAL_ERROR"),
    ],
    rejection: Some(
        r#"{"status": 400, "body": {"status": "error", "message": "as injected", "category": "VALIDATION_ERROR", "correlationId": "c", "errors": [{"message": "as injected", "code": "INVALID_OPTION"}]}}"#,
    ),
    no_content: &[],
    limits: &[
        Limit {
            form: "too many in a second",
            answer: r#"{"status": 429, "body": {"status": "error", "message": "You have reached your limit.", "errorType": "RATE_LIMIT", "policyName": "SECONDLY", "correlationId": "c"}}"#,
            wait: 1,
        },
        Limit {
            form: "too many in ten seconds",
            answer: r#"{"status": 429, "body": {"status": "error", "message": "You have reached your limit.", "errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING", "correlationId": "c"}}"#,
            wait: 10,
        },
        Limit {
            form: "the same, and for how long",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}, "body": {"status": "error", "message": "You have reached your limit.", "errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING", "correlationId": "c"}}"#,
            wait: 3,
        },
        Limit {
            form: "the day is spent",
            answer: r#"{"status": 429, "body": {"status": "error", "message": "You have reached your limit.", "errorType": "RATE_LIMIT", "policyName": "DAILY", "correlationId": "c"}}"#,
            wait: 900,
        },
        Limit {
            form: "told of each record",
            answer: r#"{"times": 3, "fail_records": {"code": "RATE_LIMITS", "message": "too many"}}"#,
            wait: 10,
        },
        Limit {
            form: "the network in front",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}, "body": "<html>Too many</html>"}"#,
            wait: 3,
        },
    ],
    guards: [Guarded::Reported, Guarded::Reported],
    page: 200,
    changes: "/search",
    names_editors: true,
    told: Some("contacts"),
    volume: Volume {
        records: 10_000,
        requests: [10, 10],
        options: "{}",
    },
    absent: &[],
};
