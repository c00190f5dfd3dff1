//! Backends that wait for a description of a CRM's object: `{"op": "describe", ...}`.

use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::readiness::AWAY;
use crate::store::config::Connection;
use crate::worker::link::{KnownDescription, SharedLink};
use crate::worker::socket::protocol::DescribeRequest;

/// A backend that waits for a description.
pub struct PendingDescribe {
    pub request: DescribeRequest,
    pub reply: oneshot::Sender<Json>,
}

impl PendingDescribe {
    /// Asks the CRM, or answers why it is not asked.
    pub fn serve(
        self,
        connection: Option<&Connection>,
        link: Option<SharedLink>,
        runtime: &Handle,
    ) {
        let obstacle = match (connection, self.request.fresh) {
            // The caller wants to know what the CRM says, whatever it said before.
            (Some(connection), true) if !connection.is_away => None,
            _ => obstacle(connection),
        };
        let (Some(link), None) = (link, obstacle) else {
            let why = obstacle.unwrap_or("the connection's credentials cannot be resolved");
            let failure = Failure::connection(ErrorClass::Auth, "not_asked", why);
            let _ = self.reply.send(failed(&failure));
            return;
        };
        runtime.spawn(async move {
            let DescribeRequest { object, fresh, .. } = self.request;
            let answer = match link.describe(&object, fresh).await {
                Some(description) => answer(description),
                None => {
                    let why = format!("provider {} cannot describe objects", link.provider.name());
                    failed(&Failure::connection(
                        ErrorClass::Internal,
                        "not_supported",
                        why,
                    ))
                }
            };
            let _ = self.reply.send(answer);
        });
    }
}

/// Why a connection's CRM is not asked.
pub fn obstacle(connection: Option<&Connection>) -> Option<&'static str> {
    match connection {
        None => Some("the worker does not know the connection: it is not committed yet"),
        Some(connection) if connection.is_away => Some(AWAY),
        Some(connection) if connection.paused => Some("the connection is paused"),
        Some(connection) if connection.in_error => Some("the connection's credentials are refused"),
        Some(connection) if connection.blocked_ms > 0 => Some("the connection waits for the CRM"),
        Some(_) => None,
    }
}

fn answer(known: KnownDescription) -> Json {
    match known.description {
        Ok(description) => json!({"description": description, "is_kept": known.is_kept}),
        Err(failure) => failed(&failure),
    }
}

pub fn failed(failure: &Failure) -> Json {
    let wait = failure.retry_after.map(|wait| wait.as_millis() as u64);
    json!({"failure": {"class": failure.class.name(), "code": failure.code, "message": failure.message, "retry_after_ms": wait}})
}
