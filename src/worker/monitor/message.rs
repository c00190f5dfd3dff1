//! What the monitor's listener requests of the main thread.

use std::sync::Arc;

use tokio::sync::oneshot;

/// Two requests of one kind get the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Document {
    /// `/metrics`.
    Metrics,
    /// `/overview.json`, which the page shows.
    Overview,
}

/// A reply that is dropped means that the database cannot answer now.
pub enum Message {
    Get(Document, oneshot::Sender<Arc<str>>),
    /// A minute is over.
    Minute,
    /// For the log.
    Log(String),
}
