//! Reading records by id: one by its own path, up to 100 by a list.
//!
//! A record is told missing only by a list that shows others or none, never by a path that is not
//! found: that may be a path that has gone out of use.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};

use super::answers::{item, page};
use super::objects::{IDS, Object, Version};
use super::values;
use crate::body::Item;
use crate::record::in_order;
use crate::{CrmObject, Method, Operation, ReadBatch, Response, Step};

/// Ids in one read of an object.
pub(super) fn limit(object: Option<&'static Object>) -> usize {
    match object.map(|object| object.version) {
        Some(Version::V1) => 1,
        _ => IDS,
    }
}

pub(super) struct Reading {
    object: &'static Object,
    batch: Arc<ReadBatch>,
    /// Ids that are still to be asked for.
    left: VecDeque<String>,
    asked: Asked,
    found: HashMap<String, CrmObject>,
    /// Records of which cannot be read which they are.
    unidentified: usize,
}

enum Asked {
    Nothing,
    One(String),
    List(Vec<String>),
    Archived,
}

impl Reading {
    pub fn new(object: &'static Object, batch: Arc<ReadBatch>) -> Reading {
        // What is no number can be no id, and would have the whole list refused.
        let is_id =
            |id: &&String| object.version == Version::V1 || id.bytes().all(|b| b.is_ascii_digit());
        Reading {
            left: batch.ids.iter().filter(is_id).cloned().collect(),
            asked: Asked::Nothing,
            found: HashMap::new(),
            unidentified: 0,
            object,
            batch,
        }
    }

    fn next(&mut self) -> Step<Vec<Option<CrmObject>>> {
        // Lists alone are asked for fields that are not told by themselves.
        let needs_list = self.left.len() > 1 || self.wanted().contains("include_fields");
        let many = self.object.version == Version::V2 && needs_list && !self.left.is_empty();
        match many {
            true => {
                let some = self.left.len().min(IDS);
                let ids = self.left.drain(..some).collect();
                self.list(ids)
            }
            false => match self.left.pop_front() {
                Some(id) => {
                    let request = self.object.one(Method::Get, &id);
                    self.asked = Asked::One(id);
                    Step::Send(request)
                }
                None => {
                    let found = |id: &str| self.found.get(id).cloned();
                    Step::Done(Ok(in_order(&self.batch.ids, self.unidentified, found)))
                }
            },
        }
    }

    fn wanted(&self) -> String {
        let names = self.batch.fields.iter().map(|field| field.name.as_str());
        self.object.wanted(names)
    }

    fn list(&mut self, ids: Vec<String>) -> Step<Vec<Option<CrmObject>>> {
        let request = self
            .object
            .by_ids(ids.iter().map(String::as_str), &self.wanted());
        self.asked = Asked::List(ids);
        Step::Send(request)
    }

    fn take(&mut self, response: &Response) -> Result<Step<Vec<Option<CrmObject>>>, Failure> {
        match std::mem::replace(&mut self.asked, Asked::Nothing) {
            Asked::One(id) => match item(response) {
                Ok(held) => self.keep(&held),
                Err(failure) if failure.class == ErrorClass::NotFound => {
                    return Ok(self.list(vec![id]));
                }
                Err(failure) => return Err(failure),
            },
            Asked::List(ids) => {
                for held in page(response)?.records {
                    self.keep(&held);
                }
                let missing = ids.iter().filter(|id| !self.found.contains_key(*id));
                let missing: Vec<&str> = missing.map(String::as_str).collect();
                let archived = self
                    .object
                    .archived_by_ids(missing.iter().copied(), &self.wanted());
                if let Some(request) = archived.filter(|_| !missing.is_empty()) {
                    self.asked = Asked::Archived;
                    return Ok(Step::Send(request));
                }
            }
            Asked::Archived => {
                for held in page(response)?.records {
                    self.keep(&held);
                }
            }
            Asked::Nothing => {}
        }
        Ok(self.next())
    }

    fn keep(&mut self, item: &Item) {
        let held = &item.json;
        let Some(id) = values::id(held) else {
            self.unidentified += 1;
            return;
        };
        if values::is_deleted(held) {
            return;
        }
        let names = self.batch.fields.iter().map(|field| field.name.as_str());
        let object = CrmObject {
            crm_id: id.clone(),
            fields: values::fields(held, names),
            modified_at: values::modified_at(held),
            version: None,
            damage: item.damage.clone(),
        };
        self.found.insert(id, object);
    }
}

impl Operation<Vec<Option<CrmObject>>> for Reading {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Option<CrmObject>>> {
        match answer {
            None => self.next(),
            Some(response) => self
                .take(&response)
                .unwrap_or_else(|failure| Step::Done(Err(failure))),
        }
    }
}
