//! What `LISTEN crm` hears: one JSON object per event, short enough for a notification.

use crm_domain::Path;
use serde_json::{Value as Json, json};

/// PostgreSQL takes less than 8,000 bytes.
const LONGEST: usize = 7_900;

/// The record that an event speaks of.
pub struct Subject<'a> {
    pub connection: &'a str,
    pub map_id: i32,
    pub relation: &'a str,
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub write_id: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
}

/// What a map's round or pass did.
pub struct Summary<'a> {
    pub connection: &'a str,
    pub map_id: i32,
    pub relation: &'a str,
    /// Of a round: batch; of a pass through the CRM's changes: ingest.
    pub path: Path,
    /// Name -> number of records.
    pub counts: Json,
}

/// An event of a whole round or pass. `name`: sync_started, sync_completed or sync_failed.
///
/// Any role may LISTEN: the reason of a failure, which can quote values, is in `crm.status`.
pub fn summary(name: &str, summary: &Summary) -> String {
    json!({
        "event": format!("integration.crm.{name}"),
        "connection": summary.connection,
        "map_id": summary.map_id,
        "relation": summary.relation,
        "path": summary.path.name(),
        "counts": summary.counts,
    })
    .to_string()
}

/// An event of one record. `name`: sync_started, sync_completed, sync_failed or conflict.
pub fn payload(name: &str, subject: &Subject, error: Option<&str>) -> String {
    let whole = json!({
        "event": format!("integration.crm.{name}"),
        "connection": subject.connection,
        "map_id": subject.map_id,
        "relation": subject.relation,
        "shard_key": subject.shard_key,
        "record_key": subject.record_key,
        "write_id": subject.write_id,
        "correlation_id": subject.correlation_id,
        "error": error,
    })
    .to_string();
    if whole.len() <= LONGEST {
        return whole;
    }
    // A key or a correlation id of thousands of characters: the write_id finds the rest.
    json!({
        "event": format!("integration.crm.{name}"),
        "map_id": subject.map_id,
        "write_id": subject.write_id,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_into_a_notification() {
        let long = "x".repeat(10_000);
        let subject = Subject {
            connection: "crm",
            map_id: 1,
            relation: "public.people",
            shard_key: "",
            record_key: &long,
            write_id: Some("id"),
            correlation_id: None,
        };
        assert!(payload("conflict", &subject, None).len() < 8000);
        let short = payload(
            "conflict",
            &Subject {
                record_key: "p1",
                ..subject
            },
            Some("why"),
        );
        let event: serde_json::Value = serde_json::from_str(&short).unwrap();
        assert_eq!(event["event"], "integration.crm.conflict");
        assert_eq!(event["record_key"], "p1");
    }
}
