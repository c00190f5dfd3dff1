//! Records and changes as the stub shows them.

use std::sync::Arc;

use crm_domain::Failure;
use serde_json::{Value as Json, json};

use super::errors::check;
use crate::body::{Item, Listed};
use crate::errors::{unreadable, unreadable_record};
use crate::operation::Exchange;
use crate::{
    BoxOperation, Change, ChangesPage, ChangesQuery, CrmObject, Method, ReadBatch, Request,
    Response, wire,
};

/// Records in one request, as many as Salesforce's collections take, so that the stub exercises
/// batches of the same size.
pub(super) const LIMIT: usize = 200;

pub(super) fn read(batch: Arc<ReadBatch>) -> BoxOperation<Vec<Option<CrmObject>>> {
    let fields: Vec<&str> = batch
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    let request = Request::new(Method::Post, "/read")
        .json(&json!({ "object": batch.object, "ids": batch.ids, "fields": fields }))
        .repeatable();
    Box::new(Exchange::new(request, move |response| {
        objects(&batch, &response)
    }))
}

pub(super) fn changes(query: &ChangesQuery) -> BoxOperation<ChangesPage> {
    let request = Request::new(Method::Post, "/changes")
        .json(&changes_body(query))
        .repeatable();
    Box::new(Exchange::new(request, |response| page(&response)))
}

pub(super) fn count(object: &str) -> BoxOperation<u64> {
    let request = Request::new(Method::Post, "/count")
        .json(&json!({ "object": object }))
        .repeatable();
    Box::new(Exchange::new(request, |response| {
        check(&response)?;
        let count = response.json().and_then(|body| body["count"].as_u64());
        count.ok_or_else(|| unreadable(&response))
    }))
}

fn objects(batch: &ReadBatch, response: &Response) -> Result<Vec<Option<CrmObject>>, Failure> {
    check(response)?;
    let results = response.list("results");
    let results = results.ok_or_else(|| unreadable(response))?.items;
    if results.len() != batch.ids.len() {
        return Err(unreadable(response));
    }
    let no_id = || unreadable_record("the answer does not identify the record");
    let found = |(id, item): (&String, Item)| {
        if item.json.is_null() && item.damage.is_none() {
            return None;
        }
        let mut object = object(&item);
        if object.crm_id.is_empty() {
            object.crm_id.clone_from(id);
            object.damage.get_or_insert_with(no_id);
        }
        Some(object)
    };
    Ok(batch.ids.iter().zip(results).map(found).collect())
}

pub(super) fn changes_body(query: &ChangesQuery) -> Json {
    let fields = query.fields.iter().map(|field| field.name.as_str());
    json!({
        "object": query.object,
        "fields": fields.collect::<Vec<_>>(),
        "external_id_field": query.external_id_field,
        "since": query.since,
        "limit": query.limit.clamp(1, LIMIT),
    })
}

/// The stub itself tells, to the transaction, what a cursor has seen: nothing comes late, and
/// nothing twice.
fn page(response: &Response) -> Result<ChangesPage, Failure> {
    check(response)?;
    let listed = response.list("changes");
    let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
    let (Json::Object(_), Some(more)) = (&rest["next"], rest["more"].as_bool()) else {
        return Err(unreadable(response));
    };
    let change = |item: Item| {
        let object = object(&item);
        let (external_id, damage) =
            crate::changes::keyed(item.json.get("external_id"), object.damage.clone());
        Change {
            object: CrmObject { damage, ..object },
            external_id,
            deleted: item.json["deleted"] == true,
            merged_into: None,
            modified_by: crate::changes::modified_by(&item.json["modified_by"]),
        }
    };
    let found = items.into_iter().map(change).collect();
    Ok(crate::changes::page_of(
        found,
        rest["next"].clone(),
        more,
        false,
    ))
}

fn object(item: &Item) -> CrmObject {
    let record = &item.json;
    let version = match &record["version"] {
        Json::Null => None,
        Json::String(version) => Some(version.clone()),
        version => Some(version.to_string()),
    };
    CrmObject {
        crm_id: wire::id(&record["id"]).unwrap_or_default(),
        fields: record["fields"].as_object().cloned().unwrap_or_default(),
        modified_at: wire::moment(&record["modified_at"]),
        version,
        damage: item.damage.clone(),
    }
}
