//! Writing a batch in one request after another.
//!
//! Guarantees: no request carries one key twice; what earlier requests achieved is never lost to
//! the failure of a later one; a refused batch is sent again in parts only as long as that saves
//! requests.

use std::collections::VecDeque;

use crm_domain::bisect::{BisectBudget, Parts};
use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use crate::outcomes::{Outcome, Outcomes, Plan};
use crate::{Operation, Request, Response, Step};

/// What an answer leads to.
pub(crate) enum Next {
    /// All that it can tell of its records is told.
    Done,
    /// This is to be asked before more can be told.
    Send(Request),
    /// It was refused because of records that it names, which are settled. The others were not
    /// written, and may go again.
    Again,
}

/// What a vendor is asked to write some records of a batch: one request, or several in a row.
pub(crate) trait Call: Send {
    fn request(&mut self, records: &[usize]) -> Request;

    /// Whether the engine is to split a batch that is refused as a whole: where a single record
    /// goes by another endpoint, which says more of it.
    fn is_split_by_the_engine(&self) -> bool {
        false
    }

    /// Reads the answer to the last request for these records: sets the outcomes of those that it
    /// speaks of, or says what is to be asked before they can be known. `Err` is the refusal of
    /// those that it does not name: they were not written.
    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure>;
}

/// A write of one or more [`Call`]s.
///
/// What is refused as a whole because of some record goes again in quarters, as long as that saves
/// requests; see [`BisectBudget`].
pub(crate) struct Calls<C> {
    call: C,
    queue: VecDeque<Vec<usize>>,
    /// What is left of a refused request, which goes before the queue does.
    parts: Parts<usize>,
    sent: Vec<usize>,
    outcomes: Outcomes,
    budget: BisectBudget,
}

impl<C: Call> Calls<C> {
    /// Sends what is not known yet of the rounds, in order, in requests of at most `size` records.
    pub fn new(call: C, plan: Plan, size: usize) -> Self {
        let Plan { rounds, outcomes } = plan;
        let mut queue = VecDeque::new();
        for round in rounds {
            let records = outcomes.unknown(&round);
            queue.extend(records.chunks(size).map(<[usize]>::to_vec));
        }
        Calls {
            call,
            budget: BisectBudget::new(queue.iter().map(Vec::len).sum()),
            queue,
            parts: Parts::default(),
            sent: Vec::new(),
            outcomes,
        }
    }

    /// What goes next. Of a part, its first record alone if more at once would not save requests.
    fn next_records(&mut self) -> Option<Vec<usize>> {
        let Some(part) = self.parts.pop() else {
            return self.queue.pop_front();
        };
        if part.len() > 1 && !self.budget.allows_batch() {
            self.parts.split(part, 1);
            return self.parts.pop();
        }
        Some(part)
    }

    fn send_next(&mut self) -> Step<Vec<Outcome>> {
        match self.next_records() {
            Some(records) => {
                let request = self.call.request(&records);
                self.budget.count_request();
                self.sent = records;
                Step::Send(request)
            }
            None => Step::Done(Ok(self.outcomes.finish())),
        }
    }

    /// All that can be known of the records of the last request is known.
    fn finish_request(&mut self) -> Step<Vec<Outcome>> {
        self.budget.count_decided(self.sent.len());
        self.send_next()
    }

    /// Takes those records of the last request whose outcome is not known, to be sent again.
    fn take_unknown(&mut self) -> Vec<usize> {
        let sent = std::mem::take(&mut self.sent);
        let unknown = self.outcomes.unknown(&sent);
        self.budget.count_decided(sent.len() - unknown.len());
        unknown
    }

    /// A request was refused. Trouble that passes is that of the whole batch as long as nothing is
    /// known of any record; later it is dealt with here.
    fn refused(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        let unknown = self.outcomes.unknown(&self.sent);
        let passes = matches!(
            failure.class,
            ErrorClass::Transient | ErrorClass::RateLimited
        );
        let is_connection = failure.scope == Scope::Connection;
        let is_refusal = failure.class != ErrorClass::Internal;
        let for_the_engine = passes || is_refusal && self.call.is_split_by_the_engine();
        if !self.outcomes.any() && (is_connection || for_the_engine && unknown.len() > 1) {
            return Step::Done(Err(failure));
        }
        if is_connection {
            self.outcomes.fail_all(unknown, &failure);
            self.outcomes.fail_all(self.parts.drain(), &failure);
            let unsent = self.queue.drain(..);
            self.outcomes.fail_all(unsent.flatten(), &failure);
        } else if unknown.len() > 1 && !passes && is_refusal {
            let part = self.take_unknown();
            self.parts.quarter(part);
            return self.send_next();
        } else {
            // Of an answer that is none it is not known what was written: no other request would
            // tell.
            self.outcomes.fail_all(unknown, &failure);
        }
        self.finish_request()
    }
}

impl<C: Call> Operation<Vec<Outcome>> for Calls<C> {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        let Some(response) = answer else {
            return self.send_next();
        };
        match self
            .call
            .on_response(&self.sent, &response, &mut self.outcomes)
        {
            Ok(Next::Send(request)) => Step::Send(request),
            Ok(Next::Done) => self.finish_request(),
            Ok(Next::Again) => {
                let part = self.take_unknown();
                self.parts.push(part);
                self.send_next()
            }
            Err(failure) => self.refused(failure),
        }
    }

    fn interrupted(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        self.refused(failure)
    }
}
