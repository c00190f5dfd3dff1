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

    /// Whether the caller named its maps; otherwise those that are not in use do not concern it.
    pub fn names_maps(&self) -> bool {
        self.map_ids.is_some()
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

/// Backends that wait until some maps, or all, have nothing outstanding.
#[derive(Default)]
pub struct Flushes(Vec<Waiter>);

impl Flushes {
    pub fn add(&mut self, waiter: Waiter) {
        self.0.push(waiter);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any waits for this map.
    pub fn cover(&self, map_id: i32) -> bool {
        self.0.iter().any(|waiter| waiter.covers(map_id))
    }

    /// How long until the first one's time is up.
    pub fn time_left(&self) -> Option<Duration> {
        self.0.iter().map(Waiter::time_left).min()
    }

    /// Answers those for which `done` has an answer; the others wait on, until their time is up.
    pub fn answer(&mut self, mut done: impl FnMut(&Waiter) -> Option<bool>) {
        for waiter in std::mem::take(&mut self.0) {
            match done(&waiter) {
                None if !waiter.is_over() => self.0.push(waiter),
                answer => waiter.answer(json!({ "done": answer.unwrap_or(false) })),
            }
        }
    }

    /// Answers those whose time is up.
    pub fn expire(&mut self) {
        for waiter in self.0.extract_if(.., |waiter| waiter.is_over()) {
            waiter.answer(json!({ "done": false }));
        }
    }
}
