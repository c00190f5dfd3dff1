//! `/crm/v3/objects/{type}/batch/...`: up to 100 records per request.
//!
//! Guarantees: an invalid input fails the whole batch and nothing is written; records that are not
//! there fail alone, grouped, with 207. Results come in no useful order; trace ids tell whose is
//! whose.

use super::associations::{self, Links, Wanted};
use super::error::HsError;
use super::objects::{self, Answer};
use super::portal::{self, View};
use super::save::{self, Target, Writer};
use crate::clock;
use crate::http::{Request, Response};
use crate::store::{Change, Life, Object, Record, Store};
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;

const MAX_INPUTS: usize = 100;
/// Inputs of a read that asks for histories.
const MAX_WITH_HISTORY: usize = 50;

type Input = Map<String, Json>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Update,
    Upsert,
}

struct Order<'a> {
    input: &'a Input,
    target: Target,
    change: Change,
    wanted: Vec<Wanted>,
}

/// An input that failed while others went on.
struct Failure {
    id: String,
    trace: Option<Json>,
    error: HsError,
}

pub struct Batch<'a> {
    pub request: &'a Request,
    pub writer: Writer<'a>,
    /// The newest API versions answer 200 where older ones answer 207.
    pub multi_status: bool,
}

impl Batch<'_> {
    pub fn answer(&self, store: &mut Store, at: usize, links: &mut Links, verb: &str) -> Answer {
        let mut body = objects::body(self.request)?;
        let inputs = inputs(&mut body)?;
        match verb {
            "create" => self.write(store, at, links, &inputs, Verb::Create),
            "update" => self.write(store, at, links, &inputs, Verb::Update),
            "upsert" => self.write(store, at, links, &inputs, Verb::Upsert),
            "read" => self.read(&store.objects[at], &body, &inputs),
            "archive" => self.archive(&mut store.objects[at], &inputs),
            _ => Err(HsError::no_resource()),
        }
    }

    fn write(
        &self,
        store: &mut Store,
        at: usize,
        links: &mut Links,
        inputs: &[Input],
        verb: Verb,
    ) -> Answer {
        let mut orders = Vec::with_capacity(inputs.len());
        let mut failures = Vec::new();
        let mut seen = HashSet::new();
        one_key(inputs)?;
        for input in inputs {
            let id = text(input, "id");
            if verb != Verb::Create && !seen.insert(id) {
                let message =
                    format!("Duplicate IDs found in batch input: [{id}]. IDs must be unique");
                return Err(HsError::validation(message));
            }
            let wanted = match verb {
                Verb::Create => associations::wanted(store, links, at, input)?,
                _ => Vec::new(),
            };
            let object = &store.objects[at];
            match read_input(object, input, verb, wanted) {
                Ok(order) => {
                    match save::strike(object, order.target, &order.change, &self.writer) {
                        Ok(()) => orders.push(order),
                        Err(error) if spoils_batch(&error) => return Err(error),
                        Err(error) => failures.push(failure(input, error)),
                    }
                }
                Err(error) if spoils_batch(&error) => return Err(error),
                Err(error) => failures.push(failure(input, error)),
            }
        }
        let object = &mut store.objects[at];
        let mut undo: Vec<(u32, Option<Record>)> = Vec::new();
        let mut results = Vec::with_capacity(orders.len());
        for order in orders {
            let before = match order.target {
                Target::Slot(slot) => object.record(slot).cloned(),
                Target::New => None,
            };
            match save::save(object, order.target, order.change, &self.writer) {
                Ok(slot) => {
                    undo.push((slot, before));
                    associations::connect(links, (at, slot), &order.wanted);
                    let mut shown = objects::written(object, slot, order.input);
                    if verb == Verb::Upsert {
                        shown["new"] = (order.target == Target::New).into();
                    }
                    results.push(shown);
                }
                // A value that is taken is only found on writing; the batch fails as a whole still.
                Err(error) => {
                    for (slot, before) in undo.into_iter().rev() {
                        object.restore(slot, before);
                    }
                    return Err(error);
                }
            }
        }
        let status = if verb == Verb::Create { 201 } else { 200 };
        Ok(self.finish(status, results, failures))
    }

    fn read(&self, object: &Object, body: &Input, inputs: &[Input]) -> Answer {
        let list = |key: &str| -> Vec<String> {
            let list = body.get(key).and_then(Json::as_array).into_iter().flatten();
            list.filter_map(Json::as_str).map(str::to_owned).collect()
        };
        let view = View {
            properties: list("properties"),
            history: list("propertiesWithHistory"),
        };
        if !view.history.is_empty() && inputs.len() > MAX_WITH_HISTORY {
            let message = format!(
                "The number of inputs {} exceeds the limit of {MAX_WITH_HISTORY} per request with \
                 propertiesWithHistory",
                inputs.len()
            );
            return Err(HsError::validation(message));
        }
        let key = body.get("idProperty").and_then(Json::as_str);
        let archived = self.request.param("archived").as_deref() == Some("true");
        let (mut results, mut failures) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for input in inputs {
            let id = text(input, "id");
            let slot = match archived {
                true => portal::slot(object, id).filter(|slot| object.live(*slot).is_none()),
                false => save::find(object, id, key)?,
            };
            match slot {
                Some(slot) if seen.insert(slot) => results.push(portal::show(object, slot, &view)),
                Some(_) => {}
                None => failures.push(failure(input, HsError::not_found(id))),
            }
        }
        Ok(self.finish(200, results, failures))
    }

    fn archive(&self, object: &mut Object, inputs: &[Input]) -> Answer {
        for input in inputs {
            if let Some(slot) = portal::live_slot(object, text(input, "id")) {
                let _ = object.set_life(slot, Life::Deleted, self.writer.stamp);
            }
        }
        Ok(Response::empty(204))
    }

    fn finish(&self, status: u16, mut results: Vec<Json>, failures: Vec<Failure>) -> Response {
        let first = results.first().map(|result| result["id"].clone());
        fastrand::shuffle(&mut results);
        if results.len() > 1 && results.first().map(|result| result["id"].clone()) == first {
            results.reverse();
        }
        let now = clock::iso(self.writer.stamp.at);
        let mut body = json!({
            "status": "COMPLETE",
            "results": results,
            "requestedAt": now,
            "startedAt": now,
            "completedAt": now,
        });
        if failures.is_empty() {
            return Response::json(status, &body);
        }
        let errors = grouped(failures);
        body["numErrors"] = errors.len().into();
        body["errors"] = errors.into();
        let status = if self.multi_status { 207 } else { status };
        Response::json(status, &body)
    }
}

/// Takes the inputs out of the body.
fn inputs(body: &mut Input) -> Result<Vec<Input>, HsError> {
    let Some(Json::Array(list)) = body.remove("inputs") else {
        return Err(HsError::validation(
            "Invalid input JSON: inputs must be a list",
        ));
    };
    if list.len() > MAX_INPUTS {
        let message = format!(
            "The number of inputs {} exceeds the limit of {MAX_INPUTS} per request",
            list.len()
        );
        return Err(HsError::validation(message));
    }
    let input = |input: Json| match input {
        Json::Object(map) => Ok(map),
        _ => Err(HsError::validation(
            "Invalid input JSON: an input must be an object",
        )),
    };
    list.into_iter().map(input).collect()
}

fn read_input<'a>(
    object: &Object,
    input: &'a Input,
    verb: Verb,
    wanted: Vec<Wanted>,
) -> Result<Order<'a>, HsError> {
    let properties = objects::properties(input)?;
    let id = text(input, "id");
    let key = input.get("idProperty").and_then(Json::as_str);
    let held = match verb {
        Verb::Create => None,
        // A property that identifies nothing is told below.
        _ => save::find(object, id, key).unwrap_or_default(),
    };
    let mut change = save::change_of(object, properties, held)?;
    if verb != Verb::Create && id.is_empty() {
        return Err(HsError::validation(
            "Invalid input JSON: an input needs an id",
        ));
    }
    let target = match verb {
        Verb::Create => Target::New,
        _ => match (save::find(object, id, key)?, verb, key) {
            (Some(slot), _, _) => Target::Slot(slot),
            (None, Verb::Upsert, Some(key)) if key != "hs_object_id" => {
                // The new record must be found under the id it was asked for by.
                let named = Map::from_iter([(key.to_owned(), Json::from(id))]);
                let named = save::change_of(object, &named, None)?;
                let sent = change
                    .iter()
                    .any(|(at, _)| named.iter().any(|(key, _)| key == at));
                if !sent {
                    change.extend(named);
                }
                Target::New
            }
            (None, _, _) => return Err(HsError::not_found(id)),
        },
    };
    Ok(Order {
        input,
        target,
        change,
        wanted,
    })
}

/// All inputs of a call identify records by the same property.
fn one_key(inputs: &[Input]) -> Result<(), HsError> {
    let keys: HashSet<_> = inputs
        .iter()
        .map(|input| text(input, "idProperty"))
        .collect();
    match keys.len() {
        0 | 1 => Ok(()),
        _ => Err(HsError::validation(
            "All inputs must use the same idProperty",
        )),
    }
}

/// What HubSpot checks before it writes anything fails the batch; the rest fails alone.
fn spoils_batch(error: &HsError) -> bool {
    error.status == 400
}

fn failure(input: &Input, error: HsError) -> Failure {
    Failure {
        id: text(input, "id").to_owned(),
        trace: input.get("objectWriteTraceId").cloned(),
        error,
    }
}

/// One entry per kind of error, with all the ids it met.
fn grouped(failures: Vec<Failure>) -> Vec<Json> {
    let mut groups: Vec<Json> = Vec::new();
    for Failure { id, trace, error } in failures {
        let category = Json::from(error.category.clone());
        let at = groups
            .iter()
            .position(|group| group["category"] == category);
        let at = at.unwrap_or_else(|| {
            let message = match error.category.as_str() {
                "OBJECT_NOT_FOUND" => {
                    "Could not get some objects, they may be deleted or not exist. \
                                       Check that ids are valid."
                        .to_owned()
                }
                _ => error.message.clone(),
            };
            groups.push(json!({
                "status": "error",
                "category": error.category,
                "message": message,
                "context": {"ids": []},
                "subCategory": {},
                "errors": [],
                "links": {},
            }));
            groups.len() - 1
        });
        let context = &mut groups[at]["context"];
        if let (false, Some(ids)) = (id.is_empty(), context["ids"].as_array_mut()) {
            ids.push(id.into());
        }
        if let Some(trace) = trace {
            if context["objectWriteTraceId"].is_null() {
                context["objectWriteTraceId"] = json!([]);
            }
            if let Some(traces) = context["objectWriteTraceId"].as_array_mut() {
                traces.push(trace);
            }
        }
    }
    groups
}

fn text<'a>(input: &'a Input, key: &str) -> &'a str {
    input.get(key).and_then(Json::as_str).unwrap_or_default()
}
