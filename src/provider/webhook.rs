//! What CRMs say of their own accord: that a record has changed, never what it holds now.
//!
//! Guarantees: no event comes out of a request that was not signed with the connection's secret, or
//! was signed more than [`MAX_AGE_MS`] ago; where a vendor signs nothing and shows a secret instead, out
//! of none that does not show it. Both are compared in constant time. No error shows a secret, a
//! signature or a body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use thiserror::Error;

use crate::Credentials;
use crate::wire;

/// Five minutes, as HubSpot's guide asks for; to either side, for the clocks' sake.
pub const MAX_AGE_MS: i64 = 5 * 60 * 1000;

/// The credential that requests are signed with.
pub(crate) const SECRET: &str = "webhook_secret";
/// The option that holds the address that the CRM was told to send to.
pub(crate) const URL_OPTION: &str = "webhook_url";

/// A request as it came in.
#[derive(Clone, Copy)]
pub struct WebhookRequest<'a> {
    pub method: &'a str,
    /// The whole address, as far as it is known; option `webhook_url` goes before it.
    pub url: &'a str,
    /// Names in any case.
    pub headers: &'a [(String, String)],
    /// As it came, byte by byte.
    pub body: &'a [u8],
    /// The time of the server that received it, UTC milliseconds.
    pub now_ms: i64,
}

impl WebhookRequest<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter();
        let mut found = found.filter(|(held, _)| held.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookKind {
    /// Created or updated.
    Changed,
    Deleted,
    /// Taken in by another record.
    Merged,
    /// Back from the recycle bin.
    Restored,
}

/// One record to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    /// The same when the CRM sends the event again, and another for any other event of the connection.
    pub event_id: String,
    /// The object's name; compare it by [`crate::Provider::same_object`].
    pub object: String,
    pub crm_id: String,
    pub kind: WebhookKind,
    /// UTC milliseconds, by the CRM.
    pub occurred_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WebhookError {
    #[error("the connection has no {0} to check webhooks with")]
    Unconfigured(&'static str),
    #[error("the request is not signed with the connection's secret")]
    Forged,
    #[error("the request was signed more than five minutes ago, or will be")]
    Stale,
    #[error("the request is signed, but is no list of events")]
    Malformed,
    /// For whoever receives requests: no provider looks at sizes.
    #[error("the request is too large")]
    TooLarge,
}

/// The first of these credentials that there is.
pub(crate) fn secret<'a>(
    credentials: &'a Credentials,
    keys: &[&str],
) -> Result<&'a str, WebhookError> {
    let given = keys.iter().filter_map(|key| credentials.get(key));
    let mut given = given.filter(|secret| !secret.is_empty());
    given.next().ok_or(WebhookError::Unconfigured(SECRET))
}

/// Whether `signature` is the HMAC-SHA256 of `parts`, one after another.
fn is_signed(secret: &str, parts: &[&[u8]], signature: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return false;
    };
    for part in parts {
        mac.update(part);
    }
    mac.verify_slice(signature).is_ok()
}

/// Whether a secret is shown that is the right one, for vendors that sign nothing.
pub(crate) fn check_shown(secret: &str, shown: &str) -> Result<(), WebhookError> {
    // A MAC of either, so that the time it takes tells nothing of where they differ.
    let mac = |text: &str| {
        let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        Some(mac.chain_update(text).finalize())
    };
    match mac(secret).is_some_and(|right| Some(right) == mac(shown)) {
        true => Ok(()),
        false => Err(WebhookError::Forged),
    }
}

fn check_age(signed_ms: i64, now_ms: i64) -> Result<(), WebhookError> {
    match now_ms.abs_diff(signed_ms) <= MAX_AGE_MS.unsigned_abs() {
        true => Ok(()),
        false => Err(WebhookError::Stale),
    }
}

/// Checks HubSpot's signature, version 3: of method, address, body and time.
pub(crate) fn check_hubspot(
    secret: &str,
    url: &str,
    request: &WebhookRequest<'_>,
) -> Result<(), WebhookError> {
    let header = |name| request.header(name).ok_or(WebhookError::Forged);
    let time = header("x-hubspot-request-timestamp")?;
    let signature = STANDARD.decode(header("x-hubspot-signature-v3")?);
    let signature = signature.map_err(|_| WebhookError::Forged)?;
    let method = request.method.to_ascii_uppercase();
    // The guide says to decode some of the address; the vendor's own library does not. Either is only
    // ever right with the secret.
    let forms = [url.to_owned(), decode_some(url)];
    let signed = |url: &String| {
        let parts = [
            method.as_bytes(),
            url.as_bytes(),
            request.body,
            time.as_bytes(),
        ];
        is_signed(secret, &parts, &signature)
    };
    if !forms.iter().any(signed) {
        return Err(WebhookError::Forged);
    }
    let signed_ms = time.parse().map_err(|_| WebhookError::Malformed)?;
    check_age(signed_ms, request.now_ms)
}

/// What HubSpot's guide decodes ("Validating requests", version 3), and nothing else.
const DECODED: [(&str, char); 12] = [
    ("3A", ':'),
    ("2F", '/'),
    ("3F", '?'),
    ("40", '@'),
    ("21", '!'),
    ("24", '$'),
    ("27", '\''),
    ("28", '('),
    ("29", ')'),
    ("2A", '*'),
    ("2C", ','),
    ("3B", ';'),
];

fn decode_some(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find('%') {
        let code = rest.get(at + 1..at + 3).unwrap_or_default();
        let plain = DECODED.iter().find(|(c, _)| c.eq_ignore_ascii_case(code));
        out.push_str(&rest[..at]);
        match plain {
            Some((_, plain)) => {
                out.push(*plain);
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// An event of a relay: what stands between a CRM that sends no webhooks of its own and us.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Relayed {
    event_id: serde_json::Value,
    object: String,
    id: String,
    change_type: String,
    #[serde(default)]
    occurred_at: Option<serde_json::Value>,
}

/// Checks and reads a relay's request: `X-PgCrm-Signature: sha256=HEX` is the HMAC-SHA256 of
/// `X-PgCrm-Timestamp`, a dot and the body.
pub(crate) fn relayed(
    credentials: &Credentials,
    request: &WebhookRequest<'_>,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let secret = secret(credentials, &[SECRET])?;
    let header = |name| request.header(name).ok_or(WebhookError::Forged);
    let time = header("x-pgcrm-timestamp")?;
    let hex_text = header("x-pgcrm-signature")?.strip_prefix("sha256=");
    let signature = hex_text.and_then(|text| hex::decode(text).ok());
    let signature = signature.ok_or(WebhookError::Forged)?;
    if !is_signed(secret, &[time.as_bytes(), b".", request.body], &signature) {
        return Err(WebhookError::Forged);
    }
    let signed_ms = match time.parse().map_err(|_| WebhookError::Malformed)? {
        // Nobody meant a moment of the year 1973: it is in seconds.
        seconds @ 0..100_000_000_000 => seconds * 1000,
        ms => ms,
    };
    check_age(signed_ms, request.now_ms)?;
    let events: Vec<Relayed> = crate::body::read(request.body).ok_or(WebhookError::Malformed)?;
    let event = |event: Relayed| {
        let occurred_at = match &event.occurred_at {
            None => Some(signed_ms),
            Some(told) => wire::moment(told),
        };
        Some(WebhookEvent {
            event_id: wire::scalar_text(&event.event_id).filter(|id| !id.is_empty())?,
            kind: kind(&event.change_type)?,
            crm_id: Some(event.id).filter(|id| !id.is_empty())?,
            object: Some(event.object).filter(|object| !object.is_empty())?,
            occurred_at: occurred_at?,
        })
    };
    let events = events.into_iter().map(event);
    events.collect::<Option<_>>().ok_or(WebhookError::Malformed)
}

/// Salesforce's words of change events.
fn kind(change_type: &str) -> Option<WebhookKind> {
    let word = change_type.to_ascii_uppercase();
    Some(match word.strip_prefix("GAP_").unwrap_or(&word) {
        "CREATE" | "UPDATE" => WebhookKind::Changed,
        "DELETE" => WebhookKind::Deleted,
        "UNDELETE" => WebhookKind::Restored,
        "MERGE" => WebhookKind::Merged,
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sign(secret: &str, parts: &[&str]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        for part in parts {
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().to_vec()
    }

    pub(crate) fn credentials(pairs: &[(&str, &str)]) -> Credentials {
        let owned = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Credentials(owned.collect())
    }

    const NOW: i64 = 1_767_323_045_678;

    fn relay(time: &str, secret: &str, body: &str) -> Result<Vec<WebhookEvent>, WebhookError> {
        let signature = hex::encode(sign(secret, &[time, ".", body]));
        with_headers(
            &[
                ("x-PGCRM-signature", &format!("sha256={signature}")),
                ("X-PgCrm-Timestamp", time),
            ],
            body,
        )
    }

    fn with_headers(
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Vec<WebhookEvent>, WebhookError> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        let request = WebhookRequest {
            method: "POST",
            url: "",
            headers: &headers,
            body: body.as_bytes(),
            now_ms: NOW,
        };
        relayed(&credentials(&[(SECRET, "s3cret")]), &request)
    }

    #[test]
    fn a_relays_events_are_read() {
        let body = r#"[
            {"eventId":"e1","object":"Contact","id":"003x","changeType":"UPDATE"},
            {"eventId":2,"object":"Account","id":"001x","changeType":"gap_delete","occurredAt":"2026-01-02T03:04:05Z"},
            {"eventId":"e3","object":"Lead","id":"00Qx","changeType":"MERGE","occurredAt":1767323045000},
            {"eventId":"e4","object":"Lead","id":"00Qy","changeType":"UNDELETE","more":{}}]"#;
        let events = relay(&NOW.to_string(), "s3cret", body).unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|e| {
                (
                    e.event_id.as_str(),
                    e.object.as_str(),
                    e.crm_id.as_str(),
                    e.kind,
                    e.occurred_at,
                )
            })
            .collect();
        let whole = 1_767_323_045_000;
        assert_eq!(
            told,
            [
                ("e1", "Contact", "003x", WebhookKind::Changed, NOW),
                ("2", "Account", "001x", WebhookKind::Deleted, whole),
                ("e3", "Lead", "00Qx", WebhookKind::Merged, whole),
                ("e4", "Lead", "00Qy", WebhookKind::Restored, NOW),
            ]
        );
        let seconds = relay("1767323045", "s3cret", "[]");
        assert_eq!(seconds, Ok(Vec::new()));
    }

    #[test]
    fn what_is_not_signed_or_not_fresh_is_refused() {
        let at = |ms: i64| relay(&ms.to_string(), "s3cret", "[]");
        assert_eq!(at(NOW - MAX_AGE_MS), Ok(Vec::new()));
        assert_eq!(at(NOW + MAX_AGE_MS), Ok(Vec::new()));
        assert_eq!(at(NOW - MAX_AGE_MS - 1), Err(WebhookError::Stale));
        assert_eq!(at(NOW + MAX_AGE_MS + 1), Err(WebhookError::Stale));
        assert_eq!(at(i64::MIN), Err(WebhookError::Stale));
        assert_eq!(
            relay(&NOW.to_string(), "other", "[]"),
            Err(WebhookError::Forged)
        );
        let time = NOW.to_string();
        let good = hex::encode(sign("s3cret", &[&time, ".", "[]"]));
        for (signature, time, body) in [
            (format!("sha256={good}"), time.as_str(), "[ ]"),
            (format!("sha256={good}"), "1767323045679", "[]"),
            (good.clone(), &time, "[]"),
            (format!("sha256={}", &good[..62]), &time, "[]"),
            ("sha256=".to_owned(), &time, "[]"),
            ("sha256=zz".to_owned(), &time, "[]"),
        ] {
            let headers = [
                ("X-PgCrm-Signature", signature.as_str()),
                ("X-PgCrm-Timestamp", time),
            ];
            assert_eq!(with_headers(&headers, body), Err(WebhookError::Forged));
        }
        assert_eq!(with_headers(&[], "[]"), Err(WebhookError::Forged));
    }

    #[test]
    fn what_is_signed_must_be_a_list_of_events() {
        for body in [
            "",
            "{}",
            "[1]",
            r#"[{"eventId":"e","object":"Contact","id":"1"}]"#,
            r#"[{"eventId":"e","object":"Contact","id":"1","changeType":"DANCE"}]"#,
            r#"[{"eventId":"e","object":"Contact","id":"","changeType":"UPDATE"}]"#,
            r#"[{"eventId":null,"object":"Contact","id":"1","changeType":"UPDATE"}]"#,
            r#"[{"eventId":"e","object":"Contact","id":"1","changeType":"UPDATE","occurredAt":"soon"}]"#,
        ] {
            let told = relay(&NOW.to_string(), "s3cret", body);
            assert_eq!(told, Err(WebhookError::Malformed), "{body}");
        }
        let told = relay("soon", "s3cret", "[]");
        assert_eq!(told, Err(WebhookError::Malformed));
    }

    #[test]
    fn without_a_secret_nothing_is_taken() {
        let request = WebhookRequest {
            method: "POST",
            url: "",
            headers: &[],
            body: b"[]",
            now_ms: NOW,
        };
        for pairs in [&[][..], &[(SECRET, "")], &[("client_secret", "c")]] {
            let told = relayed(&credentials(pairs), &request);
            assert_eq!(told, Err(WebhookError::Unconfigured(SECRET)));
        }
    }

    #[test]
    fn only_some_of_an_address_is_decoded() {
        for (url, decoded) in [
            (
                "https://x.test/a%3Ab%2fc?d=%40%21%24%27",
                "https://x.test/a:b/c?d=@!$'",
            ),
            ("https://x.test/%28%29%2A%2C%3B%3F", "https://x.test/()*,;?"),
            (
                "https://x.test/a%20b%26c%253A%",
                "https://x.test/a%20b%26c%253A%",
            ),
            ("https://x.test/%é%3", "https://x.test/%é%3"),
        ] {
            assert_eq!(decode_some(url), decoded);
        }
    }
}
