//! Which records have some keys, by COQL: 100 in one query.

use crm_domain::Failure;
use serde_json::json;

use super::changes::quoted;
use super::reads;
use crate::body::Item;
use crate::changes;
use crate::creation::{Finder, all_read};
use crate::success::zoho as success;
use crate::{Method, Request, Response, WriteBatch, wire};

/// Values in one list of a query.
const LISTED: usize = 50;
/// Rows of one query, for which it costs one credit ("Query API", overview): twice as many as keys,
/// so that two records with one key are seen.
const ROWS: usize = 200;

pub(super) struct Keys {
    module: String,
    field: String,
}

impl Keys {
    pub fn new(batch: &WriteBatch) -> Keys {
        Keys {
            module: batch.object.clone(),
            field: batch.key_field().to_owned(),
        }
    }
}

impl Finder for Keys {
    fn size(&self, _keys: &[&str]) -> usize {
        2 * LISTED
    }

    fn request(&mut self, keys: &[&str]) -> Request {
        let (module, field) = (&self.module, &self.field);
        let list = |keys: &[&str]| {
            let texts: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
            format!("{field} in ({})", texts.join(", "))
        };
        let lists: Vec<String> = keys.chunks(LISTED).map(list).collect();
        let condition = lists.join(" or ");
        let text = format!("select id, {field} from {module} where {condition} limit {ROWS}");
        Request::new(Method::Post, "/crm/v8/coql")
            .success(success::LIST)
            .json(&json!({ "select_query": text }))
            .repeatable()
    }

    fn found(&mut self, response: &Response) -> Result<Option<Vec<(String, String)>>, Failure> {
        let record = |Item { json, .. }: Item| {
            let key = changes::key(json.get(&self.field))?;
            Some((key, wire::id(&json["id"])?))
        };
        all_read(response, reads::records(response)?.items, record)
    }
}
