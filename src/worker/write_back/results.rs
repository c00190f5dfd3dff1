//! From a CRM's responses to outcomes on the records of a batch.

use std::collections::HashMap;

use crm_domain::Op;
use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use super::in_flight::{InFlight, Response};
use crate::store::config::Map;
use crate::store::outcome::Outcome;
use crate::store::write_back::outcome::Settled;
use crate::worker::retry_policy;
use crate::worker::sender::batches::Sent;

/// A map stops when at least so many records fail because of the mapping and none succeeds.
const STOP_AFTER: usize = 5;

/// The records with their results, and an outage if their failures speak of one.
pub fn classify(
    map: &Map,
    records: Vec<InFlight>,
    sent: Vec<Sent>,
    max_attempts: u32,
) -> (Vec<Settled>, Option<Failure>) {
    let mut outage = None;
    let mut answers: HashMap<usize, Sent> = sent.into_iter().map(|s| (s.index, s)).collect();
    let settled = records.into_iter().enumerate().map(|(index, record)| {
        let (request_id, result) = match answers.remove(&index) {
            Some(sent) => (Some(sent.request_id), sent.result),
            None => (None, Err(Failure::missing_result())),
        };
        let op = record.claimed().op;
        let mut response = Response {
            crm_id: None,
            created: op == Op::Create,
            request_id,
        };
        let outcome = match result {
            Ok(written) => {
                response.crm_id = Some(written.crm_id).filter(|id| !id.is_empty());
                response.created = written.created;
                Outcome::Applied
            }
            // Deleting what is gone already is done.
            Err(failure) if op == Op::Delete && failure.class == ErrorClass::NotFound => {
                Outcome::Applied
            }
            Err(failure) => {
                let attempts = record.claimed().attempts;
                let draw = fastrand::f64();
                let outcome = retry_policy::classify(
                    &failure,
                    attempts,
                    max_attempts,
                    map.on_crm_delete,
                    draw,
                );
                if failure.scope == Scope::Connection {
                    outage.get_or_insert(failure);
                }
                outcome
            }
        };
        record.settled(outcome, response)
    });
    (settled.collect(), outage)
}

/// Why a map stops. One whose every record fails because of the mapping does, instead of making a
/// dead letter of each.
pub fn stop_reason(settled: &[Settled]) -> Option<String> {
    let errors: Vec<&str> = settled
        .iter()
        .filter_map(|s| match &s.outcome {
            Outcome::Dead {
                class: ErrorClass::Mapping,
                error,
                ..
            } => Some(error.as_str()),
            _ => None,
        })
        .collect();
    (errors.len() >= STOP_AFTER && errors.len() == settled.len())
        .then(|| format!("every record fails: {}", errors[0]))
}
