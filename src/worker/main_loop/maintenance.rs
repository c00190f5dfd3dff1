//! What is done every twenty minutes, or when it is known to be needed: claims renewed, lost ones
//! released, old rows removed.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::store::record::former_links;
use crate::store::write_back::claims;
use crate::store::{audit, transaction};
use crate::worker::context::Context;
use crate::worker::step_backoff::{Owner, Step};

const INTERVAL: Duration = Duration::from_secs(1200);
/// Delay after a failure: another session may have locked the audit.
const RETRY: Duration = Duration::from_secs(60);

/// `in_flight`: the claims of batches in flight.
pub fn maintain(cx: &mut Context, in_flight: &[i64]) {
    let retention = cx.settings.audit_retention_minutes;
    let result = transaction(|client| {
        claims::renew(client, in_flight)?;
        let lost = claims::release_lost(client, in_flight)?;
        if lost > 0 {
            log!("pg_crm released {lost} records that were claimed and not in flight any more");
        }
        former_links::prune_former(client)?;
        audit::maintain(client, retention)
    });
    cx.maintenance_at = Instant::now()
        + match result {
            Ok(()) => {
                cx.backoff.succeeded(Owner::Worker, Step::Maintain);
                INTERVAL
            }
            Err(error) => {
                cx.backoff.failed(Owner::Worker, Step::Maintain, &error);
                RETRY
            }
        };
}
