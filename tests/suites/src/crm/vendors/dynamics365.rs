//! Dynamics 365, as the simulator plays it.

use crate::crm::facts::{Facts, Firms, Grant, Guarded, Limit, Volume};

pub const FACTS: Facts = Facts {
    name: "dynamics365",
    people: "contacts",
    firms: Firms {
        object: "accounts",
        name: "name",
        held: "_parentcustomerid_value",
    },
    fields: &[
        ("id", "crm_externalkey"),
        ("first_name", "firstname"),
        ("last_name", "lastname"),
        ("email", "emailaddress1"),
        ("phone", "telephone1"),
        ("title", "jobtitle"),
        ("score", "crm_score"),
        ("born", "birthdate"),
        ("seen", "crm_lastseen"),
        ("opted_out", "donotbulkemail"),
        ("interests", "crm_interests"),
        ("source", "leadsourcecode"),
        ("extra", "description"),
        (
            "employer",
            "parentcustomerid/parentcustomerid_account/accounts",
        ),
    ],
    held: &[
        ("title", r#""Boss""#),
        ("score", "12.5"),
        ("born", r#""2001-02-03""#),
        ("seen", r#""2026-03-04T03:06:07Z""#),
        ("opted_out", "true"),
        ("interests", r#""1,2""#),
        ("source", "1"),
        ("extra", r#""{\"a\":1,\"b\":[1,null]}""#),
    ],
    beyond: &["1/3.0", "12.344", "-12.345"],
    rounds: true,
    writes_are_shown: false,
    interests: ["1", "2"],
    sources: ["1", "3"],
    boolean_is_never_empty: false,
    credentials: r#"{"access_token": "d365-token"}"#,
    grant: Some(Grant {
        credentials: r#"{"tenant_id": "d365-tenant", "client_id": "d365-client", "client_secret": "d365-secret", "refresh_token": "d365-refresh", "login_url": "{url}"}"#,
        refresh_token: "d365-refresh",
        secret: "d365-secret",
        path: "/oauth2/v2.0/token",
        refusal: "AADSTS70008",
    }),
    requests: &[
        ("read", r#"{"method": "GET", "path": "/contacts("}"#),
        (
            "write",
            r#"{"method": "PATCH", "path_regex": "/contacts\\([0-9a-f-]+\\)$"}"#,
        ),
        (
            "create",
            r#"{"method": "PATCH", "path": "crm_externalkey="}"#,
        ),
        (
            "batch",
            r#"{"method": "POST", "path": "/$batch", "body_contains": "PATCH "}"#,
        ),
        (
            "creates",
            r#"{"method": "POST", "path": "/$batch", "body_contains": "crm_externalkey="}"#,
        ),
    ],
    batch: 100,
    errors: &[
        (
            "validation",
            r#"{"status": 400, "body": {"error": {"code": "0x80040265", "message": "as injected"}}}"#,
        ),
        (
            "mapping",
            r#"{"status": 400, "body": {"error": {"code": "0x80060888", "message": "as injected"}}}"#,
        ),
        (
            "conflict",
            r#"{"status": 412, "body": {"error": {"code": "0x80060892", "message": "as injected"}}}"#,
        ),
        ("not_found", r#"{"status": 404}"#),
    ],
    besides: &[],
    refusals: &[
        ("validation", "0x80040265"),
        ("mapping", "0x80060888"),
        ("conflict", "0x80060892"),
        ("transient", "0x80040216"),
    ],
    rejection: Some(
        r#"{"status": 400, "body": {"error": {"code": "0x80048d19", "message": "the batch cannot be read"}}}"#,
    ),
    no_content: &["write"],
    limits: &[
        Limit {
            form: "too many requests",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}}"#,
            wait: 3,
        },
        Limit {
            form: "too much work",
            answer: r#"{"status": 429, "body": {"error": {"code": "0x80072321", "message": "time over limit"}}}"#,
            wait: 30,
        },
        Limit {
            form: "too many at once",
            answer: r#"{"status": 429, "body": {"error": {"code": "0x80072326", "message": "concurrent over limit"}}}"#,
            wait: 10,
        },
        Limit {
            form: "told of each record",
            answer: r#"{"times": 3, "fail_records": {"code": "0x80072322", "message": "too many"}}"#,
            wait: 30,
        },
        Limit {
            form: "the network in front",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}, "body": "<html>Too many</html>"}"#,
            wait: 3,
        },
    ],
    guards: [Guarded::Refused, Guarded::Refused],
    page: 2_000,
    changes: "/contacts?",
    names_editors: true,
    told: Some("contact"),
    volume: Volume {
        records: 10_000,
        requests: [10, 10],
        options: "{}",
    },
    absent: &[],
};
