//! What `LISTEN crm` hears: one JSON object per event, short enough for a notification.

use crm_domain::Path;
use crm_domain::fuse::Counts;
use pgrx::prelude::*;
use serde_json::{Value as Json, json};

use crate::store::config::{Connection, Map};

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

/// An event of a map's whole round (path batch) or pass through the CRM's changes (path ingest).
/// `name`: sync_started, sync_completed or sync_failed; `counts`: name -> number of records.
///
/// Any role may LISTEN: the reason of a failure, which can quote values, is in `crm.status`.
pub fn summary(name: &str, connection: &Connection, map: &Map, path: Path, counts: Json) -> String {
    json!({
        "event": format!("integration.crm.{name}"),
        "connection": connection.name,
        "map_id": map.id,
        "relation": map.relation,
        "path": path.name(),
        "counts": counts,
    })
    .to_string()
}

/// The event of a round or pass that is held.
pub fn held(connection: &Connection, map: &Map, path: Path, counts: &Counts) -> String {
    let counts = json!({
        "deletes": counts.deletes,
        "clears": counts.clears,
        "creates": counts.creates,
    });
    summary("sync_held", connection, map, path, counts)
}

/// Logs that a map's write-back is held.
pub fn log_held(map: &Map, counts: &Counts, linked: i64) {
    let Counts {
        deletes,
        clears,
        creates,
    } = counts;
    let (id, relation) = (map.id, &map.relation);
    log!(
        "pg_crm holds the write-back of {relation}: it would delete {deletes}, clear {clears} and create {creates} records, and {linked} are linked; crm.approve({id}) lets them go"
    );
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
