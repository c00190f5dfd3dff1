//! What the listener's threads report, and what they request of the main thread.

use std::sync::Arc;

use crm_provider::WebhookEvent;
use tokio::sync::oneshot;

use crate::webhook_verifier::{Refusal, WebhookVerifier};

/// A reply that is dropped means that the database cannot answer now.
pub enum Message {
    Lookup(Lookup),
    Accepted(Accepted),
    Refused(Arc<WebhookVerifier>, Refusal),
    /// For the log.
    Log(String),
    /// A minute is over in which refusals were only counted.
    MinuteOver,
    /// There is more to prune.
    PruneMore,
}

/// A request names a connection.
pub struct Lookup {
    pub connection: String,
    /// `None`: there is no such connection.
    pub reply: oneshot::Sender<Option<Arc<WebhookVerifier>>>,
}

/// The events of a request that was accepted, to be stored before it is answered.
pub struct Accepted {
    pub connection_id: i32,
    pub events: Vec<WebhookEvent>,
    /// How many of them are new.
    pub reply: oneshot::Sender<usize>,
}
