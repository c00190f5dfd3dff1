//! Webhooks of both versions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::super::Pipedrive;
use crate::scripted_server::settings;
use crate::webhook::tests::credentials;
use crate::{Provider, WebhookError, WebhookEvent, WebhookKind, WebhookRequest};

fn receive(shown: Option<&str>, body: &[u8]) -> Result<Vec<WebhookEvent>, WebhookError> {
    let header = |shown: &str| ("Authorization".to_owned(), shown.to_owned());
    let headers: Vec<_> = shown.map(header).into_iter().collect();
    let request = WebhookRequest {
        method: "POST",
        url: "",
        headers: &headers,
        body,
        now_ms: 1_767_323_045_678,
    };
    Pipedrive.webhook(
        &settings(1),
        &credentials(&[("webhook_secret", "crm:s3cret")]),
        &request,
    )
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn told(body: &Json) -> Vec<WebhookEvent> {
    receive(Some(&basic("crm:s3cret")), body.to_string().as_bytes()).unwrap()
}

fn second(action: &str, entity: &str) -> Json {
    json!({
        "data": { "id": 42 }, "previous": null,
        "meta": {
            "action": action, "entity": entity, "entity_id": "42", "id": "e-1", "version": "2.0",
            "timestamp": "2026-01-02T03:04:05.123Z", "attempt": 1,
        },
    })
}

#[test]
fn an_event_of_the_second_version_is_read() {
    for (action, kind) in [
        ("create", WebhookKind::Changed),
        ("change", WebhookKind::Changed),
        ("delete", WebhookKind::Deleted),
    ] {
        let events = told(&second(action, "deal"));
        let event = &events[0];
        assert_eq!(
            (event.object.as_str(), event.crm_id.as_str()),
            ("deals", "42")
        );
        assert_eq!((event.kind, event.occurred_at), (kind, 1_767_323_045_123));
        let mut again = second(action, "deal");
        again["meta"]["attempt"] = 2.into();
        assert_eq!(told(&again), events);
        again["meta"]["id"] = "e-2".into();
        assert_ne!(told(&again)[0].event_id, event.event_id);
    }
    let mut merged = second("delete", "person");
    merged["meta"]["merged_to_id"] = "43".into();
    assert_eq!(told(&merged)[0].kind, WebhookKind::Merged);
    assert_eq!(told(&second("change", "pipeline")), []);
    assert_eq!(told(&second("view", "deal")), []);
}

#[test]
fn an_event_of_the_first_version_is_read() {
    let body = |action: &str| {
        json!({ "v": 1, "current": {}, "previous": null, "event": "x", "meta": {
            "action": action, "object": "organization", "id": 9, "timestamp": 1_767_323_045,
        } })
    };
    let event = told(&body("updated")).remove(0);
    assert_eq!(
        (event.object.as_str(), event.crm_id.as_str()),
        ("organizations", "9")
    );
    assert_eq!(
        (event.kind, event.occurred_at),
        (WebhookKind::Changed, 1_767_323_045_000)
    );
    assert_eq!(told(&body("deleted"))[0].kind, WebhookKind::Deleted);
    assert_eq!(told(&body("merged"))[0].kind, WebhookKind::Merged);
}

#[test]
fn who_does_not_show_the_secret_is_not_heard() {
    let body = second("change", "deal").to_string();
    for shown in [
        None,
        Some(basic("crm:other")),
        Some(basic("other:s3cret")),
        Some(basic("")),
        Some("Basic !".to_owned()),
        Some("Bearer crm:s3cret".to_owned()),
        Some("crm:s3cret".to_owned()),
    ] {
        let told = receive(shown.as_deref(), body.as_bytes());
        assert_eq!(told, Err(WebhookError::Forged));
    }
    let shown = basic("crm:s3cret");
    for malformed in [
        "",
        "[]",
        "{}",
        r#"{"meta":{"entity":"deal","action":"change"}}"#,
    ] {
        let told = receive(Some(&shown), malformed.as_bytes());
        assert_eq!(told, Err(WebhookError::Malformed), "{malformed}");
    }
    let request = WebhookRequest {
        method: "POST",
        url: "",
        headers: &[],
        body: b"{}",
        now_ms: 0,
    };
    let told = Pipedrive.webhook(&settings(1), &credentials(&[]), &request);
    assert_eq!(told, Err(WebhookError::Unconfigured("webhook_secret")));
}
