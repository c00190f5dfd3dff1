//! Writing a batch in one request after another, and tying every outcome to its record.
//!
//! Guarantees: each record gets exactly one outcome (a record that no answer speaks of gets a
//! transient failure, never a silent success); no request carries one key twice; what earlier
//! requests achieved is never lost to the failure of a later one.

use std::collections::{HashMap, VecDeque};

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use crate::{Operation, Request, Response, Step, WriteBatch, WriteKind, Written};

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

    /// States the outcome of a record. The first one counts. An upsert never finds its record
    /// missing: what was not found is something that its fields refer to.
    pub fn settle(&mut self, index: usize, outcome: Outcome) {
        let slot = &mut self.outcomes[index];
        if slot.is_some() {
            return;
        }
        *slot = Some(match outcome {
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

/// What a vendor is asked to write some records of a batch: one request, or several in a row.
pub(crate) trait Call: Send {
    fn request(&mut self, records: &[usize]) -> Request;

    /// Takes in the answer to the last request for these records. Settles the records that it speaks of,
    /// or says what is to be asked next before they can be. `Err` is the refusal of those that it does
    /// not name: they were not written.
    fn settle(
        &mut self,
        records: &[usize],
        response: &Response,
        slots: &mut Slots,
    ) -> Result<Option<Request>, Failure>;
}

/// A write of one or more [`Call`]s.
pub(crate) struct Calls<C> {
    call: C,
    plan: VecDeque<Vec<usize>>,
    sent: Vec<usize>,
    slots: Slots,
}

impl<C: Call> Calls<C> {
    /// Sends the rounds in order, in requests of at most `size` records.
    pub fn new(call: C, rounds: &[Vec<usize>], size: usize, slots: Slots) -> Self {
        let plan = rounds
            .iter()
            .flat_map(|round| round.chunks(size))
            .map(<[usize]>::to_vec)
            .collect();
        Calls {
            call,
            plan,
            sent: Vec::new(),
            slots,
        }
    }

    fn next(&mut self) -> Step<Vec<Outcome>> {
        match self.plan.pop_front() {
            Some(records) => {
                let request = self.call.request(&records);
                self.sent = records;
                Step::Send(request)
            }
            None => Step::Done(Ok(self.slots.finish())),
        }
    }

    /// A request was refused. While nothing is known of any record, the refusal is that of the whole
    /// batch, for the engine to split; later it is dealt with here.
    fn refused(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        let sent = std::mem::take(&mut self.sent);
        let mut left = self.slots.unsettled(&sent);
        let everything =
            !self.slots.any() && (left.len() > 1 || failure.scope == Scope::Connection);
        if everything {
            return Step::Done(Err(failure));
        }
        let is_lasting = !matches!(
            failure.class,
            ErrorClass::Transient | ErrorClass::RateLimited
        );
        if failure.scope == Scope::Connection {
            self.slots.settle_all(left, &failure);
            self.slots
                .settle_all(self.plan.drain(..).flatten(), &failure);
        } else if left.len() > 1 && is_lasting {
            let right = left.split_off(left.len() / 2);
            self.plan.push_front(right);
            self.plan.push_front(left);
        } else {
            self.slots.settle_all(left, &failure);
        }
        self.next()
    }
}

impl<C: Call> Operation<Vec<Outcome>> for Calls<C> {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        let Some(response) = answer else {
            return self.next();
        };
        match self.call.settle(&self.sent, &response, &mut self.slots) {
            Ok(Some(request)) => Step::Send(request),
            Ok(None) => self.next(),
            Err(failure) => self.refused(failure),
        }
    }

    fn interrupted(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        self.refused(failure)
    }
}
