//! Creating records that nobody has made yet, in CRMs whose upsert writes over those that are
//! there: their keys are looked up first.
//!
//! Guarantees: a record that is found is not written, and its outcome names it; two that have one
//! key are a conflict, and neither is written. Whoever makes a record between the look and the
//! upsert has it written over, but never a twin of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crm_domain::key::{KeyEquality, folded};
use crm_domain::{ErrorClass, Failure};

use crate::body::Item;
use crate::errors::unreadable;
use crate::outcomes::{Outcome, Outcomes};
use crate::{BoxOperation, Operation, Request, Response, Step, WriteBatch, Written};

/// How a CRM is asked for the records that have some keys.
pub(crate) trait Finder: Send {
    /// How many of these keys one request asks for.
    fn size(&self, keys: &[&str]) -> usize;

    fn request(&mut self, keys: &[&str]) -> Request;

    /// The records that an answer shows: their keys and their ids. `None`: the same keys are to be
    /// asked for once more, in another form.
    fn found(&mut self, response: &Response) -> Result<Option<Vec<(String, String)>>, Failure>;
}

/// What [`Finder::found`] returns of an answer's records: one of which cannot be read which it is
/// may be that which is sought, and then no other is made.
pub(crate) fn all_read(
    response: &Response,
    items: Vec<Item>,
    record: impl FnMut(Item) -> Option<(String, String)>,
) -> Result<Option<Vec<(String, String)>>, Failure> {
    let found: Option<Vec<_>> = items.into_iter().map(record).collect();
    found.map(Some).ok_or_else(|| unreadable(response))
}

type Write = Box<dyn FnOnce(Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> + Send>;

/// Looks for the records of a batch, and writes those that are not there.
pub(crate) struct FindFirst<F> {
    finder: F,
    equality: KeyEquality,
    batch: Arc<WriteBatch>,
    /// Whose keys are still to be asked for.
    left: VecDeque<usize>,
    asked: Vec<usize>,
    outcomes: Outcomes,
    write: Option<Write>,
    /// What is under way of it, and the places of its records.
    writing: Option<(BoxOperation<Vec<Outcome>>, Vec<usize>)>,
}

impl<F: Finder + 'static> FindFirst<F> {
    /// `write` upserts what was not found.
    pub fn start(
        finder: F,
        equality: KeyEquality,
        batch: Arc<WriteBatch>,
        write: impl FnOnce(Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> + Send + 'static,
    ) -> BoxOperation<Vec<Outcome>> {
        // Of a record without a key, the write says so.
        let keyed = (0..batch.records.len()).filter(|&n| !batch.key(n).is_empty());
        Box::new(FindFirst {
            finder,
            equality,
            left: keyed.collect(),
            asked: Vec::new(),
            outcomes: Outcomes::new(&batch),
            write: Some(Box::new(write)),
            writing: None,
            batch,
        })
    }

    fn ask(&mut self) -> Step<Vec<Outcome>> {
        let batch = self.batch.clone();
        Step::Send(self.finder.request(&keys(&batch, &self.asked)))
    }

    fn next(&mut self) -> Step<Vec<Outcome>> {
        if self.left.is_empty() {
            return self.write();
        }
        let size = self.finder.size(&keys(&self.batch, &self.left));
        let size = size.clamp(1, self.left.len());
        self.asked = self.left.drain(..size).collect();
        self.ask()
    }

    fn take(&mut self, response: &Response) -> Result<Step<Vec<Outcome>>, Failure> {
        let Some(found) = self.finder.found(response)? else {
            return Ok(self.ask());
        };
        let mut asked: HashMap<String, Vec<usize>> = HashMap::with_capacity(self.asked.len());
        for &place in &self.asked {
            let key = folded(self.batch.key(place)).into_owned();
            asked.entry(key).or_default().push(place);
        }
        let mut ids: HashMap<usize, Vec<String>> = HashMap::new();
        for (key, id) in found {
            let places = asked.get(folded(&key).as_ref()).into_iter().flatten();
            let is_it = |n: &&usize| self.equality.are_one(self.batch.key(**n), &key);
            for &place in places.filter(is_it) {
                ids.entry(place).or_default().push(id.clone());
            }
        }
        for (place, mut ids) in ids {
            ids.sort_unstable();
            ids.dedup();
            self.outcomes.set(place, there(ids));
        }
        Ok(self.next())
    }

    fn write(&mut self) -> Step<Vec<Outcome>> {
        let all: Vec<usize> = (0..self.batch.records.len()).collect();
        let rest = self.outcomes.unknown(&all);
        let Some(write) = self.write.take().filter(|_| !rest.is_empty()) else {
            return Step::Done(Ok(self.outcomes.finish()));
        };
        let records = rest.iter().map(|&n| self.batch.records[n].clone());
        let batch = WriteBatch {
            records: records.collect(),
            creates_only: false,
            ..WriteBatch::like(&self.batch)
        };
        let (operation, _) = self.writing.insert((write(Arc::new(batch)), rest));
        let step = operation.step(None);
        self.written(step)
    }

    /// A batch that is refused as a whole is looked up once more when it comes again.
    fn written(&mut self, step: Step<Vec<Outcome>>) -> Step<Vec<Outcome>> {
        match step {
            Step::Done(Ok(outcomes)) => {
                let places = self.writing.take().map(|(_, places)| places);
                for (place, outcome) in places.into_iter().flatten().zip(outcomes) {
                    self.outcomes.set(place, outcome);
                }
                Step::Done(Ok(self.outcomes.finish()))
            }
            step => step,
        }
    }
}

fn keys<'a>(batch: &'a WriteBatch, places: impl IntoIterator<Item = &'a usize>) -> Vec<&'a str> {
    places.into_iter().map(|&n| batch.key(n)).collect()
}

/// The outcome of a creation whose record is there.
pub(crate) fn there(ids: Vec<String>) -> Outcome {
    match <[String; 1]>::try_from(ids) {
        Ok([crm_id]) => Ok(Written::found(crm_id)),
        Err(ids) => Err(ambiguous(&ids)),
    }
}

pub(crate) fn ambiguous(ids: &[String]) -> Failure {
    let message = format!(
        "several CRM records have this external id: {}",
        ids.join(", ")
    );
    Failure::record(ErrorClass::Conflict, "duplicate_external_id", message)
}

impl<F: Finder + 'static> Operation<Vec<Outcome>> for FindFirst<F> {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Outcome>> {
        if let Some((operation, _)) = &mut self.writing {
            let step = operation.step(answer);
            return self.written(step);
        }
        match answer {
            None => self.next(),
            Some(response) => self
                .take(&response)
                .unwrap_or_else(|failure| Step::Done(Err(failure))),
        }
    }

    fn interrupted(&mut self, failure: Failure) -> Step<Vec<Outcome>> {
        match &mut self.writing {
            Some((operation, _)) => {
                let step = operation.interrupted(failure);
                self.written(step)
            }
            None => Step::Done(Err(failure)),
        }
    }
}
