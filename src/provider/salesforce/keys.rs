//! Which records have some external ids, by SOQL: as many in one query as its address has room for.

use crm_domain::Failure;
use serde_json::Value as Json;

use super::api::Api;
use super::changes::{LONGEST_PATH, quoted};
use super::{errors, reads};
use crate::body::{Item, Listed};
use crate::changes;
use crate::creation::{Finder, all_read};
use crate::errors::{refused, unreadable};
use crate::request::encode;
use crate::{Method, Request, Response, WriteBatch, wire};

/// A record has one row in the answer, which holds 2,000.
const MOST: usize = 1000;

pub(super) struct Keys {
    api: Api,
    object: String,
    field: String,
    /// The field is a number, which a query names without quotes.
    is_number: bool,
}

impl Keys {
    pub fn new(api: Api, batch: &WriteBatch) -> Keys {
        Keys {
            api,
            object: batch.object.clone(),
            field: batch.key_field().to_owned(),
            is_number: false,
        }
    }

    fn literal(&self, key: &str) -> String {
        match self.is_number {
            true => key.to_owned(),
            false => quoted(key),
        }
    }
}

impl Finder for Keys {
    fn size(&self, keys: &[&str]) -> usize {
        let mut room = LONGEST_PATH - 1000;
        let fits = |key: &&&str| {
            // A comma takes three characters of an address.
            let length = encode(&quoted(key)).to_string().len() + 3;
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        };
        keys.iter().take(MOST).take_while(fits).count()
    }

    fn request(&mut self, keys: &[&str]) -> Request {
        let (object, field) = (&self.object, &self.field);
        let list: Vec<String> = keys.iter().map(|key| self.literal(key)).collect();
        let list = list.join(",");
        let text = format!("SELECT Id,{field} FROM {object} WHERE {field} IN ({list})");
        let path = format!("/query?q={}", encode(&text));
        self.api.request(Method::Get, path)
    }

    fn found(&mut self, response: &Response) -> Result<Option<Vec<(String, String)>>, Failure> {
        if let Some(failure) = errors::of_response(response) {
            let is_number = failure.message.contains("should not be enclosed in quotes");
            if is_number && !self.is_number {
                self.is_number = true;
                return Ok(None);
            }
            return Err(refused(failure));
        }
        let listed = response.list("records");
        let Listed { items, .. } = listed.ok_or_else(|| unreadable(response))?;
        let record = |Item { json, .. }: Item| {
            let Json::Object(record) = json else {
                return None;
            };
            let id = reads::held(&record, "Id").and_then(wire::id)?;
            Some((changes::key(reads::held(&record, &self.field))?, id))
        };
        all_read(response, items, record)
    }
}
