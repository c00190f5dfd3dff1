//! CRM records as they came in, before they are compared with anything.

use std::collections::HashSet;

use crm_domain::conflict::ShortHash;
use crm_domain::{Failure, Value};
use serde_json::{Value as Json, json};

use crate::settings::Settings;
use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::record::key::Key;

/// A CRM record as it came in.
pub struct Incoming {
    pub crm_id: String,
    /// What the map's external_id_field holds.
    pub external_id: Option<String>,
    /// It was deleted in the CRM.
    pub deleted: bool,
    /// The record into which it was merged.
    pub merged_into: Option<String>,
    /// Who made the last change, in the vendor's words: evidence for the audit, nothing else.
    pub by: Option<String>,
    /// Its mapped fields in the order of their ids, or why they cannot be read.
    pub values: Result<Vec<Field>, Unreadable>,
}

/// Why a record cannot be read.
pub struct Unreadable {
    pub failure: Failure,
    /// The CRM's field that cannot, if it is about one.
    pub field: Option<String>,
}

impl Unreadable {
    /// The field at fault, as the audit names fields.
    pub fn fields(&self) -> String {
        let named = self.field.iter().map(|name| (name.clone(), json!({})));
        Json::Object(named.collect()).to_string()
    }
}

impl From<Failure> for Unreadable {
    fn from(failure: Failure) -> Unreadable {
        Unreadable {
            failure,
            field: None,
        }
    }
}

/// A field of a record that came in.
pub struct Field {
    pub id: u16,
    pub value: Value,
    pub hash: ShortHash,
}

/// What is known of records that came in together.
pub struct Arriving<'a> {
    pub connection: &'a Connection,
    pub map: &'a Map,
    /// See [`state::moment`]: from before the request.
    pub asked: &'a str,
    /// Records with a write of ours in flight.
    pub busy: &'a HashSet<(String, String)>,
    pub settings: &'a Settings,
}

impl Arriving<'_> {
    pub fn is_busy(&self, key: &Key) -> bool {
        // Mostly nothing is.
        !self.busy.is_empty()
            && self
                .busy
                .contains(&(key.shard_key.clone(), key.record_key.clone()))
    }
}
