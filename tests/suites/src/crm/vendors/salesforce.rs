//! Salesforce, as the simulator plays it.

use crate::crm::facts::{Facts, Firms, Grant, Guarded, Limit, Volume};

pub const FACTS: Facts = Facts {
    name: "salesforce",
    people: "Contact",
    firms: Firms {
        object: "Account",
        name: "Name",
        held: "AccountId",
    },
    fields: &[
        ("id", "External_Key__c"),
        ("first_name", "FirstName"),
        ("last_name", "LastName"),
        ("email", "Email"),
        ("phone", "Phone"),
        ("title", "Title"),
        ("score", "Score__c"),
        ("born", "Birthdate"),
        ("seen", "Last_Seen__c"),
        ("opted_out", "HasOptedOutOfEmail"),
        ("interests", "Interests__c"),
        ("source", "LeadSource"),
        ("extra", "Description"),
        ("employer", "AccountId"),
    ],
    held: &[
        ("title", r#""Boss""#),
        ("score", "12.5"),
        ("born", r#""2001-02-03""#),
        ("seen", r#""2026-03-04T03:06:07.000+0000""#),
        ("opted_out", "true"),
        ("interests", r#""Cloud;Data""#),
        ("source", r#""Web""#),
        ("extra", r#""{\"a\":1,\"b\":[1,null]}""#),
    ],
    beyond: &["1/3.0", "1234567890123456.78", "12.345", "-0.004"],
    rounds: true,
    writes_are_shown: false,
    interests: ["Cloud", "Data"],
    sources: ["Web", "Other"],
    boolean_is_never_empty: true,
    credentials: r#"{"access_token": "sf-token"}"#,
    grant: Some(Grant {
        credentials: r#"{"client_id": "sf-client", "client_secret": "sf-secret", "refresh_token": "sf-refresh", "login_url": "{url}"}"#,
        refresh_token: "sf-refresh",
        secret: "sf-secret",
        path: "/services/oauth2/token",
        refusal: "expired access/refresh token",
    }),
    requests: &[
        ("read", r#"{"method": "GET", "path": "/sobjects/Contact/"}"#),
        ("write", r#"{"method": "PATCH", "path": "/Contact/"}"#),
        ("create", r#"{"method": "PATCH", "path": "/Contact/"}"#),
        (
            "batch",
            r#"{"method": "PATCH", "path": "/composite/sobjects"}"#,
        ),
        (
            "creates",
            r#"{"method": "PATCH", "path": "/composite/sobjects"}"#,
        ),
    ],
    batch: 200,
    errors: &[
        (
            "rate_limited",
            r#"{"status": 403, "headers": {"Retry-After": "2"}, "body": [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentRequests (Concurrent API Requests) Limit exceeded.", "fields": []}]}"#,
        ),
        (
            "validation",
            r#"{"status": 400, "body": [{"errorCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "message": "as injected", "fields": []}]}"#,
        ),
        (
            "mapping",
            r#"{"status": 400, "body": [{"errorCode": "INVALID_FIELD", "message": "as injected", "fields": []}]}"#,
        ),
        (
            "conflict",
            r#"{"status": 400, "body": [{"errorCode": "DUPLICATE_VALUE", "message": "as injected", "fields": []}]}"#,
        ),
        (
            "not_found",
            r#"{"status": 404, "body": [{"errorCode": "ENTITY_IS_DELETED", "message": "as injected", "fields": []}]}"#,
        ),
    ],
    besides: &[],
    refusals: &[
        ("validation", "FIELD_CUSTOM_VALIDATION_EXCEPTION"),
        ("mapping", "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ("conflict", "DUPLICATE_VALUE"),
        ("transient", "UNABLE_TO_LOCK_ROW"),
    ],
    rejection: Some(
        r#"{"status": 400, "body": [{"errorCode": "JSON_PARSER_ERROR", "message": "a record cannot be read", "fields": []}]}"#,
    ),
    no_content: &["write"],
    limits: &[
        Limit {
            form: "too many long requests",
            answer: r#"{"status": 403, "body": [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentRequests (Concurrent API Requests) Limit exceeded.", "fields": []}]}"#,
            wait: 5,
        },
        Limit {
            form: "the same, and for how long",
            answer: r#"{"status": 403, "headers": {"Retry-After": "3"}, "body": [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentRequests (Concurrent API Requests) Limit exceeded.", "fields": []}]}"#,
            wait: 3,
        },
        Limit {
            form: "the day is spent",
            answer: r#"{"status": 403, "body": [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded.", "fields": []}]}"#,
            wait: 900,
        },
        Limit {
            form: "a limit that it does not name",
            answer: r#"{"status": 403, "body": [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "Limit exceeded.", "fields": []}]}"#,
            wait: 60,
        },
        Limit {
            form: "a quota of the org",
            answer: r#"{"status": 403, "body": [{"errorCode": "EXCEEDEDQUOTA", "message": "too many jobs", "fields": []}]}"#,
            wait: 900,
        },
        Limit {
            form: "the network in front",
            answer: r#"{"status": 429, "headers": {"Retry-After": "3"}, "body": "<html>Too many</html>"}"#,
            wait: 3,
        },
    ],
    guards: [Guarded::Refused, Guarded::Unnoticed],
    page: 2000,
    changes: "/queryAll",
    names_editors: true,
    told: Some("Contact"),
    volume: Volume {
        records: 10_000,
        requests: [4, 4],
        options: "{}",
    },
    absent: &[],
};
