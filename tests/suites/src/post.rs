//! A webhook as a CRM, or a relay, posts it: signed, for `crm.receive_webhook()` or over HTTP.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use crate::database::Session;

pub struct Post {
    pub headers: Map<String, Value>,
    pub body: String,
}

/// What was answered to a post.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Map<String, Value>,
    pub body: Value,
}

pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("it is after 1970").as_millis() as i64
}

fn hmac(secret: &str, parts: &[&str]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key will do");
    parts.iter().for_each(|part| mac.update(part.as_bytes()));
    mac.finalize().into_bytes().to_vec()
}

/// An event as a relay tells it.
pub fn event(id: &str, object: &str, crm_id: &str, change: &str) -> Value {
    json!({"eventId": id, "object": object, "id": crm_id, "changeType": change})
}

/// Updates of this many contacts of the stub.
pub fn updates(ids: impl IntoIterator<Item = u32>) -> Value {
    let ids = ids.into_iter();
    ids.map(|n| event(&format!("e{n}"), "contact", &format!("c{n}"), "UPDATE"))
        .collect()
}

impl Post {
    /// In the form of relays, signed now.
    pub fn relayed(secret: &str, events: &Value) -> Post {
        Post::relayed_at(now_ms(), secret, &events.to_string())
    }

    pub fn relayed_at(at_ms: i64, secret: &str, body: &str) -> Post {
        let time = at_ms.to_string();
        let signature = hex::encode(hmac(secret, &[&time, ".", body]));
        let mut headers = Map::new();
        headers.insert("X-PgCrm-Timestamp".into(), time.into());
        headers.insert(
            "x-pgcrm-signature".into(),
            format!("sha256={signature}").into(),
        );
        Post {
            headers,
            body: body.to_owned(),
        }
    }

    /// As HubSpot signs it.
    pub fn hubspot_at(at_ms: i64, secret: &str, url: &str, body: &str) -> Post {
        let time = at_ms.to_string();
        let signature = STANDARD.encode(hmac(secret, &["POST", url, body, &time]));
        let mut headers = Map::new();
        headers.insert("X-HubSpot-Request-Timestamp".into(), time.into());
        headers.insert("X-HubSpot-Signature-v3".into(), signature.into());
        Post {
            headers,
            body: body.to_owned(),
        }
    }

    /// A call of `crm.receive_webhook()`.
    pub fn sql(&self, connection: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let headers = Value::Object(self.headers.clone()).to_string();
        format!(
            "SELECT crm.receive_webhook(connection => {}, headers => {}, body => {})",
            quoted(connection),
            quoted(&headers),
            quoted(&self.body)
        )
    }

    /// Hands it over; how many events are new.
    pub async fn give(&self, session: &Session, connection: &str) -> i32 {
        session.one(&self.sql(connection), &[]).await
    }

    /// Posts it.
    pub async fn send(self, url: &str) -> Answer {
        let url = url.to_owned();
        let sent = tokio::task::spawn_blocking(move || self.try_send(&url));
        let sent = sent.await.expect("the thread ends");
        sent.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    pub fn try_send(&self, url: &str) -> Result<Answer, ureq::Error> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false);
        let agent: ureq::Agent = config.build().into();
        let mut request = agent.post(url);
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str().unwrap_or_default());
        }
        let mut response = request.send(&self.body)?;
        let headers = response.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into())
        });
        Ok(Answer {
            status: response.status().as_u16(),
            headers: headers.collect(),
            body: response
                .body_mut()
                .read_to_string()?
                .parse()
                .unwrap_or_default(),
        })
    }
}
