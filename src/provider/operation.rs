//! An operation, driven step by step by the engine.

use std::time::Duration;

use crm_domain::Failure;

use crate::{Request, Response};

/// What an operation wants next.
#[derive(Debug)]
pub enum Step<T> {
    /// Send this and call [`Operation::step`] with the answer.
    Send(Request),
    /// Nothing to send before this much time has passed (a job that is being worked on).
    Wait(Duration),
    /// Finished.
    Done(Result<T, Failure>),
}

/// A conversation with a CRM: one request, or a job of many.
///
/// The engine calls `step(None)` first and after each [`Step::Wait`], and `step(Some(response))`
/// with the answer to each [`Step::Send`], whatever its status. It has by then dealt with an
/// expired token (refresh, same request again). When the transport fails it calls
/// [`Operation::interrupted`].
pub trait Operation<T>: Send {
    fn step(&mut self, answer: Option<Response>) -> Step<T>;

    /// The last [`Step::Send`] got no answer (a timeout, a reset). Most operations end in that
    /// failure. One that has outcomes already keeps them, and one whose job the CRM goes on working
    /// on asks again, so an operation that is dropped instead loses what it knows.
    fn interrupted(&mut self, failure: Failure) -> Step<T> {
        Step::Done(Err(failure))
    }
}

/// An operation on the heap, as providers hand them out.
pub type BoxOperation<T> = Box<dyn Operation<T>>;

/// The commonest operation: one request, one answer.
pub struct Exchange<F> {
    request: Option<Request>,
    finish: Option<F>,
}

impl<F> Exchange<F> {
    pub fn new(request: Request, finish: F) -> Self {
        Exchange {
            request: Some(request),
            finish: Some(finish),
        }
    }
}

impl<T, F> Operation<T> for Exchange<F>
where
    F: FnOnce(Response) -> Result<T, Failure> + Send,
{
    fn step(&mut self, answer: Option<Response>) -> Step<T> {
        match answer {
            Some(response) => {
                let finish = self.finish.take().expect("an exchange is answered once");
                Step::Done(finish(response))
            }
            None => Step::Send(self.request.take().expect("an exchange is sent once")),
        }
    }
}

/// An operation that fails before anything is sent.
pub(crate) struct FailedOperation(Option<Failure>);

impl FailedOperation {
    pub fn new(failure: Failure) -> FailedOperation {
        FailedOperation(Some(failure))
    }
}

impl<T> Operation<T> for FailedOperation {
    fn step(&mut self, _answer: Option<Response>) -> Step<T> {
        Step::Done(Err(self.0.take().expect("a refusal is told once")))
    }
}
