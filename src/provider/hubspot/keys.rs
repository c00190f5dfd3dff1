//! Which records have some values of a unique property: 100 in one request.

use crm_domain::{ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::api::object_path;
use super::{errors, reads};
use crate::body::{Item, Listed};
use crate::changes;
use crate::creation::{Finder, all_read};
use crate::errors::{refused, unreadable};
use crate::success::hubspot as success;
use crate::{Method, Request, Response, WriteBatch, wire};

pub(super) struct Keys {
    object: String,
    property: String,
}

impl Keys {
    pub fn new(batch: &WriteBatch) -> Keys {
        Keys {
            object: batch.object.clone(),
            property: batch.key_field().to_owned(),
        }
    }
}

impl Finder for Keys {
    fn size(&self, _keys: &[&str]) -> usize {
        reads::LIMIT
    }

    fn request(&mut self, keys: &[&str]) -> Request {
        let inputs: Vec<Json> = keys.iter().map(|key| json!({ "id": key })).collect();
        let path = format!("{}/batch/read", object_path(&self.object));
        Request::new(Method::Post, path)
            .json(&json!({
                "idProperty": self.property,
                "inputs": inputs,
                "properties": [self.property],
                "propertiesWithHistory": [],
            }))
            .success(success::BATCH_READ)
            .repeatable()
    }

    fn found(&mut self, response: &Response) -> Result<Option<Vec<(String, String)>>, Failure> {
        errors::check(response).map_err(refused)?;
        let listed = response.list("results");
        let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
        for error in rest["errors"].as_array().into_iter().flatten() {
            let failure = errors::of_records(error);
            // Not found is an answer. Anything else leaves open whether the record is there.
            if failure.class != ErrorClass::NotFound {
                return Err(failure);
            }
        }
        let record = |Item { json, .. }: Item| {
            let key = changes::key(Some(&json["properties"][&self.property]))?;
            Some((key, wire::id(&json["id"])?))
        };
        all_read(response, items, record)
    }
}
