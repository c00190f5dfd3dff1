//! Webhooks: whose they are, and what they are about.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::super::HubSpot;
use crate::webhook::tests::{credentials, sign};
use crate::{
    Credentials, Provider, Settings, WebhookError, WebhookEvent, WebhookKind, WebhookRequest,
};

const NOW: i64 = 1_767_323_045_678;
const URL: &str = "https://db.acme.test/hooks/hubspot?c=acme%2Feu";

struct Sent<'a> {
    method: &'a str,
    /// The address that HubSpot signs.
    signed: &'a str,
    /// The address that we see.
    url: &'a str,
    /// The option.
    told: Option<&'a str>,
    time: String,
    body: String,
}

impl Sent<'_> {
    fn new(events: &Json) -> Self {
        Sent {
            method: "POST",
            signed: URL,
            url: URL,
            told: None,
            time: NOW.to_string(),
            body: events.to_string(),
        }
    }

    fn receive(&self, credentials: &Credentials) -> Result<Vec<WebhookEvent>, WebhookError> {
        let parts = ["POST", self.signed, &self.body, &self.time];
        let signature = STANDARD.encode(sign("s3cret", &parts));
        let headers = [
            ("x-hubspot-signature-v3".to_owned(), signature),
            ("X-HubSpot-Request-Timestamp".to_owned(), self.time.clone()),
        ];
        let mut settings = Settings::default();
        let told = self.told.map(|url| ("webhook_url".to_owned(), url.into()));
        settings.options.extend(told);
        let request = WebhookRequest {
            method: self.method,
            url: self.url,
            headers: &headers,
            body: self.body.as_bytes(),
            now_ms: NOW,
        };
        HubSpot.webhook(&settings, credentials, &request)
    }
}

fn secret() -> Credentials {
    credentials(&[("webhook_secret", "s3cret"), ("client_secret", "other")])
}

#[test]
fn the_address_is_the_one_that_hubspot_knows() {
    let events = json!([]);
    let inner = "http://127.0.0.1:8080/in";
    for (signed, url, told, good) in [
        (URL, URL, None, true),
        (
            "https://db.acme.test/hooks/hubspot?c=acme/eu",
            URL,
            None,
            true,
        ),
        (URL, inner, Some(URL), true),
        (URL, "", Some(URL), true),
        (URL, inner, None, false),
        ("https://db.acme.test/hooks", URL, None, false),
    ] {
        let sent = Sent {
            signed,
            url,
            told,
            ..Sent::new(&events)
        };
        let expected = if good {
            Ok(Vec::new())
        } else {
            Err(WebhookError::Forged)
        };
        assert_eq!(sent.receive(&secret()), expected, "{signed} {url}");
    }
    let nowhere = Sent {
        url: "",
        ..Sent::new(&events)
    };
    assert_eq!(
        nowhere.receive(&secret()),
        Err(WebhookError::Unconfigured("webhook_url"))
    );
}

#[test]
fn the_apps_secret_signs_if_no_other_is_told() {
    let sent = Sent::new(&json!([]));
    assert_eq!(
        sent.receive(&credentials(&[("client_secret", "s3cret")])),
        Ok(Vec::new())
    );
    assert_eq!(
        sent.receive(&credentials(&[
            ("webhook_secret", "x"),
            ("client_secret", "s3cret")
        ])),
        Err(WebhookError::Forged)
    );
    assert_eq!(
        sent.receive(&credentials(&[("access_token", "s3cret")])),
        Err(WebhookError::Unconfigured("webhook_secret"))
    );
}

#[test]
fn what_is_not_fresh_or_no_list_is_refused() {
    let at = |time: String, body: &str| {
        let sent = Sent {
            time,
            body: body.to_owned(),
            ..Sent::new(&json!([]))
        };
        sent.receive(&secret())
    };
    let minutes = |n: i64| (NOW + n * 60_000).to_string();
    for (time, body, expected) in [
        (minutes(-5), "[]", Ok(Vec::new())),
        (minutes(-6), "[]", Err(WebhookError::Stale)),
        (minutes(6), "[]", Err(WebhookError::Stale)),
        ("now".to_owned(), "[]", Err(WebhookError::Malformed)),
        (minutes(0), "{}", Err(WebhookError::Malformed)),
        (minutes(0), "[{}]", Err(WebhookError::Malformed)),
        (
            minutes(0),
            r#"[{"subscriptionType":"contact.creation"}]"#,
            Err(WebhookError::Malformed),
        ),
    ] {
        assert_eq!(at(time, body), expected, "{body}");
    }
    let put = Sent {
        method: "PUT",
        ..Sent::new(&json!([]))
    };
    assert_eq!(put.receive(&secret()), Err(WebhookError::Forged));
}

#[test]
fn events_say_which_records_to_look_at() {
    let event = |kind: &str, more: Json| {
        let mut event = json!({
            "eventId": 100, "subscriptionId": 7, "portalId": 3, "appId": 4, "occurredAt": NOW,
            "subscriptionType": kind, "attemptNumber": 0, "objectId": 51,
        });
        event
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        event
    };
    let merge = json!({ "objectId": 60, "primaryObjectId": 51, "mergedObjectIds": [51, 52], "newObjectId": 60 });
    let events = json!([
        event("contact.creation", json!({})),
        event(
            "contact.propertyChange",
            json!({ "propertyName": "email", "propertyValue": "a@x.test" })
        ),
        event("company.deletion", json!({})),
        event("contact.privacyDeletion", json!({})),
        event("deal.restore", json!({})),
        event("object.propertyChange", json!({ "objectTypeId": "0-1" })),
        event("object.creation", json!({ "objectTypeId": "2-123" })),
        event("contact.merge", merge),
        event("deal.merge", json!({})),
        event("conversation.newMessage", json!({ "objectId": null })),
        event("contact.somethingNew", json!({})),
    ]);
    let told = Sent::new(&events).receive(&secret()).unwrap();
    let shown: Vec<_> = told
        .iter()
        .map(|e| (e.object.as_str(), e.crm_id.as_str(), e.kind))
        .collect();
    use WebhookKind::{Changed, Deleted, Merged, Restored};
    assert_eq!(
        shown,
        [
            ("contacts", "51", Changed),
            ("contacts", "51", Changed),
            ("companies", "51", Deleted),
            ("contacts", "51", Deleted),
            ("deals", "51", Restored),
            ("contacts", "51", Changed),
            ("2-123", "51", Changed),
            ("contacts", "51", Merged),
            ("contacts", "52", Merged),
            ("contacts", "60", Changed),
            ("deals", "51", Merged),
        ]
    );
    assert!(told.iter().all(|e| e.occurred_at == NOW));
    let mut unique: Vec<&str> = told.iter().map(|e| e.event_id.as_str()).collect();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), told.len());
    // Sent again, it is the same event.
    let again = json!([event("contact.creation", json!({ "attemptNumber": 3 }))]);
    let again = Sent::new(&again).receive(&secret()).unwrap();
    assert_eq!(again[0], told[0]);
}

#[test]
fn objects_have_several_names() {
    for (one, other, same) in [
        ("contacts", "Contact", true),
        ("0-1", "contacts", true),
        ("companies", "0-2", true),
        ("2-123", "2-123", true),
        ("2-123", "2-124", false),
        ("deals", "contacts", false),
    ] {
        assert_eq!(HubSpot.same_object(one, other), same, "{one} {other}");
    }
}
