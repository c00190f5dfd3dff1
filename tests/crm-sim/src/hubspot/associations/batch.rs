//! Batches of associations.

use super::{Calls, Version, id_of};
use crate::http::Response;
use crate::hubspot::error::HsError;
use crate::hubspot::objects::{self, Answer};
use crate::hubspot::portal;
use serde_json::{Value as Json, json};

const MAX_WRITES: usize = 2000;
const MAX_READS: usize = 1000;

/// The objects that a batch joins.
type Pair = (usize, usize);

impl Calls<'_> {
    pub(super) fn batch(&mut self, pair: Pair, path: &[&str]) -> Answer {
        let body = objects::body(self.request)?;
        let inputs = body.get("inputs").and_then(Json::as_array);
        let inputs = inputs
            .ok_or_else(|| HsError::validation("Invalid input JSON: inputs must be a list"))?;
        let most = match path {
            ["read"] => MAX_READS,
            _ => MAX_WRITES,
        };
        if inputs.len() > most {
            return Err(HsError::validation(format!(
                "The number of inputs {} exceeds the limit of {most} per request",
                inputs.len()
            )));
        }
        match path {
            ["create"] => self.create(pair, inputs),
            ["associate", "default"] => self.create_plain(pair, inputs),
            ["read"] => Ok(self.read(pair, inputs)),
            ["archive"] => Ok(self.archive(pair, inputs)),
            ["labels", "archive"] => self.archive_labels(pair, inputs),
            _ => Err(HsError::no_resource()),
        }
    }

    fn create(&mut self, (from, to): Pair, inputs: &[Json]) -> Answer {
        // Types are checked before anything is written.
        let mut kinds = Vec::with_capacity(inputs.len());
        for input in inputs {
            kinds.push(match self.version {
                Version::V3 => {
                    let name = input["type"].as_str().unwrap_or_default();
                    vec![self.named(from, to, name)?]
                }
                _ => self.kinds(from, to, &input["types"])?,
            });
        }
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for (input, kinds) in inputs.iter().zip(kinds) {
            match self.ends((from, to), input) {
                Ok((from, to)) => {
                    self.links.put(from, to, &kinds);
                    results.push(match self.version {
                        Version::V3 => json!({
                            "from": {"id": self.id(from)},
                            "to": {"id": self.id(to)},
                            "type": input["type"],
                        }),
                        _ => self.labelled(from, to, &kinds),
                    });
                }
                Err(error) => errors.push(error),
            }
        }
        Ok(self.finish(201, results, errors))
    }

    fn create_plain(&mut self, (from, to): Pair, inputs: &[Json]) -> Answer {
        let plain = self.links.kinds.plain(from, to);
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for input in inputs {
            match self.ends((from, to), input) {
                Ok((from, to)) => {
                    self.links.put(from, to, std::slice::from_ref(&plain));
                    results.push(self.spec(from, to, &plain));
                }
                Err(error) => errors.push(error),
            }
        }
        Ok(self.finish(200, results, errors))
    }

    fn read(&mut self, (from, to): Pair, inputs: &[Json]) -> Response {
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for input in inputs {
            let id = id_of(input);
            let slot = portal::live_slot(&self.store.objects[from], &id);
            let found = slot.map(|slot| self.links.of(self.store, (from, slot), to));
            let found = found.unwrap_or_default();
            // Whether the record or only the association is missing, nobody is told.
            if found.is_empty() {
                errors.push(self.unassociated((from, to), &id));
                continue;
            }
            let others = found.iter();
            let others = others.map(|(slot, types)| self.found(from, (to, *slot), types));
            let others: Vec<_> = others.collect();
            results.push(json!({"from": {"id": id}, "to": others}));
        }
        self.finish(200, results, errors)
    }

    fn archive(&mut self, (from, to): Pair, inputs: &[Json]) -> Response {
        for input in inputs {
            let several = input["to"].as_array().map_or_else(
                || vec![id_of(&input["to"])],
                |list| list.iter().map(id_of).collect(),
            );
            for id in several {
                let ends = (self.end(from, &id_of(&input["from"])), self.end(to, &id));
                if let (Ok(from), Ok(to)) = ends {
                    self.links.remove(from, to);
                }
            }
        }
        self.gone()
    }

    fn archive_labels(&mut self, (from, to): Pair, inputs: &[Json]) -> Answer {
        for input in inputs {
            let kinds = self.kinds(from, to, &input["types"])?;
            if let Ok((from, to)) = self.ends((from, to), input) {
                self.links.remove_kinds(from, to, &kinds);
            }
        }
        Ok(self.gone())
    }

    fn gone(&self) -> Response {
        match self.version {
            Version::Dated => Response::json(200, &self.complete(Vec::new())),
            _ => Response::empty(204),
        }
    }

    fn ends(&self, (from, to): Pair, input: &Json) -> Result<(super::End, super::End), Json> {
        let end = |at: usize, side: &str, code: &str| {
            let id = id_of(&input[side]);
            self.end(at, &id).map_err(|_| {
                let message = format!("Object {} {id} does not exist", self.code(at));
                self.failure(
                    code,
                    message,
                    json!({"id": [id], "objectTypeId": [self.code(at)]}),
                )
            })
        };
        Ok((
            end(from, "from", "FROM_OBJECT_NOT_FOUND")?,
            end(to, "to", "TO_OBJECT_NOT_FOUND")?,
        ))
    }

    fn unassociated(&self, (from, to): Pair, id: &str) -> Json {
        let word = |at: usize| self.store.objects[at].def.label().to_ascii_lowercase();
        let (from, to) = (word(from), word(to));
        let message = format!("No {to} is associated with {from} {id}.");
        let context = json!({
            "fromObjectId": [id],
            "fromObjectType": [from],
            "toObjectType": [to],
        });
        self.failure("NO_ASSOCIATIONS_FOUND", message, context)
    }

    fn failure(&self, code: &str, message: String, context: Json) -> Json {
        json!({
            "status": "error",
            "category": "OBJECT_NOT_FOUND",
            "subCategory": format!("crm.associations.{code}"),
            "message": message,
            "context": context,
            "errors": [],
            "links": {},
        })
    }

    fn finish(&self, status: u16, results: Vec<Json>, errors: Vec<Json>) -> Response {
        let mut body = self.complete(results);
        let failed = !errors.is_empty();
        if failed {
            body["numErrors"] = errors.len().into();
            body["errors"] = errors.into();
        }
        let status = match (self.version, failed) {
            (Version::Dated, _) => 200,
            (_, true) => 207,
            (_, false) => status,
        };
        Response::json(status, &body)
    }
}
