//! Writing records one by one, since Pipedrive takes no more at once.
//!
//! An update of a part of a field reads the record before, together with others of its batch; an
//! upsert looks for it ([`super::seek`]). A record that is not found is looked for in a list, which
//! tells one that is gone from a path that is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use super::answers::{item, page};
use super::lookup::RecentRecords;
use super::objects::{Object, Version};
use super::{lookup, values};
use crate::body::Item;
use crate::calls::{Call, Next};
use crate::creation::{ambiguous, there};
use crate::errors::unreadable;
use crate::outcomes::Outcomes;
use crate::success::pipedrive as success;
use crate::{Method, Request, Response, WriteBatch, WriteKind, WriteRecord, Written, changes};

pub(super) struct Write {
    pub object: &'static Object,
    pub batch: Arc<WriteBatch>,
    /// Of an upsert: what was created lately.
    pub recent: RecentRecords,
    /// The records of which a part is to be kept, once they have been read together: by id, as the
    /// CRM holds them.
    pub held: Option<HashMap<String, Json>>,
    pub stage: Stage,
}

/// Updates whose records are read together. What was read gets older with each that is written, so
/// it is few.
pub(super) const UPDATES: usize = 25;

/// What has been asked about the record that is being written.
#[derive(Default)]
pub(super) enum Stage {
    #[default]
    Nothing,
    /// What was created lately.
    RecentRecords,
    /// Whose field holds the key.
    Search,
    /// What a record holds that the search found: it may have another key by now.
    Candidates {
        left: VecDeque<String>,
        matching: Vec<Json>,
    },
    /// Reading this record together with others of the batch, because parts of them are to be kept.
    AllHeld(String),
    /// Reading the record by itself, because that list did not have it.
    Held(String),
    /// To be written: this record, or a new one.
    Save(Option<String>),
    /// Whether a record is there that was not found.
    Missing(Failure, String),
}

/// A record of which parts are to be written back as they are.
fn whole(response: &Response) -> Result<Json, Failure> {
    let item = item(response)?;
    match item.damage {
        Some(damage) => Err(damage),
        None => Ok(item.json),
    }
}

type Then = Result<Next, Failure>;

impl Write {
    fn record(&self, index: usize) -> &WriteRecord {
        &self.batch.records[index]
    }

    fn update(&mut self, index: usize, id: String, held: &Json) -> Request {
        let key_field = self.batch.external_id_field.as_deref();
        let body = values::body(self.object, self.record(index), key_field, None, held);
        let request = self.object.one(self.object.update, &id).json(&body);
        self.stage = Stage::Save(Some(id));
        request
    }

    fn update_or_read(&mut self, index: usize, id: String) -> Request {
        if !values::needs_held(self.object, self.record(index)) {
            return self.update(index, id, &Json::Null);
        }
        let ids = self.ids_to_read();
        match &mut self.held {
            Some(held) => match held.remove(&id) {
                Some(held) => self.update(index, id, &held),
                None => self.read(id),
            },
            None if ids.len() > 1 => {
                let request = self.object.by_ids(ids.iter().map(String::as_str), "");
                // Read together once only, whatever comes of it.
                self.held = Some(HashMap::new());
                self.stage = Stage::AllHeld(id);
                request
            }
            None => self.read(id),
        }
    }

    fn read(&mut self, id: String) -> Request {
        let request = self.object.one(Method::Get, &id);
        self.stage = Stage::Held(id);
        request
    }

    /// The records of the batch that have to be read, if a list can show them. An id that is not a
    /// number does not exist, and would make Pipedrive refuse the whole list.
    fn ids_to_read(&self) -> Vec<String> {
        if self.held.is_some()
            || self.batch.kind != WriteKind::Update
            || self.object.version == Version::V1
        {
            return Vec::new();
        }
        let records = self.batch.records.iter();
        let partial = records.filter(|record| values::needs_held(self.object, record));
        let ids = partial.filter_map(|record| record.crm_id.clone());
        ids.filter(|id| id.bytes().all(|b| b.is_ascii_digit()))
            .collect()
    }

    fn take_held(&mut self, response: &Response) -> Result<(), Failure> {
        let items = match page(response) {
            Ok(page) => page.records,
            // Another record may be at fault, so each is read by itself.
            Err(failure) if failure.scope == Scope::Records => Vec::new(),
            Err(failure) => return Err(failure),
        };
        let readable = items.into_iter().filter(|item| item.damage.is_none());
        let held = readable.filter_map(|item| Some((values::id(&item.json)?, item.json)));
        self.held = Some(held.collect());
        Ok(())
    }

    fn create(&mut self, index: usize) -> Request {
        let field = self.batch.key_field();
        let key = (field, self.batch.key(index));
        let record = self.record(index);
        let body = values::body(self.object, record, Some(field), Some(key), &Json::Null);
        let request = self.object.request(Method::Post, "").json(&body);
        let request = request.success(success::CREATE);
        self.stage = Stage::Save(None);
        request
    }

    /// What is known of a key by now, or the request that finds out.
    fn look_up(&mut self, index: usize, outcomes: &mut Outcomes) -> Then {
        let key = self.batch.key(index);
        match self.recent.ids(key) {
            [] => {
                self.stage = Stage::Search;
                let field = self.batch.key_field();
                Ok(Next::Send(lookup::search(self.object, field, key)))
            }
            [id] => {
                let id = id.clone();
                if self.batch.creates_only {
                    outcomes.set(index, there(vec![id]));
                    return Ok(Next::Done);
                }
                Ok(Next::Send(self.update_or_read(index, id)))
            }
            ids => Err(ambiguous(ids)),
        }
    }

    fn next_candidate(
        &mut self,
        index: usize,
        mut left: VecDeque<String>,
        mut matching: Vec<Json>,
        outcomes: &mut Outcomes,
    ) -> Then {
        if let Some(id) = left.front() {
            let request = self.object.one(Method::Get, id);
            self.stage = Stage::Candidates { left, matching };
            return Ok(Next::Send(request));
        }
        left.extend(matching.iter().filter_map(values::id));
        match (matching.pop(), left.len()) {
            (Some(_), 1) if self.batch.creates_only => {
                outcomes.set(index, there(left.into()));
                Ok(Next::Done)
            }
            (Some(held), 1) => Ok(Next::Send(self.update(
                index,
                left.remove(0).unwrap_or_default(),
                &held,
            ))),
            (Some(_), _) => Err(ambiguous(left.make_contiguous())),
            (None, _) => Ok(Next::Send(self.create(index))),
        }
    }

    /// Whether a candidate is the record that is sought.
    fn matches(&self, index: usize, held: &Json) -> bool {
        let value = values::held(held, self.batch.key_field());
        !values::is_deleted(held)
            && changes::key(Some(value)).as_deref() == Some(self.batch.key(index))
    }

    fn saved(
        &mut self,
        index: usize,
        id: Option<String>,
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Then {
        let kind = self.batch.kind;
        let saved = match item(response) {
            Ok(saved) => saved,
            Err(failure) if failure.class == ErrorClass::NotFound => {
                return match (id, kind) {
                    // It was there a moment ago: the next attempt finds out, and creates it if need
                    // be.
                    (Some(_), WriteKind::Upsert) => Err(Failure {
                        class: ErrorClass::Transient,
                        ..failure
                    }),
                    (Some(id), _) => Ok(Next::Send(self.look_for(failure, id))),
                    (None, _) => Err(failure),
                };
            }
            Err(failure) => return Err(failure),
        };
        let Item {
            json: saved,
            damage,
        } = saved;
        let crm_id = values::id(&saved).ok_or_else(|| unreadable(response))?;
        let created = id.is_none();
        if id.is_some_and(|id| id != crm_id) {
            let message = "the CRM's answer is about another record";
            return Err(Failure::record(
                ErrorClass::Transient,
                "mismatched_result",
                message,
            ));
        }
        if kind == WriteKind::Update && values::is_deleted(&saved) {
            let message = "the record is in the CRM's recycle bin";
            return Err(Failure::record(ErrorClass::NotFound, "deleted", message));
        }
        if created {
            self.recent.note(self.batch.key(index), &crm_id);
        }
        let mut written = Written::saved(crm_id, created);
        if damage.is_none() {
            let held = |name: &str| Some(values::held(&saved, name));
            written = written.showing(self.record(index), held);
        }
        outcomes.set(index, Ok(written));
        Ok(Next::Done)
    }

    fn look_for(&mut self, failure: Failure, id: String) -> Request {
        let request = self.object.by_ids([id.as_str()].into_iter(), "");
        self.stage = Stage::Missing(failure, id);
        request
    }
}

impl Call for Write {
    fn request(&mut self, records: &[usize]) -> Request {
        let index = records[0];
        let key = self.batch.key(index).to_owned();
        match self.batch.kind {
            WriteKind::Update => self.update_or_read(index, key),
            WriteKind::Delete => {
                let request = self.object.one(Method::Delete, &key);
                self.stage = Stage::Save(Some(key));
                request
            }
            WriteKind::Upsert => match self.recent.request(self.object) {
                Some(request) => {
                    self.stage = Stage::RecentRecords;
                    request
                }
                None => {
                    self.stage = Stage::Search;
                    lookup::search(self.object, self.batch.key_field(), &key)
                }
            },
        }
    }

    fn on_response(
        &mut self,
        records: &[usize],
        response: &Response,
        outcomes: &mut Outcomes,
    ) -> Then {
        let index = records[0];
        match std::mem::take(&mut self.stage) {
            Stage::Nothing => Err(unreadable(response)),
            Stage::RecentRecords => {
                let page = page(response)?;
                self.recent.take(&self.batch, &page, response.date());
                match self.recent.request(self.object) {
                    Some(request) => {
                        self.stage = Stage::RecentRecords;
                        Ok(Next::Send(request))
                    }
                    None => self.look_up(index, outcomes),
                }
            }
            Stage::Search => {
                // Another record of the batch may have come to be meanwhile, with the same key.
                if !self.recent.ids(self.batch.key(index)).is_empty() {
                    return self.look_up(index, outcomes);
                }
                let found = page(response)?.records;
                let ids = found.iter().map(|item| lookup::found(&item.json));
                // One of which cannot be read which it is may be the record: then no other is made.
                let ids: Option<VecDeque<String>> = ids.collect();
                let ids = ids.ok_or_else(|| unreadable(response))?;
                self.next_candidate(index, ids, Vec::new(), outcomes)
            }
            Stage::Candidates {
                mut left,
                mut matching,
            } => {
                left.pop_front();
                match whole(response) {
                    Ok(held) if self.matches(index, &held) => matching.push(held),
                    // The index of the search is behind.
                    Ok(_) => {}
                    Err(failure) if failure.class == ErrorClass::NotFound => {}
                    Err(failure) => return Err(failure),
                }
                self.next_candidate(index, left, matching, outcomes)
            }
            Stage::AllHeld(id) => {
                self.take_held(response)?;
                Ok(Next::Send(self.update_or_read(index, id)))
            }
            Stage::Held(id) => match whole(response) {
                Ok(held) => Ok(Next::Send(self.update(index, id, &held))),
                Err(failure) if failure.class == ErrorClass::NotFound => {
                    Ok(Next::Send(self.look_for(failure, id)))
                }
                Err(failure) => Err(failure),
            },
            Stage::Save(id) => self.saved(index, id, response, outcomes),
            Stage::Missing(failure, id) => {
                let page = page(response)?;
                let records = page.records.iter().map(|item| &item.json);
                let mut live = records.filter(|held| !values::is_deleted(held));
                // There after all: the same write may be tried again.
                match live.any(|held| values::id(held).as_ref() == Some(&id)) {
                    true => Err(Failure {
                        class: ErrorClass::Transient,
                        ..failure
                    }),
                    false => Err(failure),
                }
            }
        }
    }
}
