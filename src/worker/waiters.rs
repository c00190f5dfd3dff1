//! Backends that wait until some maps' work is done: `crm.flush()`.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::socket::protocol::Wait;

/// A backend that waits for some maps.
pub struct Waiter {
    /// `None`: all of them, those that come later too.
    map_ids: Option<Vec<i32>>,
    deadline: Instant,
    reply: oneshot::Sender<Json>,
}

impl Waiter {
    pub fn new(request: Wait, reply: oneshot::Sender<Json>) -> Self {
        let timeout = Duration::from_millis(request.timeout_ms.min(86_400_000));
        Waiter {
            map_ids: request.map_ids,
            deadline: Instant::now() + timeout,
            reply,
        }
    }

    pub fn covers(&self, map_id: i32) -> bool {
        self.map_ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&map_id))
    }

    pub fn is_over(&self) -> bool {
        self.reply.is_closed() || Instant::now() >= self.deadline
    }

    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub fn answer(self, answer: Json) {
        let _ = self.reply.send(answer);
    }
}

/// A backend that waits until nothing of some maps, or of any, is due.
pub struct Flush(pub Waiter);

impl Flush {
    pub fn answer(self, done: bool) {
        self.0.answer(json!({ "done": done }));
    }
}

impl std::ops::Deref for Flush {
    type Target = Waiter;

    fn deref(&self) -> &Waiter {
        &self.0
    }
}
