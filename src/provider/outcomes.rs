//! The outcomes of a batch, each tied to its record.
//!
//! Guarantees: each record gets exactly one outcome; one that no answer mentions gets a transient
//! failure, never a silent success.

use std::collections::HashMap;

use crm_domain::{ErrorClass, Failure};

use crate::outcome::Written;
use crate::record::{WriteBatch, WriteKind};
use crate::wire;

pub(crate) type Outcome = Result<Written, Failure>;

/// Outcomes, filled in whatever order answers come.
#[derive(Default)]
pub(crate) struct Outcomes {
    is_upsert: bool,
    outcomes: Vec<Option<Outcome>>,
}

impl Outcomes {
    pub fn new(batch: &WriteBatch) -> Outcomes {
        Outcomes {
            is_upsert: batch.kind == WriteKind::Upsert,
            outcomes: vec![None; batch.records.len()],
        }
    }

    /// Sets the outcome of a record; the first one counts. What has no id was not written, as far
    /// as anybody knows. An upsert never finds its record missing: what was not found is something
    /// that its fields refer to.
    pub fn set(&mut self, index: usize, outcome: Outcome) {
        let slot = &mut self.outcomes[index];
        if slot.is_some() {
            return;
        }
        *slot = Some(match outcome {
            Ok(written) if !wire::is_id(&written.crm_id) => {
                let message = "the CRM saved the record, but returned an id that cannot be one";
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

    pub fn fail_all(&mut self, indexes: impl IntoIterator<Item = usize>, failure: &Failure) {
        for index in indexes {
            self.set(index, Err(failure.clone()));
        }
    }

    pub fn is_known(&self, index: usize) -> bool {
        self.outcomes[index].is_some()
    }

    /// Whether the outcome of any record is known.
    pub fn any(&self) -> bool {
        self.outcomes.iter().any(Option::is_some)
    }

    /// Those of these records whose outcome is not known.
    pub fn unknown(&self, indexes: &[usize]) -> Vec<usize> {
        let indexes = indexes.iter().copied();
        indexes.filter(|&index| !self.is_known(index)).collect()
    }

    /// Every record's outcome, in the batch's order.
    pub fn finish(&mut self) -> Vec<Outcome> {
        let outcomes = std::mem::take(&mut self.outcomes);
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(Failure::missing_result())))
            .collect()
    }
}

/// How a batch is written: in rounds, one after another, in none of which a key comes twice.
#[derive(Default)]
pub(crate) struct Plan {
    pub rounds: Vec<Vec<usize>>,
    pub outcomes: Outcomes,
}

impl Plan {
    /// Keys are compared as `key_form` gives them. A record without a key fails at once.
    pub fn new<'a>(batch: &'a WriteBatch, key_form: fn(&'a str) -> &'a str) -> Plan {
        let mut outcomes = Outcomes::new(batch);
        let mut rounds: Vec<Vec<usize>> = Vec::new();
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(batch.records.len());
        for (index, record) in batch.records.iter().enumerate() {
            let Some(key) = record.key(batch.kind) else {
                let message = format!("an {} needs the record's key", batch.kind.name());
                let failure = Failure::record(ErrorClass::Internal, "missing_key", message);
                outcomes.set(index, Err(failure));
                continue;
            };
            let round = seen.entry(key_form(key)).or_default();
            if *round == rounds.len() {
                rounds.push(Vec::new());
            }
            rounds[*round].push(index);
            *round += 1;
        }
        Plan { rounds, outcomes }
    }

    /// For the first record of a batch alone.
    pub fn of_first(batch: &WriteBatch) -> Plan {
        Plan {
            rounds: vec![vec![0]],
            outcomes: Outcomes::new(batch),
        }
    }
}
