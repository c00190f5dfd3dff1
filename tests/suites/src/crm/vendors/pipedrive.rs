//! Pipedrive, as the simulator plays it. It has no batches: what writes several are as many
//! requests.

use crate::crm::facts::{Facts, Firms, Grant, Guarded, Limit, Situation, Volume};

pub const FACTS: Facts = Facts {
    name: "pipedrive",
    people: "persons",
    firms: Firms {
        object: "organizations",
        name: "name",
        held: "org_id",
    },
    fields: &[
        ("id", "a000000000000000000000000000000000000001"),
        ("first_name", "a000000000000000000000000000000000000010"),
        ("last_name", "name"),
        ("email", "emails"),
        ("phone", "a000000000000000000000000000000000000011"),
        ("title", "a000000000000000000000000000000000000002"),
        ("score", "a000000000000000000000000000000000000003"),
        ("born", "a000000000000000000000000000000000000004"),
        ("seen", "a000000000000000000000000000000000000005"),
        ("opted_out", "a000000000000000000000000000000000000006"),
        ("interests", "a000000000000000000000000000000000000007"),
        ("source", "a000000000000000000000000000000000000008"),
        ("extra", "a000000000000000000000000000000000000009"),
        ("employer", "org_id"),
    ],
    held: &[
        ("title", r#""Boss""#),
        ("score", "12.5"),
        ("born", r#""2001-02-03""#),
        ("seen", r#""2026-03-04T03:06:07Z""#),
        ("opted_out", "true"),
        ("interests", "[1, 2]"),
        ("source", "1"),
        ("extra", r#""{\"a\":1,\"b\":[1,null]}""#),
    ],
    beyond: &["1/3.0", "1234567890123456.78", "9007199254740993"],
    rounds: false,
    writes_are_shown: true,
    interests: ["1", "2"],
    sources: ["1", "3"],
    boolean_is_never_empty: false,
    credentials: r#"{"api_token": "pd-token"}"#,
    grant: Some(Grant {
        credentials: r#"{"client_id": "pd-client", "client_secret": "pd-secret", "refresh_token": "pd-refresh", "login_url": "{url}"}"#,
        refresh_token: "pd-refresh",
        secret: "pd-secret",
        path: "/oauth/token",
        refusal: "The refresh token is invalid or has expired",
    }),
    requests: &[
        (
            "read",
            r#"{"method": "GET", "path_regex": "/persons/[0-9]+$"}"#,
        ),
        ("write", r#"{"method": "PATCH", "path": "/persons/"}"#),
        ("create", r#"{"method": "POST", "path": "/persons"}"#),
        ("batch", r#"{"method": "PATCH", "path": "/persons/"}"#),
        ("creates", r#"{"method": "POST", "path": "/persons"}"#),
    ],
    batch: 1,
    errors: &[
        (
            "validation",
            r#"{"status": 400, "body": {"success": false, "error": "as injected", "code": "ERR_SCHEMA_VALIDATION_FAILED"}}"#,
        ),
        (
            "mapping",
            r#"{"status": 400, "body": {"success": false, "error": "as injected: is not allowed", "code": "ERR_SCHEMA_VALIDATION_FAILED"}}"#,
        ),
        ("conflict", r#"{"status": 409}"#),
        ("not_found", r#"{"status": 404}"#),
    ],
    besides: &[(
        "not_found",
        r#"{"method": "GET", "path": "/persons?ids=", "status": 200, "body": {"success": true, "data": []}}"#,
    )],
    refusals: &[
        ("validation", "422"),
        ("mapping", "415"),
        ("conflict", "409"),
        ("transient", "500"),
    ],
    rejection: None,
    no_content: &[],
    limits: &[
        Limit {
            form: "too many in two seconds",
            answer: r#"{"status": 429, "headers": {"x-ratelimit-reset": "1"}}"#,
            wait: 1,
        },
        Limit {
            form: "the same without a word for how long",
            answer: r#"{"status": 429, "body": {"success": false, "error": "request over limit"}}"#,
            wait: 2,
        },
        Limit {
            form: "the same, and for how long",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}}"#,
            wait: 3,
        },
        Limit {
            form: "the day is spent",
            answer: r#"{"status": 429, "headers": {"x-daily-ratelimit-token-remaining": "0"}}"#,
            wait: 900,
        },
        Limit {
            form: "blocked by the network in front",
            answer: r#"{"status": 403}"#,
            wait: 900,
        },
    ],
    guards: [Guarded::Reported, Guarded::Unnoticed],
    page: 500,
    changes: "/persons?limit",
    names_editors: false,
    told: Some("persons"),
    volume: Volume {
        records: 10_000,
        requests: [2_100, 2_100],
        options: r#"{"max_in_flight": 16}"#,
    },
    absent: &[(
        Situation::WholeBatches,
        "each record is a request of its own",
    )],
};
