//! Drives an operation with the answers of a scenario, as the engine would with those of a CRM.

use crm_domain::{ErrorClass, Failure};
use crm_provider::{BoxOperation, Provider, Request, Response, Step};

use crate::requests;

/// More requests than any operation has reason for, once nothing answers any more.
const ENDLESS: usize = 400;

/// The answers that are left, and what became of the way there.
pub struct Line<'a> {
    provider: &'a dyn Provider,
    answers: std::slice::Iter<'a, Response>,
    /// What carries the requests: itself and the answers are changed on the way.
    carry: fn(&Request) -> Request,
    deliver: fn(Response) -> Result<Response, Failure>,
    /// Whether there was any answer, and any success, be it one within the answer to a batch.
    pub answered: bool,
    pub succeeded: bool,
}

impl<'a> Line<'a> {
    pub fn direct(provider: &'a dyn Provider, answers: &'a [Response]) -> Line<'a> {
        Line {
            provider,
            answers: answers.iter(),
            carry: Request::clone,
            deliver: Ok,
            answered: false,
            succeeded: false,
        }
    }

    /// By way of who carries requests and answers.
    pub fn by(
        self,
        carry: fn(&Request) -> Request,
        deliver: fn(Response) -> Result<Response, Failure>,
    ) -> Line<'a> {
        Line {
            carry,
            deliver,
            ..self
        }
    }

    pub fn is_over(&self) -> bool {
        self.answers.len() == 0
    }

    /// The next answer; from the last one on, all are lost.
    fn answer(&mut self) -> Result<Response, Failure> {
        let lost = || Failure::connection(ErrorClass::Transient, "timeout", "no answer");
        let answer = self.answers.next().filter(|answer| answer.status != 0);
        let answer = (self.deliver)(answer.ok_or_else(lost)?.clone())?;
        self.answered = true;
        self.succeeded |= answer.is_success() || holds_success(&answer.body);
        Ok(answer)
    }
}

/// Dataverse and Zoho may refuse a batch as a whole and tell of records in it that they took.
fn holds_success(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    ["HTTP/1.0 2", "HTTP/1.1 2", "SUCCESS"]
        .iter()
        .any(|told| body.contains(told))
}

/// Runs an operation to its end, which it must have.
pub fn run<T>(mut operation: BoxOperation<T>, line: &mut Line<'_>) -> Result<T, Failure> {
    let mut step = operation.step(None);
    for _ in 0..ENDLESS {
        step = match step {
            Step::Done(Ok(result)) => return Ok(result),
            Step::Done(Err(failure)) => {
                check(&failure);
                return Err(failure);
            }
            Step::Wait(_) => operation.step(None),
            Step::Send(request) => {
                requests::check(&request);
                requests::check_file(line.provider, &request);
                requests::check(&(line.carry)(&request));
                match line.answer() {
                    Ok(response) => operation.step(Some(response)),
                    Err(failure) => operation.interrupted(failure),
                }
            }
        };
    }
    panic!("the operation never ends");
}

/// What a failure tells can be shown and stored: it is bounded, and free of control characters.
pub fn check(failure: &Failure) {
    assert!(failure.message.len() <= Failure::MESSAGE_BYTES);
    assert!(
        failure.code.len() <= Failure::CODE_BYTES,
        "{:?}",
        failure.code
    );
    for text in [&failure.code, &failure.message] {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}
