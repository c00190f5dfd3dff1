//! What links need of the main thread: they live on threads, and the database is the main thread's.

use crm_domain::Failure;
use crm_provider::{Request, Response};
use tokio::sync::oneshot;

pub enum Message {
    /// A request to the stub CRM, which lives in this database.
    StubRequest {
        connection: String,
        request: Request,
        reply: oneshot::Sender<Result<Response, Failure>>,
    },
    /// The vendor replaced a refresh token; the new one must be durable before the access token
    /// that came along is used.
    TokenRotated {
        connection_id: i32,
        /// Of the credentials that it belongs to.
        version: i32,
        refresh_token: String,
        /// Whether it is durable.
        reply: oneshot::Sender<bool>,
    },
}
