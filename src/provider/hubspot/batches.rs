//! Batches of up to 100 records: update, upsert, archive.
//!
//! An answer's results come in any order and its errors are grouped, one for many records, so each
//! is tied to its records by the trace id that we sent (the record's place in the batch), and where
//! that is missing by id. 200, 201, 204 and 207 are all looked through for errors.

use std::collections::HashMap;
use std::sync::Arc;

use crm_domain::Failure;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value as Json, json};

use super::api::object_path;
use super::{errors, values};
use crate::calls::{Call, Next};
use crate::errors::{refused, unreadable};
use crate::outcomes::Outcomes;
use crate::success::hubspot as success;
use crate::wire::{Fields, List, scalar_text};
use crate::{Method, Request, Response, WriteBatch, WriteKind, Written};

/// Inputs in one batch request.
pub(super) const LIMIT: usize = 100;

const TRACE: &str = "objectWriteTraceId";

pub(super) struct Batch {
    pub batch: Arc<WriteBatch>,
}

impl Call for Batch {
    fn request(&mut self, records: &[usize]) -> Request {
        let (verb, success) = match self.batch.kind {
            WriteKind::Update => ("update", success::BATCH_UPDATE),
            WriteKind::Upsert => ("upsert", success::BATCH_UPSERT),
            WriteKind::Delete => ("archive", success::BATCH_ARCHIVE),
        };
        let path = format!("{}/batch/{verb}", object_path(&self.batch.object));
        let item = |batch, index| Input { batch, index };
        Request::new(Method::Post, path)
            .json(&Body {
                inputs: List {
                    batch: &self.batch,
                    records,
                    item,
                },
            })
            .success(success)
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        if let Some(failure) = errors::of_response(response) {
            let culprits = match records.len() {
                1 => Vec::new(),
                _ => culprits(&self.batch, records, response),
            };
            if culprits.is_empty() {
                return Err(refused(failure));
            }
            for (index, failure) in culprits {
                outcomes.set(index, Err(failure));
            }
            return Ok(Next::Again);
        }
        let answer = match response.json() {
            Some(answer @ Json::Object(_)) => answer,
            // An archive is answered without a body.
            _ if response.body.is_empty() && self.batch.kind == WriteKind::Delete => json!({}),
            _ => return Err(unreadable(response)),
        };
        let ties = Ties::new(&self.batch, records);
        let mut unnamed = None;
        for error in answer["errors"].as_array().into_iter().flatten() {
            unnamed = ties.blame(error, outcomes).or(unnamed);
        }
        for result in answer["results"].as_array().into_iter().flatten() {
            self.credit(&ties, result, outcomes);
        }
        match unnamed {
            Some(failure) => Err(failure),
            None => {
                // Without a word of errors an archive is done: it has no results to show.
                if self.batch.kind == WriteKind::Delete
                    && answer["results"].is_null()
                    && !partial(&answer, response)
                {
                    for index in outcomes.unknown(records) {
                        outcomes.set(
                            index,
                            Ok(Written::saved(self.batch.key(index).to_owned(), false)),
                        );
                    }
                }
                Ok(Next::Done)
            }
        }
    }
}

/// The records for whose sake a batch was refused, as far as the refusal tells for certain: it
/// names the property, and what is wrong with any value of it, or the value. Whoever sets the same
/// is refused likewise.
fn culprits(batch: &WriteBatch, records: &[usize], response: &Response) -> Vec<(usize, Failure)> {
    let wrong = errors::wrong_properties(response);
    let of_record = |&index: &usize| {
        let fields = batch.records[index].fields.iter();
        let mut fields = fields.filter(|(field, _)| {
            batch.kind != WriteKind::Upsert || field.name != batch.key_field()
        });
        let failure = fields.find_map(|(field, value)| {
            let mut named = wrong.iter().filter(|wrong| wrong.name == field.name);
            named.find_map(|wrong| wrong.concerns(value).then(|| wrong.failure.clone()))
        });
        Some((index, failure?))
    };
    records.iter().filter_map(of_record).collect()
}

/// Whether an answer owns to errors, even if it does not list them.
fn partial(answer: &Json, response: &Response) -> bool {
    response.status == 207 && !answer["errors"].is_array()
        || answer["numErrors"].as_u64() > count(&answer["errors"])
}

fn count(errors: &Json) -> Option<u64> {
    Some(errors.as_array().map_or(0, |errors| errors.len() as u64))
}

impl Batch {
    fn credit(&self, ties: &Ties, result: &Json, outcomes: &mut Outcomes) {
        let Some(index) = ties.of_result(result) else {
            return;
        };
        let (crm_id, created) = match self.batch.kind {
            // A merged record answers under another id; the one we hold stays valid.
            WriteKind::Update | WriteKind::Delete => (self.batch.key(index).to_owned(), false),
            WriteKind::Upsert => match scalar_text(&result["id"]) {
                Some(id) => (id, result["new"].as_bool().unwrap_or(false)),
                None => return,
            },
        };
        let written = Written::saved(crm_id, created);
        let record = &self.batch.records[index];
        let written = written.showing(record, |name| result["properties"].get(name));
        outcomes.set(index, Ok(written));
    }
}

/// The ways in which an answer may name the records of one request.
struct Ties<'a> {
    batch: &'a WriteBatch,
    /// Sorted, as places in the batch are planned in order.
    records: &'a [usize],
    keys: HashMap<&'a str, usize>,
    /// Upserts: HubSpot lowers the case of some unique values (email).
    folded: HashMap<String, Option<usize>>,
}

impl<'a> Ties<'a> {
    fn new(batch: &'a WriteBatch, records: &'a [usize]) -> Self {
        let keys: HashMap<_, _> = records
            .iter()
            .map(|&index| (batch.key(index), index))
            .collect();
        let mut folded = HashMap::new();
        if batch.kind == WriteKind::Upsert {
            for (key, &index) in &keys {
                folded
                    .entry(key.to_lowercase())
                    .and_modify(|i| *i = None)
                    .or_insert(Some(index));
            }
        }
        Ties {
            batch,
            records,
            keys,
            folded,
        }
    }

    fn of_trace(&self, trace: &str) -> Option<usize> {
        trace
            .parse()
            .ok()
            .filter(|index| self.records.contains(index))
    }

    fn of_key(&self, key: &str) -> Option<usize> {
        self.keys
            .get(key)
            .copied()
            .or_else(|| self.folded.get(&key.to_lowercase()).copied().flatten())
    }

    fn of_result(&self, result: &Json) -> Option<usize> {
        if let Some(index) = scalar_text(&result[TRACE]).and_then(|trace| self.of_trace(&trace)) {
            return Some(index);
        }
        let key = match self.batch.kind {
            WriteKind::Upsert => &result["properties"][self.batch.key_field()],
            WriteKind::Update | WriteKind::Delete => &result["id"],
        };
        self.of_key(&scalar_text(key)?)
    }

    /// Settles the records that an error names, in its own context or in those of its inner errors.
    /// An error that names none is handed back.
    fn blame(&self, error: &Json, outcomes: &mut Outcomes) -> Option<Failure> {
        let failure = errors::of_records(error);
        let inner = error["errors"].as_array().into_iter().flatten();
        let contexts = inner.map(|e| &e["context"]).chain([&error["context"]]);
        let mut named: Vec<usize> = contexts
            .flat_map(|context| self.of_context(context))
            .collect();
        named.extend(scalar_text(&error[TRACE]).and_then(|trace| self.of_trace(&trace)));
        if named.is_empty() {
            return Some(failure);
        }
        outcomes.fail_all(named, &failure);
        None
    }

    fn of_context(&self, context: &Json) -> Vec<usize> {
        let traced: Vec<usize> = words(&context[TRACE])
            .filter_map(|trace| self.of_trace(&trace))
            .collect();
        if !traced.is_empty() {
            return traced;
        }
        ["ids", "id"]
            .iter()
            .flat_map(|key| words(&context[*key]))
            .filter_map(|id| self.of_key(&id))
            .collect()
    }
}

/// One word, or a list of them.
fn words(json: &Json) -> impl Iterator<Item = String> {
    let items = match json {
        Json::Array(items) => items,
        one => std::slice::from_ref(one),
    };
    items.iter().filter_map(scalar_text)
}

#[derive(Serialize)]
struct Body<'a> {
    inputs: List<'a, Input<'a>>,
}

struct Input<'a> {
    batch: &'a WriteBatch,
    index: usize,
}

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Input { batch, index } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", batch.key(index))?;
        if batch.kind == WriteKind::Delete {
            return map.end();
        }
        let key_field = (batch.kind == WriteKind::Upsert).then(|| batch.key_field());
        if let Some(field) = key_field {
            map.serialize_entry("idProperty", field)?;
        }
        map.serialize_entry(
            "properties",
            &Fields {
                record: &batch.records[index],
                key_field,
                form: values::form,
            },
        )?;
        map.serialize_entry(TRACE, &index.to_string())?;
        map.end()
    }
}
