//! Tasks of the threads whose outcome is a message. A task that panics sends one too: the failure
//! of the work that it had.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use crm_domain::{ErrorClass, Failure};
use futures_util::future::FutureExt;
use tokio::runtime::Handle;

use super::mailbox::Sender;

/// Starts a task whose outcome is a message; `failed` makes one of a panic.
pub fn spawn<M: Send + 'static>(
    runtime: &Handle,
    mailbox: &Sender<M>,
    task: impl Future<Output = M> + Send + 'static,
    failed: impl FnOnce(Failure) -> M + Send + 'static,
) {
    let mailbox = mailbox.clone();
    runtime.spawn(async move {
        mailbox.send(match catch_panic(task).await {
            Ok(message) => message,
            Err(failure) => failed(failure),
        });
    });
}

/// Awaits something; a panic in it is a failure like others.
pub async fn catch_panic<T>(task: impl Future<Output = T>) -> Result<T, Failure> {
    let result = AssertUnwindSafe(task).catch_unwind().await;
    result.map_err(|panic| panicked(&*panic))
}

/// The same for work that awaits nothing.
pub fn catch_panic_in<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
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
