//! Writing records: one by its own path, several in a batch whose parts are the same requests.
//!
//! Guarantees: an update never creates, and takes place only on the state that it is based on if it
//! is based on one; an upsert goes by an alternate key, which the CRM keeps unique, so that sending
//! it again makes no second record.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde_json::{Map, Value as Json};

use super::options::WriteHeaders;
use super::{api, batch, columns, errors};
use crate::calls::{Call, Next};
use crate::errors::{refused, unreadable};
use crate::outcomes::{Outcome, Outcomes};
use crate::request::encode;
use crate::success::{OK, dynamics365 as success};
use crate::{Method, Request, Response, Settings, WriteBatch, WriteKind, WriteRecord, Written};

/// Records in one batch. Up to 1000 are allowed; Microsoft's advice is few, and several batches at
/// once ("Service protection API limits", "Maximize throughput").
pub(super) const LIMIT: usize = 100;

pub(super) struct Records {
    batch: Arc<WriteBatch>,
    /// The record's own request, or what speaks against making one.
    requests: Vec<Option<Request>>,
    /// Those of the last request whose records are there and were spared: their ids are being
    /// asked for.
    spared: Vec<usize>,
}

impl Records {
    pub fn new(settings: &Settings, batch: Arc<WriteBatch>, outcomes: &mut Outcomes) -> Records {
        let headers = WriteHeaders::of(&settings.options);
        let mut requests = Vec::with_capacity(batch.records.len());
        for index in 0..batch.records.len() {
            requests.push(match request(&batch, index) {
                Ok(request) => Some(headers.on(request)),
                Err(failure) => {
                    outcomes.set(index, Err(failure));
                    None
                }
            });
        }
        Records {
            batch,
            requests,
            spared: Vec::new(),
        }
    }

    fn outcome(&self, index: usize, response: &Response) -> Outcome {
        if let Some(failure) = errors::of_response(response) {
            return Err(self.doubted(index, failure));
        }
        let key = self.batch.key(index);
        let named = response.header("odata-entityid").and_then(id_of_link);
        if self.batch.kind != WriteKind::Upsert {
            if named.is_some_and(|id| id != api::id_form(key)) {
                let message = "the CRM's answer has another record in place of this one";
                let class = ErrorClass::Transient;
                return Err(Failure::record(class, "mismatched_result", message));
            }
            return Ok(Written::saved(key.to_owned(), false));
        }
        let body = match response.status {
            204 => Json::Null,
            _ => response.json().ok_or_else(|| unreadable(response))?,
        };
        let shown = primary_key(&body, self.batch.key_field());
        let crm_id = named.or(shown).ok_or_else(|| {
            let message = "the CRM saved the record but did not return its id";
            Failure::record(ErrorClass::Internal, "missing_id", message)
        })?;
        Ok(Written::saved(crm_id, response.status == 201))
    }

    /// Whether a creation was refused because its record is there.
    fn is_spared(&self, response: &Response) -> bool {
        self.batch.creates_only
            && errors::of_response(response).is_some_and(|failure| failure.code == errors::THERE)
    }

    /// The request for the ids of records that are there.
    fn look(&mut self, spared: Vec<usize>) -> Request {
        let (set, field) = (&self.batch.object, self.batch.key_field());
        let one = |&index: &usize| {
            let path = api::by_key(set, field, self.batch.key(index));
            api::request(Method::Get, format!("{path}?$select={}", encode(field)))
        };
        let mut requests: Vec<Request> = spared.iter().map(one).collect();
        self.spared = spared;
        match requests.len() {
            1 => requests.remove(0),
            _ => batch::wrap(&requests),
        }
    }

    /// The record that is there. One that is gone again may be made now.
    fn there(&self, response: &Response) -> Outcome {
        match errors::of_response(response) {
            Some(failure) if failure.class == ErrorClass::NotFound => {
                return Err(Failure {
                    class: ErrorClass::Transient,
                    ..failure
                });
            }
            Some(failure) => return Err(failure),
            None => {}
        }
        let row = response.json().ok_or_else(|| unreadable(response))?;
        let crm_id = primary_key(&row, self.batch.key_field());
        let crm_id = crm_id.ok_or_else(|| unreadable(response))?;
        Ok(Written::found(crm_id))
    }

    fn take_ids(&mut self, response: &Response, outcomes: &mut Outcomes) -> Result<Next, Failure> {
        let spared = std::mem::take(&mut self.spared);
        if let [index] = spared[..] {
            outcomes.set(index, self.there(response));
            return Ok(Next::Done);
        }
        let answers = batch::answers(response)?;
        for (index, answer) in spared.into_iter().zip(answers) {
            outcomes.set(index, self.there(&answer));
        }
        Ok(Next::Done)
    }

    /// A row that is not found may be the record, or one that a lookup of it names. Only the first
    /// may be told as gone: the message has its id.
    fn doubted(&self, index: usize, failure: Failure) -> Failure {
        if failure.class != ErrorClass::NotFound || self.batch.kind == WriteKind::Upsert {
            return failure;
        }
        let ids: Vec<String> = ids_within(&failure.message).collect();
        let is_other = match ids.is_empty() {
            true => has_lookup(&self.batch.records[index]),
            false => !ids.contains(&api::id_form(self.batch.key(index))),
        };
        match is_other {
            true => refused(failure),
            false => failure,
        }
    }
}

fn has_lookup(record: &WriteRecord) -> bool {
    let mut fields = record.fields.iter();
    fields.any(|(field, _)| field.data_type == crm_domain::DataType::Reference)
}

/// The request that writes one record.
fn request(batch: &WriteBatch, index: usize) -> Result<Request, Failure> {
    let record = &batch.records[index];
    let (set, key) = (&batch.object, batch.key(index));
    let unless_changed = record.unless_changed.clone();
    if batch.kind == WriteKind::Delete {
        let request = api::request(Method::Delete, api::by_id(set, &api::id_form(key)))
            .success(success::DELETE);
        return Ok(match unless_changed {
            Some(version) => request.header("if-match", version),
            None => request,
        });
    }
    let key_field = batch.external_id_field.as_deref();
    let key_field = key_field.filter(|_| batch.kind == WriteKind::Upsert);
    let mut body = Map::new();
    for (field, value) in &record.fields {
        // The key stands in the path; in the body it could say something else.
        if key_field.is_none_or(|key| !key.eq_ignore_ascii_case(&field.name)) {
            columns::write_into(&mut body, field, value)?;
        }
    }
    let Some(key_field) = key_field else {
        let request = api::request(Method::Patch, api::by_id(set, &api::id_form(key)));
        let version = unless_changed.unwrap_or_else(|| "*".to_owned());
        let request = request.header("if-match", version).json(&body);
        return Ok(request.success(success::UPDATE));
    };
    if !api::is_addressable(key) {
        let message = "the external id contains a character that alternate keys do not allow: / < > * % & : \\ ? + #";
        return Err(Failure::record(
            ErrorClass::Validation,
            "key_not_addressable",
            message,
        ));
    }
    let path = api::by_key(set, key_field, key);
    let request = api::request(
        Method::Patch,
        format!("{path}?$select={}", encode(key_field)),
    );
    let request = match batch.creates_only {
        true => request.header("if-none-match", "*"),
        false => request,
    };
    // Otherwise the answer tells neither the id nor whether there was a record.
    Ok(request
        .header("prefer", "return=representation")
        .json(&body)
        .success(success::UPSERT))
}

/// The id at the end of a link to a record, unless it is by an alternate key.
fn id_of_link(link: &str) -> Option<String> {
    let (_, id) = link.trim_end().strip_suffix(')')?.rsplit_once('(')?;
    api::is_id(id).then(|| api::id_form(id))
}

/// The id in a row of which nothing was asked for but a key: beside that, it is all that a row
/// shows.
fn primary_key(row: &Json, key_field: &str) -> Option<String> {
    let is_own = |name: &str| !name.contains('@') && !name.starts_with('_');
    let own = row.as_object()?.iter();
    let own = own.filter(|(name, _)| is_own(name) && !name.eq_ignore_ascii_case(key_field));
    let mut ids = own.filter_map(|(_, value)| value.as_str().filter(|text| api::is_id(text)));
    ids.next().map(api::id_form)
}

fn ids_within(message: &str) -> impl Iterator<Item = String> {
    let words = message.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    words.filter(|word| api::is_id(word)).map(api::id_form)
}

impl Call for Records {
    fn request(&mut self, records: &[usize]) -> Request {
        self.spared.clear();
        let mut requests: Vec<Request> = records
            .iter()
            .filter_map(|&index| self.requests[index].clone())
            .collect();
        match requests.len() {
            1 => requests.remove(0),
            _ => batch::wrap(&requests),
        }
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Result<Next, Failure> {
        if !self.spared.is_empty() {
            return self.take_ids(response, outcomes);
        }
        if let [index] = records {
            if self.is_spared(response) {
                return Ok(Next::Send(self.look(vec![*index])));
            }
            let outcome = self.outcome(*index, response)?;
            outcomes.set(*index, Ok(outcome));
            return Ok(Next::Done);
        }
        let answers = batch::answers(response)?;
        let mut spared = Vec::new();
        for (&index, answer) in records.iter().zip(answers) {
            let request = self.requests[index].as_ref();
            let success = request.map_or(OK, |request| request.success);
            let answer = answer.answering(success);
            match self.is_spared(&answer) {
                true => spared.push(index),
                false => outcomes.set(index, self.outcome(index, &answer)),
            }
        }
        match spared.is_empty() {
            true => Ok(Next::Done),
            false => Ok(Next::Send(self.look(spared))),
        }
    }
}
