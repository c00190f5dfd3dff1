//! What `LISTEN crm` hears: one JSON object per event, short enough for a notification. And the
//! line of the server's log that a map is held.

use crm_domain::fuse::Counts;
use crm_domain::{ErrorClass, Path};
use pgrx::prelude::*;
use serde_json::{Value as Json, json};

use crate::store::config::{Connection, Map};

/// PostgreSQL takes less than 8,000 bytes.
const LONGEST: usize = 7_900;

/// What an event of one record speaks of. Any role may LISTEN: the record's key, which can be an
/// address, and words of the CRM are in the views, where these ids find them.
pub struct Subject<'a> {
    pub connection: &'a str,
    pub map_id: i32,
    pub relation: &'a str,
    pub write_id: Option<&'a str>,
    /// Of `crm.conflicts`.
    pub conflicts: &'a [i64],
    pub correlation_id: Option<&'a str>,
}

/// An event of a map's whole round (path batch) or pass through the CRM's changes (path ingest).
/// `name`: sync_started, sync_completed, sync_failed or sync_held; `id`: of the round or pass, as
/// in the audit; `counts`: name -> number of records.
///
/// Any role may LISTEN: the reason of a failure, which can quote values, is in
/// `crm.status_wide`.
pub fn summary(
    name: &str,
    connection: &Connection,
    map: &Map,
    (path, id): (Path, Option<&str>),
    counts: Json,
) -> String {
    json!({
        "event": format!("integration.crm.{name}"),
        "connection": connection.name,
        "map_id": map.id,
        "relation": map.relation,
        "path": path.name(),
        "operation_id": id,
        "counts": counts,
    })
    .to_string()
}

/// The event of a round or pass that is held. `of`: its path and id.
pub fn held(
    connection: &Connection,
    map: &Map,
    of: (Path, Option<&str>),
    counts: &Counts,
) -> String {
    let counts = json!({
        "deletes": counts.deletes,
        "clears": counts.clears,
        "creates": counts.creates,
    });
    summary("sync_held", connection, map, of, counts)
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
        "pg_crm holds the write-back of {relation}: it would delete {deletes}, clear {clears} and create {creates} records, and {linked} are linked; crm.approve({id}) releases them"
    );
}

/// An event of one record. `name`: sync_started, sync_completed, sync_failed or conflict.
pub fn payload(name: &str, subject: &Subject, error_class: Option<ErrorClass>) -> String {
    let event = |correlation_id, conflicts: &[i64]| {
        json!({
            "event": format!("integration.crm.{name}"),
            "connection": subject.connection,
            "map_id": subject.map_id,
            "relation": subject.relation,
            "write_id": subject.write_id,
            "conflict_ids": conflicts,
            "correlation_id": correlation_id,
            "error_class": error_class.map(ErrorClass::name),
        })
        .to_string()
    };
    let whole = event(subject.correlation_id, subject.conflicts);
    match whole.len() <= LONGEST {
        true => whole,
        // The other ids find the rest.
        false => event(None, &subject.conflicts[..subject.conflicts.len().min(100)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_into_a_notification() {
        let (long, conflicts) = ("x".repeat(10_000), vec![i64::MAX; 1000]);
        let subject = Subject {
            connection: "crm",
            map_id: 1,
            relation: "public.people",
            write_id: Some("id"),
            conflicts: &conflicts,
            correlation_id: Some(&long),
        };
        assert!(payload("conflict", &subject, None).len() < 8000);
        let short = payload(
            "sync_failed",
            &Subject {
                conflicts: &[],
                correlation_id: Some("order-17"),
                ..subject
            },
            Some(ErrorClass::Validation),
        );
        let event: Json = serde_json::from_str(&short).unwrap();
        assert_eq!(event["event"], "integration.crm.sync_failed");
        assert_eq!(event["correlation_id"], "order-17");
        assert_eq!(event["error_class"], "validation");
    }
}
