//! How many refused webhooks are recorded, so that posting cannot fill the disk.
//!
//! Guarantee: in a minute, no more than [`ROWS`] of a connection get a row of the audit each, and
//! the others one together; those to connections that do not exist get one line in the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::store::webhook_inbox::{Refused, WebhookConnection};
use crate::webhook_verifier::Refusal;

pub const ROWS: u32 = 10;
pub const MINUTE: Duration = Duration::from_secs(60);

/// What was refused of a connection in the minute that began with the first of it.
struct Minute {
    since: Instant,
    rows: u32,
    others: u64,
    last: Refused,
}

#[derive(Default)]
pub struct RefusalLog {
    minutes: HashMap<String, Minute>,
    unknown: Option<Instant>,
}

impl RefusalLog {
    /// The row that a refusal gets, if it gets one; else whether it is the first that is only
    /// counted.
    pub fn count(
        &mut self,
        connection: &WebhookConnection,
        refusal: &Refusal,
        now: Instant,
    ) -> (Option<Refused>, bool) {
        let row = || Refused {
            connection: connection.name.clone(),
            provider: connection.provider.clone(),
            class: refusal.class().name(),
            error: refusal.to_string(),
        };
        let minute = self
            .minutes
            .entry(connection.name.clone())
            .or_insert_with(|| Minute {
                since: now,
                rows: 0,
                others: 0,
                last: row(),
            });
        if minute.rows < ROWS {
            minute.rows += 1;
            return (Some(row()), false);
        }
        minute.others += 1;
        minute.last = row();
        (None, minute.others == 1)
    }

    /// Rows for what was only counted in minutes that are over.
    pub fn summaries(&mut self, now: Instant) -> Vec<Refused> {
        let over = |minute: &Minute| now.duration_since(minute.since) >= MINUTE;
        let ended = self.minutes.extract_if(|_, minute| over(minute));
        ended
            .filter(|(_, minute)| minute.others > 0)
            .map(|(_, Minute { others, last, .. })| Refused {
                error: format!(
                    "{others} more requests within a minute, the last: {}",
                    last.error
                ),
                ..last
            })
            .collect()
    }

    /// Whether a request to a connection that does not exist is worth a line.
    pub fn is_worth_a_line(&mut self, now: Instant) -> bool {
        let worth = self
            .unknown
            .is_none_or(|last| now.duration_since(last) >= MINUTE);
        if worth {
            self.unknown = Some(now);
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_provider::WebhookError;

    #[test]
    fn a_minute_has_ten_rows_and_a_sum() {
        let mut refusals = RefusalLog::default();
        let start = Instant::now();
        let forged = Refusal::from(WebhookError::Forged);
        let connection = WebhookConnection {
            id: 1,
            name: "acme".to_owned(),
            provider: "stub".to_owned(),
            options: Default::default(),
            secret: Default::default(),
            objects: Vec::new(),
        };
        let count = |refusals: &mut RefusalLog, at| {
            let (row, first) = refusals.count(&connection, &forged, at);
            (row.is_some(), first)
        };
        for _ in 0..ROWS {
            assert_eq!(count(&mut refusals, start), (true, false));
        }
        assert_eq!(count(&mut refusals, start), (false, true));
        assert_eq!(count(&mut refusals, start), (false, false));
        assert!(refusals.summaries(start).is_empty());
        let later = start + MINUTE;
        let rows = refusals.summaries(later);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].error.starts_with("2 more requests"));
        assert_eq!(count(&mut refusals, later), (true, false));
        assert!(refusals.summaries(later + MINUTE).is_empty());
    }

    #[test]
    fn unknown_connections_are_worth_a_line_a_minute() {
        let mut refusals = RefusalLog::default();
        let start = Instant::now();
        assert!(refusals.is_worth_a_line(start));
        assert!(!refusals.is_worth_a_line(start + MINUTE / 2));
        assert!(refusals.is_worth_a_line(start + MINUTE));
    }
}
