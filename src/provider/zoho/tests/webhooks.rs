//! Notifications.

use serde_json::{Value as Json, json};

use super::super::Zoho;
use crate::scripted_server::settings;
use crate::webhook::tests::credentials;
use crate::{Provider, WebhookError, WebhookEvent, WebhookKind, WebhookRequest};

fn receive(body: &str) -> Result<Vec<WebhookEvent>, WebhookError> {
    let request = WebhookRequest {
        method: "POST",
        url: "",
        headers: &[],
        body: body.as_bytes(),
        now_ms: 0,
    };
    Zoho.webhook(
        &settings(1),
        &credentials(&[("webhook_secret", "s3cret")]),
        &request,
    )
}

fn body(operation: &str, token: &str) -> Json {
    json!({
        "server_time": 1_767_323_045_678_i64, "module": "Leads", "ids": ["55", "56"], "operation": operation,
        "channel_id": "1100", "token": token, "affected_fields": [],
        "resource_uri": "https://www.zohoapis.com/crm/v2/Leads",
    })
}

#[test]
fn one_request_tells_of_many_records() {
    for (operation, kind) in [
        ("insert", WebhookKind::Changed),
        ("update", WebhookKind::Changed),
        ("delete", WebhookKind::Deleted),
    ] {
        let events = receive(&body(operation, "s3cret").to_string()).unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|e| (e.object.as_str(), e.crm_id.as_str(), e.kind, e.occurred_at))
            .collect();
        let at = 1_767_323_045_678;
        assert_eq!(told, [("Leads", "55", kind, at), ("Leads", "56", kind, at)]);
        assert_ne!(events[0].event_id, events[1].event_id);
    }
    assert_eq!(receive(&body("peep", "s3cret").to_string()), Ok(Vec::new()));
}

#[test]
fn who_does_not_show_the_token_is_not_heard() {
    for strange in [
        body("update", "other").to_string(),
        "{}".to_owned(),
        String::new(),
    ] {
        assert_eq!(receive(&strange), Err(WebhookError::Forged));
    }
    let malformed = json!({ "token": "s3cret", "module": "Leads", "operation": "update" });
    assert_eq!(
        receive(&malformed.to_string()),
        Err(WebhookError::Malformed)
    );
}
