//! Webhooks of the event pipeline.

use super::super::Dynamics365;
use super::*;
use crate::scripted_server::settings;
use crate::webhook::tests::credentials;
use crate::{Provider, WebhookError, WebhookEvent, WebhookKind, WebhookRequest};

fn receive(
    url: &str,
    header: Option<&str>,
    body: &Json,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let headers: Vec<(String, String)> = header
        .map(|secret| ("X-PgCrm-Secret".to_owned(), secret.to_owned()))
        .into_iter()
        .collect();
    let body = body.to_string();
    let request = WebhookRequest {
        method: "POST",
        url,
        headers: &headers,
        body: body.as_bytes(),
        now_ms: 0,
    };
    let credentials = credentials(&[("webhook_secret", "s3 cret")]);
    Dynamics365.webhook(&settings(1), &credentials, &request)
}

fn context(message: &str) -> Json {
    json!({
        "MessageName": message, "PrimaryEntityName": "contact", "PrimaryEntityId": A, "Depth": 1,
        "CorrelationId": "c", "OperationId": "o", "OperationCreatedOn": "/Date(1767323045678+0000)/",
        "InputParameters": [
            { "key": "Target", "value": { "Attributes": [], "Id": A, "LogicalName": "contact" } },
            { "key": "SubordinateId", "value": B.to_uppercase() },
        ],
    })
}

#[test]
fn a_message_tells_of_its_record() {
    for (message, kind) in [
        ("Create", WebhookKind::Changed),
        ("Update", WebhookKind::Changed),
        ("Assign", WebhookKind::Changed),
        ("Delete", WebhookKind::Deleted),
    ] {
        let events = receive("", Some("s3 cret"), &context(message)).unwrap();
        assert_eq!(
            events,
            [WebhookEvent {
                event_id: format!("c:o:contact:{A}:{message}:1767323045678"),
                object: "contact".to_owned(),
                crm_id: A.to_owned(),
                kind,
                occurred_at: 1_767_323_045_678,
            }]
        );
    }
    let merged = receive("", Some("s3 cret"), &context("Merge")).unwrap();
    let ids: Vec<&str> = merged.iter().map(|event| event.crm_id.as_str()).collect();
    assert_eq!(ids, [A, B]);
    for (text, at) in [
        ("/Date(1506409448000-0700)/", 1_506_409_448_000),
        ("/Date(-5)/", -5),
        ("2026-01-02T03:04:05Z", 1_767_323_045_000),
    ] {
        let mut context = context("Update");
        context["OperationCreatedOn"] = text.into();
        let events = receive("", Some("s3 cret"), &context).unwrap();
        assert_eq!(events[0].occurred_at, at);
    }
}

#[test]
fn the_secret_is_shown_in_a_header_or_in_the_address() {
    let body = context("Update");
    for url in [
        "https://x/hook?code=s3%20cret",
        "https://x/hook?a=b&code=s3%20cret",
    ] {
        assert_eq!(receive(url, None, &body).unwrap().len(), 1);
    }
    for (url, header) in [
        ("", None),
        ("https://x/hook", None),
        ("https://x/hook?code=other", None),
        ("https://x/hook?code=s3%20cret", Some("other")),
    ] {
        assert_eq!(receive(url, header, &body), Err(WebhookError::Forged));
    }
    for strange in [json!({}), json!({ "MessageName": "Update" })] {
        assert_eq!(
            receive("", Some("s3 cret"), &strange),
            Err(WebhookError::Malformed)
        );
    }
}

#[test]
fn tables_and_their_sets_are_one_object() {
    for (set, table) in [
        ("contacts", "contact"),
        ("opportunities", "opportunity"),
        ("new_boxes", "new_box"),
        ("Contacts", "contacts"),
    ] {
        assert!(Dynamics365.same_object(set, table));
        assert!(Dynamics365.same_object(table, set));
    }
    assert!(!Dynamics365.same_object("contacts", "account"));
    assert!(!Dynamics365.same_object("leads", "contacts"));
}
