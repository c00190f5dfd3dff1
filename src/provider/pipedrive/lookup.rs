//! Finding the record that holds a key, without a unique field: Pipedrive has none, and no upsert.
//!
//! A search finds records by a field, but its index follows the records with a delay that nobody
//! states. So what was created lately is read from the list of records itself, newest first, once
//! for all records of a batch. A create that is sent again, because its answer was lost, is found
//! by one or the other: by the list as long as `overlap_seconds` last, by the search from then on.
//!
//! Guarantees: a record is only taken for the one that is sought if it holds that very key. Two
//! that hold it are a conflict; a third is not made. Two requests that create at the same time are
//! beyond this: within one connection, a key is written by one at a time.

use std::collections::HashMap;

use crm_domain::key::kept;
use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use super::answers::{Page, go_on};
use super::objects::{Object, Version};
use super::{field_name, values};
use crate::request::encode;
use crate::{Method, Request, WriteBatch, changes};

/// Records in one page of a list (API Reference, parameter `limit`).
pub(super) const PAGE: usize = 500;

/// The search for a record by a field, which tells case (API Reference, "Perform a search using a
/// specific field from an item type").
pub(super) fn search(object: &Object, field: &str, key: &str) -> Request {
    let (word, field, key) = (object.word, encode(field), encode(kept(key)));
    let path = format!(
        "/api/v2/itemSearch/field?entity_type={word}&field={field}&match=exact&term={key}&limit=100"
    );
    Request::new(Method::Get, path)
}

/// The id that a result of the search bears: its own, or its item's.
pub(super) fn found(result: &Json) -> Option<String> {
    values::id(&result["item"]).or_else(|| values::id(result))
}

/// The keys of what was created lately.
pub(super) struct RecentRecords {
    /// How far back to look, in milliseconds.
    overlap: i64,
    /// What was created before has been searched in vain or found by now.
    bound: Option<i64>,
    ids: HashMap<String, Vec<String>>,
    next: Option<String>,
    is_read: bool,
}

impl RecentRecords {
    pub fn new(overlap: i64) -> RecentRecords {
        RecentRecords {
            overlap,
            bound: None,
            ids: HashMap::new(),
            next: None,
            is_read: false,
        }
    }

    /// The request for the next page; `None` when all is read.
    pub fn request(&self, object: &Object) -> Option<Request> {
        let order = match object.version {
            // Its ids tell nothing of time.
            Version::V1 => "sort=add_time%20DESC",
            Version::V2 => "sort_by=id&sort_direction=desc",
        };
        let rest = go_on(object, self.next.as_deref());
        let path = format!("?limit={PAGE}&{order}{rest}");
        (!self.is_read).then(|| object.request(Method::Get, path))
    }

    pub fn take(&mut self, batch: &WriteBatch, page: &Page, date: Option<i64>) {
        let records = || page.records.iter().map(|item| &item.json);
        let times = || records().filter_map(values::modified_at);
        let now = date.or_else(|| times().max());
        let bound = self.bound.or(now.map(|now| now - self.overlap));
        for held in records() {
            let key = changes::key(Some(values::held(held, batch.key_field())));
            let id = values::id(held).filter(|_| !values::is_deleted(held));
            if let (Some(key), Some(id)) = (key, id) {
                self.note(&key, &id);
            }
        }
        // A record is not created after its last change, and those that follow were created before
        // it.
        let is_old = bound.is_none_or(|bound| times().any(|at| at < bound));
        self.is_read = is_old || page.next.is_none() || page.next == self.next;
        self.next.clone_from(&page.next);
        self.bound = bound;
    }

    pub fn note(&mut self, key: &str, id: &str) {
        let ids = self.ids.entry(kept(key).to_owned()).or_default();
        if !ids.iter().any(|held| held == id) {
            ids.push(id.to_owned());
        }
    }

    pub fn ids(&self, key: &str) -> &[String] {
        self.ids.get(kept(key)).map_or(&[], Vec::as_slice)
    }
}

/// Whether a field can hold our key: a custom one, or one that is searched.
pub(super) fn holds_keys(object: &Object, field: &str) -> bool {
    let searched = matches!(
        (object.word, field),
        ("product", "code")
            | ("person" | "organization" | "product", "name")
            | ("deal" | "lead", "title")
    );
    object.is_searchable && (field_name::is_custom(field) || searched)
}

/// Why there can be no upsert.
pub(super) fn keyless(object: &Object, field: &str) -> Failure {
    let message = format!(
        "\"{field}\" of {} is not searchable; use the 40-digit key of a custom text field",
        object.name
    );
    Failure::record(ErrorClass::Mapping, "external_id_not_searchable", message)
}
