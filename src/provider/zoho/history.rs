//! The history of a write, from the record's timeline, which lists each change of a field with its
//! time and source.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use super::api::module_path;
use super::{errors, values};
use crate::errors::{refused, unreadable};
use crate::history::{Entry, Logged, histories, overwritten};
use crate::operation::Exchange;
use crate::request::encode;
use crate::success::zoho as success;
use crate::{BoxOperation, DoneBatch, Method, Overwritten, Request, Response, wire};

/// Records of one write whose timelines are looked at, at most.
pub(super) const MOST: usize = 25;

/// Looks back at the one record that a batch holds.
pub(super) fn read_history(batch: Arc<DoneBatch>) -> Option<BoxOperation<Vec<Vec<Overwritten>>>> {
    let id = encode(&batch.records.first()?.crm_id).to_string();
    let path = format!(
        "{}/{id}/__timeline?per_page=100",
        module_path(&batch.object)
    );
    let request = Request::new(Method::Get, path).success(success::LIST);
    Some(Box::new(Exchange::new(request, move |response| {
        replaced(&batch, &response)
    })))
}

fn replaced(batch: &DoneBatch, response: &Response) -> Result<Vec<Vec<Overwritten>>, Failure> {
    let mut found = vec![Vec::new(); batch.records.len()];
    let failure = errors::of_response(response).map(refused);
    match failure {
        // Gone, or a module without a timeline.
        Some(failure) if matches!(failure.class, ErrorClass::Mapping | ErrorClass::Validation) => {
            return Ok(found);
        }
        Some(failure) => return Err(failure),
        None if response.status == 204 => return Ok(found),
        None => {}
    }
    let timeline = response.list("__timeline");
    let timeline = timeline.ok_or_else(|| unreadable(response))?.items;
    // What cannot be read tells nothing.
    let readable = timeline.iter().filter(|item| item.damage.is_none());
    let histories = histories(readable.flat_map(|item| logged(&item.json)).collect());
    let history = |name: &str| histories.get(name).map(Vec::as_slice);
    if let Some((first, record)) = found.first_mut().zip(batch.records.first()) {
        *first = overwritten(record, history, values::read);
    }
    Ok(found)
}

/// The changes of fields that an entry tells of.
fn logged(entry: &Json) -> Vec<Logged> {
    let source = entry["source"].as_str();
    let user = entry["done_by"]["id"]
        .as_str()
        .map(|id| format!("userId:{id}"));
    let words: Vec<String> = source.map(str::to_owned).into_iter().chain(user).collect();
    let fields = entry["field_history"].as_array().into_iter().flatten();
    let one = |field: &Json| {
        Some(Logged {
            field: field["api_name"].as_str()?.to_owned(),
            old: field["_value"]["old"].clone(),
            set: Entry {
                value: field["_value"]["new"].clone(),
                at: wire::moment(&entry["audited_time"]),
                // `crm_api` and its like; the list of sources is open.
                is_by_a_program: source.is_none_or(|source| source.contains("api")),
                source: (!words.is_empty()).then(|| words.join(" ")),
            },
        })
    };
    fields.filter_map(one).collect()
}
