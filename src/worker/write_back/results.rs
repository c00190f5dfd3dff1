//! From a CRM's responses to outcomes on the records of a batch.

use std::collections::HashMap;

use crm_domain::Op;
use crm_domain::failure::Scope;
use crm_domain::stop_rule::{TRIAL, stops};
use crm_domain::{ErrorClass, Failure};

use super::in_flight::{InFlight, Response};
use crate::store::config::Map;
use crate::store::outcome::Outcome;
use crate::store::write_back::outcome::Settled;
use crate::worker::retry_policy;
use crate::worker::sender::batches::Sent;

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
        let (request_id, result, shown) = match answers.remove(&index) {
            Some(sent) => (Some(sent.request_id), sent.result, sent.shown),
            None => (None, Err(Failure::missing_result()), Vec::new()),
        };
        let op = record.claimed().op;
        let mut response = Response {
            crm_id: None,
            created: op == Op::Create,
            request_id,
            shown,
        };
        let outcome = match result {
            Ok(written) => {
                response.crm_id = Some(written.crm_id).filter(|id| !id.is_empty());
                response.created = written.created;
                match op == Op::Create && written.found && response.crm_id.is_some() {
                    true => Outcome::Found,
                    false => Outcome::Applied,
                }
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
        record.settled(map, outcome, response)
    });
    (settled.collect(), outage)
}

/// Why the map stops, if it does. Then a trial of the records that failed become dead letters, and
/// the others wait until the map goes on.
pub fn stop_reason(map: &Map, settled: &mut [Settled]) -> Option<String> {
    let dead = settled.iter().map(|s| match &s.outcome {
        Outcome::Dead { class, .. } => Some(*class),
        _ => None,
    });
    if !stops(dead, !map.has_succeeded) {
        return None;
    }
    for record in settled.iter_mut().skip(TRIAL) {
        if let Outcome::Dead { class, code, error } = &record.outcome {
            record.outcome = Outcome::Retry {
                delay_ms: 0,
                charged: false,
                class: *class,
                code: code.clone(),
                error: error.clone(),
            };
        }
    }
    let error = settled.first()?.outcome.failure().2?;
    Some(format!("every record fails: {error}"))
}
