//! Where a link's requests go: over HTTP, to hosts that are allowed alone, or to the CRM that is
//! embedded.

use crm_domain::{ErrorClass, Failure};
use crm_provider::{Request, Response};
use tokio::sync::oneshot;

use super::allowed_hosts;
use super::http::Http;
use super::message::Message;
use crate::worker::mailbox::Sender;

pub enum Transport {
    Http {
        http: Http,
        allowed_hosts: Vec<String>,
    },
    /// The embedded CRM, asked through the main thread.
    Stub {
        connection: String,
        mailbox: Sender<Message>,
    },
}

impl Transport {
    /// Sends a request as it is. Gives it back, so that no body is copied, along with what came of
    /// it.
    pub async fn exchange(
        &self,
        url: String,
        request: Request,
    ) -> Result<(Request, Result<Response, Failure>), Failure> {
        match self {
            Transport::Http {
                http,
                allowed_hosts,
            } => {
                allowed_hosts::check(&url, allowed_hosts).map_err(|reason| {
                    Failure::connection(ErrorClass::Auth, "url_not_allowed", reason)
                })?;
                http.send(url, request).await
            }
            Transport::Stub {
                connection,
                mailbox,
            } => {
                let (reply, answer) = oneshot::channel();
                mailbox.send(Message::StubRequest {
                    connection: connection.clone(),
                    request: request.clone(),
                    reply,
                });
                let answer = answer.await.unwrap_or_else(|_| {
                    Err(Failure::connection(
                        ErrorClass::Transient,
                        "no_answer",
                        "the stub CRM did not answer",
                    ))
                });
                Ok((request, answer))
            }
        }
    }
}
