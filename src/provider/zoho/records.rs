//! Writing records: up to 100 in one request, each with an outcome of its own, answered in the
//! order of the request.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::api::module_path;
use super::{errors, values};
use crate::calls::{Call, Next};
use crate::errors::{refused, undocumented, unreadable};
use crate::outcomes::Outcomes;
use crate::request::encode;
use crate::success::zoho as success;
use crate::{Method, Request, Response, Settings, WriteBatch, WriteKind, Written, wire};

/// Records in one request ("API Limits").
pub(super) const LIMIT: usize = 100;

/// The option that says which automation writes start: a list of `workflow`, `approval`,
/// `blueprint`. Without it all that there is, as when a person writes.
pub(super) const TRIGGER_OPTION: &str = "trigger";

pub(super) fn is_trigger(told: &Json) -> bool {
    let is_known = |word: &Json| {
        ["workflow", "approval", "blueprint"]
            .iter()
            .any(|known| word == known)
    };
    told.as_array()
        .is_some_and(|words| words.iter().all(is_known))
}

/// A write of one record may be bound to the state that was read ("Update Records", request
/// headers).
const UNLESS_CHANGED: &str = "if-unmodified-since";

#[derive(Clone)]
pub(super) struct Records {
    batch: Arc<WriteBatch>,
    trigger: Option<Json>,
}

#[derive(Serialize)]
struct Body {
    data: Vec<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate_check_fields: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger: Option<Json>,
}

impl Records {
    pub fn new(settings: &Settings, batch: Arc<WriteBatch>) -> Records {
        Records {
            trigger: settings.options.get(TRIGGER_OPTION).cloned(),
            batch,
        }
    }

    fn item(&self, index: usize) -> Json {
        let batch = &*self.batch;
        let key_field = match batch.kind {
            WriteKind::Upsert => batch.key_field(),
            WriteKind::Update | WriteKind::Delete => "id",
        };
        let mut item = Map::new();
        for (field, value) in &batch.records[index].fields {
            item.insert(field.name.clone(), values::form(field.data_type, value));
        }
        item.insert(key_field.to_owned(), batch.key(index).into());
        item.into()
    }

    fn settled(&self, index: usize, item: &Json, outcomes: &mut Outcomes) {
        if item["status"] != "success" {
            outcomes.set(index, Err(errors::of_record(item)));
            return;
        }
        let key = self.batch.key(index);
        let is_upsert = self.batch.kind == WriteKind::Upsert;
        let outcome = match wire::scalar_text(&item["details"]["id"]) {
            None => Err(Failure::record(
                ErrorClass::Internal,
                "missing_id",
                "the CRM saved the record but did not return its id",
            )),
            Some(id) if !is_upsert && id != key => {
                let message = "the CRM's answer has another record in place of this one";
                Err(Failure::record(
                    ErrorClass::Transient,
                    "mismatched_result",
                    message,
                ))
            }
            Some(crm_id) => Ok(Written::saved(
                crm_id,
                is_upsert && item["action"] == "insert",
            )),
        };
        outcomes.set(index, outcome);
    }
}

impl Call for Records {
    fn request(&mut self, records: &[usize]) -> Request {
        let path = module_path(&self.batch.object);
        if self.batch.kind == WriteKind::Delete {
            let ids = records
                .iter()
                .map(|&i| encode(self.batch.key(i)).to_string());
            let ids: Vec<String> = ids.collect();
            // Deleting knows no list, all automation or none.
            let none = self
                .trigger
                .as_ref()
                .is_some_and(|trigger| *trigger == json!([]));
            let trigger = if none { "&wf_trigger=false" } else { "" };
            let path = format!("{path}?ids={}{trigger}", ids.join(","));
            return Request::new(Method::Delete, path).success(success::WRITE);
        }
        let is_upsert = self.batch.kind == WriteKind::Upsert;
        let body = Body {
            data: records.iter().map(|&index| self.item(index)).collect(),
            duplicate_check_fields: is_upsert.then(|| vec![self.batch.key_field().to_owned()]),
            trigger: self.trigger.clone(),
        };
        if is_upsert {
            return Request::new(Method::Post, format!("{path}/upsert"))
                .json(&body)
                .success(success::WRITE);
        }
        let request = Request::new(Method::Put, path)
            .json(&body)
            .success(success::WRITE);
        match (records, &self.batch.records[records[0]].unless_changed) {
            ([_], Some(moment)) => request.header(UNLESS_CHANGED, moment),
            _ => request,
        }
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        if response.status == 412 {
            let message = "the record was changed meanwhile";
            return Err(Failure::stale(message));
        }
        errors::check(response).map_err(refused)?;
        let answer = response.json().unwrap_or_default();
        let items = answer["data"]
            .as_array()
            .ok_or_else(|| unreadable(response))?;
        for (&index, item) in records.iter().zip(items) {
            match (&item["status"] == "success", undocumented(response)) {
                // A record is not written where the whole says that none is.
                (true, Some(failure)) => outcomes.set(index, Err(failure)),
                (true, None) if !response.is_success() => {
                    outcomes.set(index, Err(unreadable(response)));
                }
                _ => self.settled(index, item, outcomes),
            }
        }
        Ok(Next::Done)
    }
}
