//! What the workers have counted, for `crm.metrics()`.

use pgrx::prelude::*;

use crate::counters::{self, BUCKETS, Counter};
use crate::shared;

/// See its comment below.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
#[allow(clippy::type_complexity)]
fn counters() -> TableIterator<
    'static,
    (
        name!(counter, &'static str),
        name!(id, i32),
        name!(label, Option<String>),
        name!(result, Option<&'static str>),
        name!(class, Option<&'static str>),
        name!(value, i64),
    ),
> {
    let counted = match shared::available() {
        // SAFETY: a plain read of this backend's own database.
        true => counters::of_database(unsafe { pg_sys::MyDatabaseId }),
        false => Vec::new(),
    };
    TableIterator::new(counted.into_iter().map(|(counter, count)| {
        let (name, id, label, result, class) = match counter {
            Counter::Records {
                map_id,
                path,
                result,
                class,
            } => {
                let path = Some(path.name().to_owned());
                ("records", map_id, path, Some(result.name()), class)
            }
            Counter::Requests {
                connection_id,
                priority,
                class,
            } => {
                let lane = Some(priority.name().to_owned());
                ("requests", connection_id, lane, None, class)
            }
            Counter::Duration {
                connection_id,
                bucket,
            } => {
                let bound = BUCKETS.get(bucket).map(seconds);
                ("duration", connection_id, bound, None, None)
            }
            Counter::Microseconds { connection_id } => {
                ("microseconds", connection_id, None, None, None)
            }
            Counter::Sent { connection_id } => ("sent", connection_id, None, None, None),
            Counter::Received { connection_id } => ("received", connection_id, None, None, None),
        };
        let class = class.map(|class| class.name());
        (name, id, label, result, class, count as i64)
    }))
}

/// See its comment below.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
fn duration_bounds() -> Vec<String> {
    BUCKETS.iter().map(seconds).collect()
}

/// As OpenMetrics spells them: `1.0`.
fn seconds(ms: &u64) -> String {
    format!("{:?}", *ms as f64 / 1000.0)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.counters() IS 'what the workers of this database have counted since the server started. records: of map id, label: path; requests: of connection id, label: lane; duration: requests of the histogram bucket up to label seconds, NULL: the last; microseconds, sent, received: of all requests of a connection';
COMMENT ON FUNCTION crm_internal.duration_bounds() IS 'upper bounds of the buckets of the histogram of requests, in seconds; another bucket follows';
"#,
    name = "counters_comments",
    requires = [counters, duration_bounds]
);
