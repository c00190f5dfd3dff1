//! Salesforce as the simulator and the documents say it behaves.

mod bulk;
mod changes;
mod collections;
mod errors;
mod oauth;
mod reads;
mod rows;
mod service;
mod values;

use std::sync::Arc;

use crm_domain::{Failure, Value};

use super::Salesforce;
use crate::outcomes::Outcome;
use crate::scripted_server::{self, Answer, Log};
use crate::{Provider, Request, WriteBatch, WriteKind};

/// Writes a batch with a bulk threshold that no test batch reaches.
fn write<A: Into<Answer>>(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> A,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    write_above(1000, batch, answer)
}

fn write_above<A: Into<Answer>>(
    bulk_threshold: usize,
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> A,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    let operation = Salesforce.write(&scripted_server::settings(bulk_threshold), Arc::new(batch));
    scripted_server::drive(operation, answer)
}

/// Ids of records `from..to`, 18 characters each.
fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("003{n:012}AAA")).collect()
}

fn updates(ids: &[String]) -> WriteBatch {
    let records: Vec<_> = ids
        .iter()
        .map(|id| (id.as_str(), Value::text("x")))
        .collect();
    scripted_server::batch("Contact", WriteKind::Update, "LastName", &records)
}

fn upserts(keys: &[&str]) -> WriteBatch {
    let records: Vec<_> = keys.iter().map(|key| (*key, Value::text("x"))).collect();
    scripted_server::batch("Contact", WriteKind::Upsert, "LastName", &records)
}
