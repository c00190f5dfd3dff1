//! Drives operations: what a provider wants sent is sent, and it is given the response.

use crm_domain::Failure;
use crm_provider::{BoxOperation, Request, Response, Step};

use crate::failpoint;

/// How the requests of an operation are sent.
pub trait Send {
    fn send(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Response, Failure>> + std::marker::Send + '_;
}

/// Takes an operation from step to step, to its end.
pub async fn drive<T>(mut operation: BoxOperation<T>, sender: impl Send) -> Result<T, Failure> {
    let mut step = operation.step(None);
    loop {
        step = match step {
            Step::Done(result) => return result,
            Step::Wait(time) => {
                tokio::time::sleep(time).await;
                operation.step(None)
            }
            Step::Send(request) => match sender.send(request).await {
                Ok(response) => {
                    failpoint::reach_on_thread("operation::response");
                    operation.step(Some(response))
                }
                Err(failure) => operation.interrupted(failure),
            },
        };
    }
}
