//! Reading records by id: 100 ids and 50 fields in one request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crm_domain::Failure;
use serde_json::{Map, Value as Json};

use super::api::module_path;
use super::{errors, values};
use crate::body::{Item, Listed};
use crate::errors::{refused, unreadable};
use crate::record::in_order;
use crate::request::encode;
use crate::success::zoho as success;
use crate::{CrmObject, Method, Operation, ReadBatch, Request, Response, Step, wire};

/// Ids in one request ("Get Records", parameter `ids`).
pub(super) const LIMIT: usize = 100;

/// Fields in one request ("Get Records", parameter `fields`), less those that are always asked for.
pub(super) const FIELDS: usize = 48;

pub(super) const MODIFIED: &str = "Modified_Time";

pub(super) struct Reading {
    batch: Arc<ReadBatch>,
    /// Names that are still to be asked for, in parts.
    parts: Vec<Vec<String>>,
    found: HashMap<String, CrmObject>,
    /// Records of which cannot be read which they are.
    unidentified: usize,
}

impl Reading {
    pub fn new(batch: Arc<ReadBatch>) -> Reading {
        let names: BTreeSet<&String> = batch.fields.iter().map(|field| &field.name).collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let mut parts: Vec<Vec<String>> = names.chunks(FIELDS).map(<[String]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        Reading {
            parts,
            found: HashMap::new(),
            unidentified: 0,
            batch,
        }
    }

    fn next(&self) -> Step<Vec<Option<CrmObject>>> {
        let Some(names) = self.parts.last() else {
            let found = |id: &str| self.found.get(id).cloned();
            return Step::Done(Ok(in_order(&self.batch.ids, self.unidentified, found)));
        };
        let ids: BTreeSet<&String> = self.batch.ids.iter().collect();
        let ids: Vec<String> = ids.into_iter().map(|id| encode(id).to_string()).collect();
        let names: Vec<String> = [MODIFIED]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .map(|name| encode(name).to_string())
            .collect();
        let path = module_path(&self.batch.object);
        let path = format!(
            "{path}?ids={}&fields={}&per_page=200",
            ids.join(","),
            names.join(",")
        );
        Step::Send(Request::new(Method::Get, path).success(success::LIST))
    }

    fn take(&mut self, response: &Response) -> Result<(), Failure> {
        let names = self.parts.pop().unwrap_or_default();
        for Item {
            json: record,
            damage,
        } in records(response)?.items
        {
            let Some(id) = wire::id(&record["id"]) else {
                self.unidentified += 1;
                continue;
            };
            let object = self.found.entry(id.clone()).or_insert_with(|| CrmObject {
                crm_id: id,
                ..CrmObject::default()
            });
            let held = names
                .iter()
                .filter_map(|name| Some((name.clone(), record.get(name)?.clone())));
            object.fields.extend::<Map<String, Json>>(held.collect());
            object.modified_at = wire::moment(&record[MODIFIED]);
            object.version = object.modified_at.map(values::second);
            object.damage = object.damage.take().or(damage);
        }
        Ok(())
    }
}

/// The records of a list; nothing at all is none.
pub(super) fn records(response: &Response) -> Result<Listed, Failure> {
    errors::check(response).map_err(refused)?;
    match response.status {
        204 => Ok(Listed::default()),
        _ => response.list("data").ok_or_else(|| unreadable(response)),
    }
}

impl Operation<Vec<Option<CrmObject>>> for Reading {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Option<CrmObject>>> {
        match answer.map_or(Ok(()), |response| self.take(&response)) {
            Ok(()) => self.next(),
            Err(failure) => Step::Done(Err(failure)),
        }
    }
}
