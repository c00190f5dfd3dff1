//! What the threads report to ingestion, and what it is lent.

use crm_domain::Failure;

use super::request::PollResult;
use crate::worker::in_flight::RecordsInFlight;

/// What the threads report.
pub enum Message {
    /// The CRM's response to a request; an error: the request failed or its task panicked.
    Polled {
        ticket: u64,
        result: Result<PollResult, Failure>,
        outage: Option<Failure>,
    },
}

/// The records of a map that other components have in flight.
pub type InFlight<'a> = &'a dyn Fn(i32) -> RecordsInFlight;
