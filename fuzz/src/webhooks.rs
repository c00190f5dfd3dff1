//! What anybody may post: nothing is an event that was not signed, and nothing that is signed does
//! harm.
//!
//! ```text
//! hubspot https://pg.test/hook?a=b
//! x-more: headers
//!
//! {"the": "body"}
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_provider::{
    Credentials, Provider, Settings, WebhookError, WebhookEvent, WebhookRequest, providers,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value as Json;
use sha2::Sha256;

use crate::scenario::NOW;

/// The years 1 to 9999, which PostgreSQL and JSON agree on.
const MOMENTS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

pub fn check(data: &[u8]) {
    let Some(post) = Post::read(data) else {
        return;
    };
    post.unsigned();
    post.signed();
    post.forged(data);
}

#[derive(Clone)]
struct Post {
    provider: &'static dyn Provider,
    secret: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Post {
    fn read(data: &[u8]) -> Option<Post> {
        let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
            Some(at) => (&data[..at], &data[at + 2..]),
            None => (data, &b""[..]),
        };
        let head = String::from_utf8_lossy(head);
        let mut lines = head.lines();
        let (name, url) = lines.next()?.split_once(' ')?;
        let provider = providers().iter().find(|provider| provider.name() == name);
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.to_owned()))
        };
        Some(Post {
            provider: *provider?,
            // None that an input could hold.
            secret: hex::encode(blake3::hash(data).as_bytes()),
            url: url.to_owned(),
            headers: lines.filter_map(header).collect(),
            body: body.to_vec(),
        })
    }

    fn take(&self) -> Result<Vec<WebhookEvent>, WebhookError> {
        let credentials = Credentials([("webhook_secret".to_owned(), self.secret.clone())].into());
        let request = WebhookRequest {
            method: "POST",
            url: &self.url,
            headers: &self.headers,
            body: &self.body,
            now_ms: NOW,
        };
        let settings = Settings::default();
        self.provider.webhook(&settings, &credentials, &request)
    }

    /// Who does not know the secret is not heard.
    fn unsigned(&self) {
        let told = self.take();
        assert!(told.is_err(), "events without a signature: {told:?}");
    }

    /// What the right sender sends is heard, or is malformed.
    fn signed(&self) {
        let post = self.clone().sign();
        match post.take() {
            Ok(events) => {
                assert_eq!(post.take().as_ref(), Ok(&events));
                events.iter().for_each(check_event);
            }
            Err(WebhookError::Malformed | WebhookError::Unconfigured(_)) => {}
            // Zoho shows its secret in the body, which has to be one.
            Err(WebhookError::Forged) if self.provider.name() == "zoho" => {}
            Err(error) => panic!("the right sender is refused: {error}"),
        }
    }

    /// One byte of what is signed, of the signature or of the secret is another: it is not heard.
    fn forged(&self, data: &[u8]) {
        let die = blake3::hash(data);
        let die = die.as_bytes();
        let bit = 1 << (die[0] % 7);
        let mut post = self.clone().sign();
        let at = |length: usize| usize::from(u16::from_be_bytes([die[1], die[2]])) % length;
        if post.is_signed() && die[3].is_multiple_of(2) && !post.body.is_empty() {
            let at = at(post.body.len());
            post.body[at] ^= bit;
        } else {
            let mut secret = post.secret.into_bytes();
            let at = at(secret.len());
            secret[at] ^= bit;
            post.secret = String::from_utf8(secret).expect("it is ASCII");
        }
        let told = post.take();
        assert!(
            matches!(
                told,
                Err(WebhookError::Forged | WebhookError::Unconfigured(_))
            ),
            "forged, and heard: {told:?}"
        );
    }

    /// Whether the vendor signs, where others only show the secret.
    fn is_signed(&self) -> bool {
        matches!(self.provider.name(), "hubspot" | "salesforce" | "stub")
    }

    /// As the vendor does it, before whatever else is there.
    fn sign(mut self) -> Post {
        let time = NOW.to_string();
        let mac = |parts: &[&[u8]]| {
            let mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes());
            let mut mac = mac.expect("keys have any length");
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes()
        };
        let headers = match self.provider.name() {
            "hubspot" => {
                let signature = mac(&[b"POST", self.url.as_bytes(), &self.body, time.as_bytes()]);
                vec![
                    ("X-HubSpot-Request-Timestamp", time),
                    ("X-HubSpot-Signature-v3", STANDARD.encode(signature)),
                ]
            }
            "pipedrive" => {
                let pair = STANDARD.encode(&self.secret);
                vec![("Authorization", format!("Basic {pair}"))]
            }
            "dynamics365" => vec![("X-PgCrm-Secret", self.secret.clone())],
            "zoho" => {
                if let Ok(Json::Object(mut body)) = serde_json::from_slice(&self.body) {
                    body.insert("token".to_owned(), self.secret.clone().into());
                    self.body = Json::Object(body).to_string().into_bytes();
                }
                Vec::new()
            }
            _ => {
                let signature = hex::encode(mac(&[time.as_bytes(), b".", &self.body]));
                vec![
                    ("X-PgCrm-Timestamp", time),
                    ("X-PgCrm-Signature", format!("sha256={signature}")),
                ]
            }
        };
        let headers = headers.into_iter();
        let headers = headers.map(|(name, value)| (name.to_owned(), value));
        self.headers = headers.chain(self.headers).collect();
        self
    }
}

fn check_event(event: &WebhookEvent) {
    for text in [&event.event_id, &event.object, &event.crm_id] {
        assert!(!text.is_empty(), "an event of nothing: {event:?}");
    }
    let at = event.occurred_at;
    assert!(MOMENTS.contains(&at), "an event of no time: {event:?}");
}
