//! Writing a batch in one request after another, and tying every outcome to its record.
//!
//! Guarantees: each record gets exactly one outcome (a record that no answer speaks of gets a
//! transient failure, never a silent success); no request carries one key twice; what earlier
//! requests achieved is never lost to the failure of a later one.

use std::collections::{HashMap, VecDeque};

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use crate::{Operation, Request, Response, Step, WriteBatch, WriteKind, Written, wire};

pub(crate) type Outcome = Result<Written, Failure>;

/// The outcomes of a batch, filled in whatever order answers come.
#[derive(Default)]
pub(crate) struct Slots {
    is_upsert: bool,
    outcomes: Vec<Option<Outcome>>,
}

impl Slots {
    pub fn new(batch: &WriteBatch) -> Slots {
        Slots {
            is_upsert: batch.kind == WriteKind::Upsert,
            outcomes: vec![None; batch.records.len()],
        }
    }

    /// States the outcome of a record. The first one counts. What has no id was not written, as far as anybody knows. An upsert never finds its record
    /// missing: what was not found is something that its fields refer to.
    pub fn settle(&mut self, index: usize, outcome: Outcome) {
        let slot = &mut self.outcomes[index];
        if slot.is_some() {
            return;
        }
        *slot = Some(match outcome {
            Ok(written) if !wire::is_id(&written.crm_id) => {
                let message = "the CRM saved the record, and the id that it says cannot be one";
                let code = "unreadable_id";
                Err(Failure::record(ErrorClass::Internal, code, message))
            }
            Err(failure) if failure.class == ErrorClass::NotFound && self.is_upsert => {
                Err(Failure {
                    class: ErrorClass::Mapping,
                    ..failure
                })
            }
            outcome => outcome,
        });
    }

    pub fn settle_all(&mut self, indexes: impl IntoIterator<Item = usize>, failure: &Failure) {
        for index in indexes {
            self.settle(index, Err(failure.clone()));
        }
    }

    pub fn is_settled(&self, index: usize) -> bool {
        self.outcomes[index].is_some()
    }

    /// Whether anything is known of any record.
    pub fn any(&self) -> bool {
        self.outcomes.iter().any(Option::is_some)
    }

    pub fn unsettled(&self, indexes: &[usize]) -> Vec<usize> {
        indexes
            .iter()
            .copied()
            .filter(|&index| !self.is_settled(index))
            .collect()
    }

    /// Every record's outcome, in the batch's order.
    pub fn finish(&mut self) -> Vec<Outcome> {
        let missing = || {
            Failure::record(
                ErrorClass::Transient,
                "missing_result",
                "the CRM's answer does not mention this record",
            )
        };
        let outcomes = std::mem::take(&mut self.outcomes);
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(missing())))
            .collect()
    }
}

/// Sorts a batch into rounds in which no key (as `key_form` compares them) comes twice; a record
/// without a key is settled at once.
pub(crate) fn rounds<'a>(
    batch: &'a WriteBatch,
    slots: &mut Slots,
    key_form: fn(&'a str) -> &'a str,
) -> Vec<Vec<usize>> {
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(batch.records.len());
    for (index, record) in batch.records.iter().enumerate() {
        let Some(key) = record.key(batch.kind) else {
            let message = format!("an {} needs the record's key", batch.kind.name());
            slots.settle(
                index,
                Err(Failure::record(
                    ErrorClass::Internal,
                    "missing_key",
                    message,
                )),
            );
            continue;
        };
        let round = seen.entry(key_form(key)).or_default();
        if *round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[*round].push(index);
        *round += 1;
    }
    rounds
}

/// What an answer leads to.
pub(crate) enum Next {
    /// All that it can tell of its records is told.
    Done,
    /// This is to be asked before more can be told.
    Send(Request),
    /// It was refused because of records that it names, which are settled. The others were not written, and may go again.
    Again,
}

/// What a vendor is asked to write some records of a batch: one request, or several in a row.
pub(crate) trait Call: Send {
    fn request(&mut self, records: &[usize]) -> Request;

    /// Whether the engine is to part a batch that is refused as a whole: where a record by itself goes by another path,
    /// which says more of it.
    fn is_parted_by_the_engine(&self) -> bool {
        false
    }

    /// Takes in the answer to the last request for these records. Settles the records that it speaks of,
    /// or says what is to be asked next before they can be. `Err` is the refusal of those that it does
    /// not name: they were not written.
    fn settle(
        &mut self,
        records: &[usize],
        response: &Response,
        slots: &mut Slots,
    ) -> Result<Next, Failure>;
}

/// A write of one or more [`Call`]s.
///
/// What is refused as a whole for the sake of some record goes again in halves, as long as that pays: a batch never
/// costs more requests than its records would one by one, and a tenth of that.
pub(crate) struct Calls<C> {
    call: C,
    plan: VecDeque<Vec<usize>>,
    /// Parts of a refused request, which go before the plan does.
    parts: Vec<Vec<usize>>,
    sent: Vec<usize>,
    slots: Slots,
    halving: Halving,
}

impl<C: Call> Calls<C> {
    /// Sends the rounds in order, in requests of at most `size` records.
    pub fn new(call: C, rounds: &[Vec<usize>], size: usize, slots: Slots) -> Self {
        let plan: VecDeque<Vec<usize>> = rounds
            .iter()
            .flat_map(|round| round.chunks(size))
            .map(<[usize]>::to_vec)
            .collect();
        Calls {
            call,
            halving: Halving::new(plan.iter().map(Vec::len).sum()),
            plan,
            parts: Vec::new(),
            sent: Vec::new(),
            slots,
        }
    }

    /// What goes next. The first of a part alone, if more at once would not pay any more.
    fn planned(&mut self) -> Option<Vec<usize>> {
        let Some(mut part) = self.parts.pop() else {
            return self.plan.pop_front();
        };
        if part.len() > 1 && !self.halving.pays() {
            let others = part.split_off(1);
            self.parts.push(others);
        }
        Some(part)
    }

    fn next(&mut self) -> Step<Vec<Outcome>> {
        match self.planned() {
            Some(records) => {
                let request = self.call.request(&records);
                self.halving.spend();
                self.sent = records;
                Step::Send(request)
            }
            None => Step::Done(Ok(self.slots.finish())),
        }
    }

    fn done(&mut self) -> Step<Vec<Outcome>> {
        self.halving.settle(self.sent.len());
        self.next()
    }

    /// The records of the last request that are not settled go again, whole or in parts.
    fn again(&mut self, parts: usize) -> Step<Vec<Outcome>> {
        let sent = std::mem::take(&mut self.sent);
        let left = self.slots.unsettled(&sent);
        self.halving.settle(sent.len() - left.len());
        let size = left.len().div_ceil(parts).max(1);
        self.parts
            .extend(left.chunks(size).rev().map(<[usize]>::to_vec));
        self.next()
    }

    /// A request was refused. Trouble that passes is that of the whole batch as long as nothing is known of any record;
    /// later it is dealt with here.
    fn refused(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        let left = self.slots.unsettled(&self.sent);
        let passes = matches!(
            failure.class,
            ErrorClass::Transient | ErrorClass::RateLimited
        );
        let is_connection = failure.scope == Scope::Connection;
        let is_refusal = failure.class != ErrorClass::Internal;
        let for_the_engine = passes || is_refusal && self.call.is_parted_by_the_engine();
        if !self.slots.any() && (is_connection || for_the_engine && left.len() > 1) {
            return Step::Done(Err(failure));
        }
        if is_connection {
            self.slots.settle_all(left, &failure);
            let unsent = self.parts.drain(..).chain(self.plan.drain(..));
            self.slots.settle_all(unsent.flatten(), &failure);
        } else if left.len() > 1 && !passes && failure.class != ErrorClass::Internal {
            return self.again(2);
        } else {
            // Of an answer that is none it is not known what was written: no other request would tell.
            self.slots.settle_all(left, &failure);
        }
        self.done()
    }
}

impl<C: Call> Operation<Vec<Outcome>> for Calls<C> {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        let Some(response) = answer else {
            return self.next();
        };
        match self.call.settle(&self.sent, &response, &mut self.slots) {
            Ok(Next::Send(request)) => Step::Send(request),
            Ok(Next::Done) => self.done(),
            Ok(Next::Again) => self.again(1),
            Err(failure) => self.refused(failure),
        }
    }

    fn interrupted(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        self.refused(failure)
    }
}

/// Decides whether to send several records at once after such a request was refused, so that a refused batch never costs many
/// more requests than its records would one by one.
#[derive(Debug)]
pub struct Halving {
    /// Refused requests that may be spent in vain, beyond one for each record that was settled.
    in_vain: usize,
    spent: usize,
    settled: usize,
}

impl Halving {
    pub fn new(records: usize) -> Halving {
        Halving {
            in_vain: records.div_ceil(10),
            spent: 0,
            settled: 0,
        }
    }

    /// Counts a request.
    pub fn spend(&mut self) {
        self.spent += 1;
    }

    /// Counts records that have their outcome.
    pub fn settle(&mut self, records: usize) {
        self.settled += records;
    }

    /// Whether another request that may settle nothing is affordable.
    pub fn pays(&self) -> bool {
        self.spent < self.settled + self.in_vain
    }
}
