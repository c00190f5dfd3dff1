//! Zoho CRM, as the simulator plays it.

use crate::crm::facts::{Facts, Firms, Grant, Guarded, Limit, Volume};

pub const FACTS: Facts = Facts {
    name: "zoho",
    people: "Contacts",
    firms: Firms {
        object: "Accounts",
        name: "Account_Name",
        held: "Account_Name",
    },
    fields: &[
        ("id", "External_Key"),
        ("first_name", "First_Name"),
        ("last_name", "Last_Name"),
        ("email", "Email"),
        ("phone", "Phone"),
        ("title", "Title"),
        ("score", "Score"),
        ("born", "Date_of_Birth"),
        ("seen", "Last_Seen"),
        ("opted_out", "Email_Opt_Out"),
        ("interests", "Interests"),
        ("source", "Lead_Source"),
        ("extra", "Description"),
        ("employer", "Account_Name"),
    ],
    held: &[
        ("title", r#""Boss""#),
        ("score", "12.5"),
        ("born", r#""2001-02-03""#),
        ("seen", r#""2026-03-03T19:06:07-08:00""#),
        ("opted_out", "true"),
        ("interests", r#"["Cloud", "Data"]"#),
        ("source", r#""Web""#),
        ("extra", r#""{\"a\":1,\"b\":[1,null]}""#),
    ],
    beyond: &["1/3.0", "-12.344", "12.345", "12345678.127"],
    rounds: true,
    writes_are_shown: false,
    interests: ["Cloud", "Data"],
    sources: ["Web", "Other"],
    boolean_is_never_empty: true,
    credentials: r#"{"access_token": "zoho-token"}"#,
    grant: Some(Grant {
        credentials: r#"{"client_id": "zoho-client", "client_secret": "zoho-secret", "refresh_token": "zoho-refresh", "login_url": "{url}"}"#,
        refresh_token: "zoho-refresh",
        secret: "zoho-secret",
        path: "/oauth/v2/token",
        refusal: "invalid_code",
    }),
    requests: &[
        ("read", r#"{"method": "GET", "path": "/Contacts?ids="}"#),
        ("write", r#"{"method": "PUT", "path": "/Contacts"}"#),
        ("create", r#"{"method": "POST", "path": "/upsert"}"#),
        ("batch", r#"{"method": "PUT", "path": "/Contacts"}"#),
        ("creates", r#"{"method": "POST", "path": "/upsert"}"#),
    ],
    batch: 100,
    errors: &[
        (
            "validation",
            r#"{"status": 202, "body": {"data": [{"code": "INVALID_DATA", "details": {"api_name": "Phone"}, "message": "as injected", "status": "error"}]}}"#,
        ),
        (
            "mapping",
            r#"{"status": 202, "body": {"data": [{"code": "MANDATORY_NOT_FOUND", "details": {"api_name": "Phone"}, "message": "as injected", "status": "error"}]}}"#,
        ),
        (
            "conflict",
            r#"{"status": 202, "body": {"data": [{"code": "DUPLICATE_DATA", "details": {"api_name": "Phone"}, "message": "as injected", "status": "error"}]}}"#,
        ),
        (
            "not_found",
            r#"{"status": 202, "body": {"data": [{"code": "INVALID_DATA", "details": {"api_name": "id"}, "message": "the id given seems to be invalid", "status": "error"}]}}"#,
        ),
    ],
    besides: &[],
    refusals: &[
        ("validation", "INVALID_DATA"),
        ("mapping", "MANDATORY_NOT_FOUND"),
        ("conflict", "DUPLICATE_DATA"),
        ("transient", "INTERNAL_ERROR"),
    ],
    rejection: Some(
        r#"{"status": 400, "body": {"code": "INVALID_DATA", "details": {}, "message": "invalid data", "status": "error"}}"#,
    ),
    no_content: &["read"],
    limits: &[
        Limit {
            form: "too many requests",
            answer: r#"{"status": 429}"#,
            wait: 10,
        },
        Limit {
            form: "the same, and for how long",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}}"#,
            wait: 3,
        },
        Limit {
            form: "the credits are spent",
            answer: r#"{"status": 429, "headers": {"X-API-CREDITS-REMAINING": "0"}}"#,
            wait: 900,
        },
        Limit {
            form: "a limit of the API",
            answer: r#"{"status": 400, "body": {"code": "API_LIMIT_EXCEEDED", "details": {}, "message": "the limit is exceeded", "status": "error"}}"#,
            wait: 900,
        },
        Limit {
            form: "the network in front",
            answer: r#"{"status": 429, "body": "<html>Too many</html>"}"#,
            wait: 10,
        },
    ],
    guards: [Guarded::Refused, Guarded::Unnoticed],
    page: 200,
    changes: "/coql",
    names_editors: false,
    told: Some("Contacts"),
    volume: Volume {
        records: 10_000,
        requests: [4, 10],
        options: "{}",
    },
    absent: &[],
};
