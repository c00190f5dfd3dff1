//! Backends that wait in `crm.test_connection()`, or in `crm.plan()` for the number of an object's
//! records, for a real call to a CRM: `{"op": "test", ...}`.

use serde_json::{Value as Json, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::readiness::AWAY;
use crate::store::config::Connection;
use crate::worker::link::{Priority, RequestContext, SharedLink};

/// A backend that waits for a test of a connection.
pub struct PendingTest {
    pub connection_id: i32,
    /// The object whose records are counted; `None`: the call proves that the CRM answers.
    pub count: Option<String>,
    pub reply: oneshot::Sender<Json>,
}

impl PendingTest {
    /// Calls the CRM, or answers why it cannot be called.
    pub fn serve(
        self,
        connection: Option<&Connection>,
        link: Option<SharedLink>,
        runtime: &Handle,
    ) {
        let Some(link) = link else {
            let detail = match connection {
                Some(connection) if connection.is_away => AWAY,
                Some(_) => {
                    "the credentials cannot be resolved; see crm.status and crm.connection_state"
                }
                None => "the worker does not know this connection: it is not committed yet",
            };
            let _ = self.reply.send(json!({"ok": false, "detail": detail}));
            return;
        };
        runtime.spawn(async move {
            let context = RequestContext::new(Priority::RealTime);
            let answered = match self.count {
                None => {
                    let ping = link.provider.ping(&link.settings);
                    let answer = link.run(&context, ping).await;
                    answer.map(|detail| json!({"ok": true, "detail": detail}))
                }
                Some(object) => match link.provider.count(&link.settings, &object) {
                    Some(count) => {
                        let answer = link.run(&context, count).await;
                        answer.map(|count| json!({"ok": true, "count": count}))
                    }
                    // The CRM does not tell.
                    None => Ok(json!({"ok": true})),
                },
            };
            let answer = answered
                .unwrap_or_else(|failure| json!({"ok": false, "detail": failure.to_string()}));
            link.take_outage();
            let _ = self.reply.send(answer);
        });
    }
}
