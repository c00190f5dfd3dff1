//! Webhooks: what CRMs send by themselves. They say that a record has changed, never what it holds
//! now.
//!
//! Guarantees: no event is read from a request that was not signed with the connection's secret, or
//! was signed more than five minutes ago; from a vendor that signs nothing and sends a secret
//! instead, none without that secret. No error shows a secret, a signature or a body.

mod event;
mod relay;
mod signature;

pub(crate) use event::{SECRET, URL_OPTION, secret};
pub use event::{WebhookError, WebhookEvent, WebhookKind, WebhookRequest};
pub(crate) use relay::relayed;
pub(crate) use signature::{check_hubspot, check_shown};

#[cfg(test)]
pub(crate) mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::Sha256;

    use super::signature::{MAX_AGE_MS, decode_some};
    use super::*;
    use crate::Credentials;

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
