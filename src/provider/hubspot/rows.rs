//! One record by one request: update and archive by id.

use std::sync::Arc;

use crm_domain::Failure;

use super::api::object_path;
use super::{errors, values};
use crate::calls::{Call, Next};
use crate::errors::unreadable;
use crate::outcomes::Outcomes;
use crate::request::encode;
use crate::success::hubspot as success;
use crate::wire::{self, Fields};
use crate::{Method, Request, Response, WriteBatch, WriteKind, Written};
use serde::Serialize;

pub(super) struct Row {
    pub batch: Arc<WriteBatch>,
}

#[derive(Serialize)]
struct Properties<'a> {
    properties: Fields<'a>,
}

impl Call for Row {
    fn request(&mut self, records: &[usize]) -> Request {
        let batch = &*self.batch;
        let path = format!(
            "{}/{}",
            object_path(&batch.object),
            encode(batch.key(records[0]))
        );
        if batch.kind == WriteKind::Delete {
            return Request::new(Method::Delete, path).success(success::ARCHIVE);
        }
        let properties = Fields {
            record: &batch.records[records[0]],
            key_field: None,
            form: values::form,
        };
        Request::new(Method::Patch, path)
            .json(&Properties { properties })
            .success(success::UPDATE)
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        errors::check(response)?;
        // The object comes back, unless it was archived; a page of some proxy is none.
        let crm_id = self.batch.key(records[0]).to_owned();
        let mut written = Written::saved(crm_id, false);
        if self.batch.kind != WriteKind::Delete {
            let object = response.json();
            let object = object.filter(|json| wire::id(&json["id"]).is_some());
            let object = object.ok_or_else(|| unreadable(response))?;
            let record = &self.batch.records[records[0]];
            written = written.showing(record, |name| object["properties"].get(name));
        }
        outcomes.set(records[0], Ok(written));
        Ok(Next::Done)
    }
}
