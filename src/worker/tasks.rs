//! What the threads do for the main thread, each with an end: a task that panics says so, in the name of those whose work it
//! had, as one that comes back says what the CRM answered.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use crm_domain::{ErrorClass, Failure};
use futures_util::future::FutureExt;

use super::main_loop::Worker;
use crate::worker::main_loop::event::Event;

impl Worker {
    /// Starts a task whose outcome is an event; `failed` makes another of a panic.
    pub fn start(
        &self,
        task: impl Future<Output = Event> + Send + 'static,
        failed: impl FnOnce(Failure) -> Event + Send + 'static,
    ) {
        let outbox = self.outbox.clone();
        self.runtime.spawn(async move {
            let event = match caught(task).await {
                Ok(event) => event,
                Err(failure) => failed(failure),
            };
            outbox.send(event);
        });
    }
}

/// Awaits something; a panic in it is a failure like others.
pub async fn caught<T>(task: impl Future<Output = T>) -> Result<T, Failure> {
    let result = AssertUnwindSafe(task).catch_unwind().await;
    result.map_err(|panic| panicked(&*panic))
}

/// The same of what needs no waiting for.
pub fn caught_at_once<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    let result = std::panic::catch_unwind(AssertUnwindSafe(work));
    result.map_err(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Failure::record(
        ErrorClass::Internal,
        Failure::PANICKED,
        format!("panicked: {message}"),
    )
}
