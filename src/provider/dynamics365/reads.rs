//! Reading records by id: one by its own path, several in a batch. Each shows the tag by which a
//! write can be bound to what was read.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};

use super::columns::{self, MODIFIED};
use super::{api, batch, errors};
use crate::body::Item;
use crate::errors::unreadable;
use crate::{CrmObject, Method, Operation, ReadBatch, Request, Response, Step, fits_header};

/// Records in one batch.
pub(super) const LIMIT: usize = 100;

pub(super) struct Reading {
    batch: Arc<ReadBatch>,
}

impl Reading {
    pub fn new(batch: Arc<ReadBatch>) -> Reading {
        Reading { batch }
    }

    fn request(&self) -> Request {
        let fields = self.batch.fields.iter();
        let names = fields.map(|field| columns::read_name(field));
        let select = columns::select([MODIFIED.into()].into_iter().chain(names));
        let one = |id: &String| {
            let path = api::by_id(&self.batch.object, &api::id_form(id));
            api::request(Method::Get, format!("{path}?$select={select}"))
        };
        let mut requests: Vec<Request> = self.batch.ids.iter().map(one).collect();
        match requests.len() {
            1 => requests.remove(0),
            _ => batch::wrap(&requests),
        }
    }

    fn take(&self, response: &Response) -> Result<Vec<Option<CrmObject>>, Failure> {
        if let [id] = &self.batch.ids[..] {
            return Ok(vec![self.row(id, response)?]);
        }
        let answers = batch::answers(response)?;
        if answers.len() != self.batch.ids.len() {
            return Err(unreadable(response));
        }
        let rows = self.batch.ids.iter().zip(&answers);
        rows.map(|(id, answer)| match self.row(id, answer) {
            Err(failure) if failure.class == ErrorClass::Internal => Ok(Some(CrmObject {
                crm_id: id.clone(),
                damage: Some(failure),
                ..CrmObject::default()
            })),
            row => row,
        })
        .collect()
    }

    fn row(&self, id: &str, response: &Response) -> Result<Option<CrmObject>, Failure> {
        match errors::of_response(response) {
            None => {}
            Some(failure) if failure.class == ErrorClass::NotFound => return Ok(None),
            Some(failure) => return Err(failure),
        }
        let Item { json: row, damage } = response.item().ok_or_else(|| unreadable(response))?;
        Ok(Some(CrmObject {
            crm_id: id.to_owned(),
            fields: columns::held(&row, &self.batch.fields),
            modified_at: columns::modified_at(&row),
            version: row["@odata.etag"]
                .as_str()
                .filter(|version| fits_header(version))
                .map(str::to_owned),
            damage,
        }))
    }
}

impl Operation<Vec<Option<CrmObject>>> for Reading {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Option<CrmObject>>> {
        match answer {
            _ if self.batch.ids.is_empty() => Step::Done(Ok(Vec::new())),
            None => Step::Send(self.request()),
            Some(response) => Step::Done(self.take(&response)),
        }
    }
}
