//! What the threads report to the write-back.

use crm_domain::Failure;

use crate::worker::sender::batches::Sent;

/// What the threads report.
pub enum Message {
    /// The CRM's results for a claimed batch; an error: its task panicked.
    Sent {
        claim_id: i64,
        sent: Result<Vec<Sent>, Failure>,
        outage: Option<Failure>,
    },
}
