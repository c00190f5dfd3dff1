//! Reading records by id: one by its row, several by a collection. What both tell of a record's
//! state becomes the version that a conditional write takes.
//!
//! Salesforce compares dates of whole seconds. So a date protects only if the record was read in a
//! later second than that of its last change: whatever comes after the read then has a later date.
//! When the record was read is known from the CRM's `Date` headers alone, never from our clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crm_domain::Failure;
use serde_json::{Map, Value as Json, json};

use super::api::{Api, id_form, is_path_safe};
use super::errors;
use super::version::{Tag, Version};
use crate::body::Item;
use crate::errors::{refused, unreadable};
use crate::record::in_order;
use crate::request::encode;
use crate::{CrmObject, Method, Operation, ReadBatch, Request, Response, Step, fits_header, wire};

/// Ids in one retrieve by POST (REST API Developer Guide, "sObject Collections").
pub(super) const LIMIT: usize = 2000;
/// Longest list of fields that travels in a row's URL, which ends at 16,384 bytes.
const ROW_FIELDS: usize = 8000;

/// Salesforce's own field for when a person or a program last changed a record. `SystemModstamp`
/// would move with the system's own recalculations too.
const MODIFIED: &str = "LastModifiedDate";

const SECOND: i64 = 1000;
/// How much earlier than its answer's date a record may have been read. Whoever was changed within
/// that time before the answer is read again, to be sure.
const SLOWEST_ANSWER: i64 = 5 * SECOND;
/// Further than this into the future a date is no matter of waiting: somebody's clock is wrong.
const LONGEST_WAIT: i64 = 5 * SECOND;
/// How often a record is read again before it counts as one that keeps changing.
const READS_AGAIN: u8 = 3;

/// Reads one record by its own row. `fields` are separated by commas.
pub(super) fn row(api: &Api, object: &str, id: &str, fields: &str) -> Request {
    let fields: Vec<String> = fields.split(',').map(|f| encode(f).to_string()).collect();
    let (object, id, fields) = (encode(object), encode(id), fields.join(","));
    let path = format_args!("/sobjects/{object}/{id}?fields={fields}");
    api.request(Method::Get, path)
}

/// Reads records by a collection, which tells a missing record from an unknown object.
pub(super) fn collection(api: &Api, object: &str, ids: &[String], fields: &str) -> Request {
    let path = format_args!("/composite/sobjects/{}", encode(object));
    let fields: Vec<&str> = fields.split(',').collect();
    api.request(Method::Post, path)
        .json(&json!({ "ids": ids, "fields": fields }))
        .repeatable()
}

pub(super) struct Reading {
    api: Api,
    batch: Arc<ReadBatch>,
    fields: String,
    /// What the request under way asks for.
    asked: Vec<String>,
    by_row: bool,
    /// No answer to the request under way can have been read before this moment: it is later than
    /// the answer to the request before.
    not_before: Option<i64>,
    again: u8,
    /// By the form in which ids compare.
    found: HashMap<String, CrmObject>,
    /// Records of which cannot be read which they are.
    unidentified: usize,
}

/// A record whose version does not protect yet.
struct Young {
    id: String,
    /// The second of its last change.
    modified: i64,
}

impl Reading {
    pub fn new(api: Api, batch: Arc<ReadBatch>) -> Reading {
        let mut fields: Vec<&str> = vec!["Id", MODIFIED];
        for field in &batch.fields {
            if !fields.iter().any(|f| f.eq_ignore_ascii_case(&field.name)) {
                fields.push(&field.name);
            }
        }
        let mut reading = Reading {
            api,
            fields: fields.join(","),
            asked: Vec::new(),
            by_row: false,
            not_before: None,
            again: if batch.for_write { READS_AGAIN } else { 0 },
            found: HashMap::with_capacity(batch.ids.len()),
            unidentified: 0,
            batch,
        };
        reading.ask(reading.batch.ids.clone());
        reading
    }

    fn ask(&mut self, ids: Vec<String>) {
        let fits = self.fields.len() <= ROW_FIELDS;
        self.by_row = fits && matches!(&ids[..], [id] if !id.is_empty() && is_path_safe(id));
        self.asked = ids;
    }

    fn request(&self) -> Request {
        let object = &self.batch.object;
        match &self.asked[..] {
            [id] if self.by_row => row(&self.api, object, id, &self.fields),
            ids => collection(&self.api, object, ids, &self.fields),
        }
    }

    /// Takes in an answer. Returns those whose versions do not protect.
    fn take(&mut self, response: &Response) -> Result<Vec<Young>, Failure> {
        // A missing record is a null in the answer; a retrieve that is not found at all names an
        // object that does not exist.
        errors::check(response).map_err(refused)?;
        let items = match self.by_row {
            true => response.item().map(|item| vec![item]),
            false => response.array(),
        };
        let items = items.ok_or_else(|| unreadable(response))?;
        for id in &self.asked {
            self.found.remove(id_form(id));
        }
        let mut young = Vec::new();
        for item in items.into_iter().filter(|item| !item.is_nothing()) {
            young.extend(self.keep(item, response)?);
        }
        Ok(young)
    }

    fn keep(&mut self, item: Item, response: &Response) -> Result<Option<Young>, Failure> {
        let Item { json, damage } = item;
        let mut record = match json {
            Json::Object(record) => record,
            _ => Map::new(),
        };
        let id = take(&mut record, "Id").and_then(|id| wire::id(&id));
        if id.is_none() && !self.by_row {
            self.unidentified += 1;
            return Ok(None);
        }
        // A row that is another one says nothing of the row that was asked for, least of all that
        // it is gone.
        let is_asked = |id: &String| {
            let mut asked = self.asked.iter();
            !self.by_row || asked.any(|asked| id_form(asked) == id_form(id))
        };
        let crm_id = id.filter(is_asked).ok_or_else(|| unreadable(response))?;
        let modified_at = record.get(MODIFIED).and_then(wire::moment);
        let header = |name| response.header(name).filter(|_| self.by_row);
        // The header is what the condition is compared with, whatever it is made from.
        let stamp = match header("last-modified").zip(response.moment("last-modified")) {
            Some((text, moment)) => Some((text.to_owned(), moment)),
            None => {
                modified_at.and_then(|at| Some((http_date(at)?, at.div_euclid(SECOND) * SECOND)))
            }
        };
        // Records are told by their ids and not by their places, since it is not promised whether a
        // missing one leaves a null or nothing.
        let read_at = self
            .not_before
            .or_else(|| Some(response.date()? - SLOWEST_ANSWER));
        let modified = stamp.as_ref().map(|(_, moment)| *moment);
        let protects = modified.zip(read_at).is_some_and(|(m, read)| m < read);
        let version = Version {
            date: stamp.map(|(text, _)| text).filter(|_| protects),
            tag: header("etag")
                .filter(|etag| fits_header(etag))
                .map(|etag| Tag {
                    etag: etag.to_owned(),
                    fields: self.fields.clone(),
                }),
        }
        .to_text();
        let young = modified
            .filter(|_| version.is_none())
            .map(|modified| Young {
                id: crm_id.clone(),
                modified,
            });
        let asked = self.batch.fields.iter();
        let asked = asked.filter_map(|f| Some((f.name.clone(), take(&mut record, &f.name)?)));
        let object = CrmObject {
            fields: asked.collect(),
            modified_at,
            version,
            damage,
            crm_id,
        };
        self.found
            .insert(id_form(&object.crm_id).to_owned(), object);
        Ok(young)
    }

    /// Reads again, in a later second, those whose versions do not protect.
    fn later(&mut self, young: Vec<Young>, date: Option<i64>) -> Option<Duration> {
        // Without a date, a change that we saw has happened before we saw it.
        let now = date.or_else(|| young.iter().map(|y| y.modified).max())?;
        let wait = |y: &Young| (y.modified + SECOND - now).max(0);
        let soon: Vec<Young> = young
            .into_iter()
            .filter(|y| wait(y) <= LONGEST_WAIT)
            .collect();
        let longest = soon.iter().map(wait).max()?;
        self.again = self.again.checked_sub(1)?;
        self.not_before = Some(now + longest);
        self.ask(soon.into_iter().map(|y| y.id).collect());
        Some(Duration::from_millis(longest.unsigned_abs()))
    }
}

impl Operation<Vec<Option<CrmObject>>> for Reading {
    fn step(&mut self, answer: Option<Response>) -> Step<Vec<Option<CrmObject>>> {
        let Some(response) = answer else {
            return Step::Send(self.request());
        };
        // A path that is not found may name a record that is gone or an object that never was. A
        // collection knows the two apart.
        if self.by_row && response.status == 404 {
            self.by_row = false;
            return Step::Send(self.request());
        }
        let young = match self.take(&response) {
            Ok(young) => young,
            Err(failure) => return Step::Done(Err(failure)),
        };
        match self.later(young, response.date()) {
            Some(Duration::ZERO) => Step::Send(self.request()),
            Some(wait) => Step::Wait(wait),
            None => {
                let found = |id: &str| self.found.get(id_form(id)).cloned();
                Step::Done(Ok(in_order(&self.batch.ids, self.unidentified, found)))
            }
        }
    }
}

fn http_date(ms: i64) -> Option<String> {
    let since = Duration::from_millis(u64::try_from(ms).ok()?);
    Some(httpdate::fmt_http_date(UNIX_EPOCH.checked_add(since)?))
}

/// A field of a record. Salesforce answers in its own spelling of a field's name, whatever the case
/// it was asked in.
pub(super) fn held<'a>(record: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    let spelt = || {
        record
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    record.get(name).or_else(|| Some(spelt()?.1))
}

/// [`held`], taken out of the record.
fn take(record: &mut Map<String, Json>, name: &str) -> Option<Json> {
    record.remove(name).or_else(|| {
        let spelt = record
            .keys()
            .find(|key| key.eq_ignore_ascii_case(name))?
            .clone();
        record.remove(&spelt)
    })
}
