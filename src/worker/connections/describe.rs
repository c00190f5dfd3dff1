//! Those who ask what fields a CRM's object has: `{"op": "describe", ...}`.

use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::AWAY;
use crate::store::config::Connection;
use crate::worker::link::Told;
use crate::worker::main_loop::Worker;
use crate::worker::socket::protocol::Inquiry;

pub struct Waiting {
    pub inquiry: Inquiry,
    pub reply: oneshot::Sender<Json>,
}

impl Waiting {
    /// Why the CRM is not asked.
    fn obstacle(&self, connection: Option<&Connection>) -> Option<&'static str> {
        match connection {
            None => Some("the worker does not know the connection: it is not committed yet"),
            Some(connection) if connection.is_away => Some(AWAY),
            Some(_) if self.inquiry.fresh => None,
            Some(connection) if connection.paused => Some("the connection is paused"),
            Some(connection) if connection.in_error => {
                Some("the connection's credentials are refused")
            }
            Some(connection) if connection.blocked_ms > 0 => {
                Some("the connection waits for the CRM")
            }
            Some(_) => None,
        }
    }
}

impl Worker {
    /// Asks the CRMs, or says why not.
    pub fn describe(&mut self, connections: &[Connection]) {
        for waiting in std::mem::take(&mut self.inquiries) {
            let known = connections
                .iter()
                .find(|c| c.id == waiting.inquiry.connection_id);
            let obstacle = waiting.obstacle(known);
            let link = self.links.get(&waiting.inquiry.connection_id).cloned();
            let (Some(link), None) = (link, obstacle) else {
                let why = obstacle.unwrap_or("the connection's credentials cannot be resolved");
                let failure = Failure::connection(ErrorClass::Auth, "not_asked", why);
                let _ = waiting.reply.send(failed(&failure));
                continue;
            };
            self.runtime.spawn(async move {
                let told = link
                    .describe(&waiting.inquiry.object, waiting.inquiry.fresh)
                    .await;
                let answer = match told {
                    Some(told) => answer(told),
                    None => {
                        let why =
                            format!("provider {} cannot describe objects", link.provider.name());
                        failed(&Failure::connection(
                            ErrorClass::Internal,
                            "not_supported",
                            why,
                        ))
                    }
                };
                let _ = waiting.reply.send(answer);
            });
        }
    }
}

fn answer(told: Told) -> Json {
    match told.description {
        Ok(description) => json!({"description": description, "is_kept": told.is_kept}),
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> Json {
    json!({"failure": {"class": failure.class.name(), "code": failure.code, "message": failure.message}})
}
