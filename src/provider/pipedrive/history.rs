//! The history of a write, from the record's changelog, which lists each change of a field with its
//! time and the program that made it.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use super::answers::page;
use super::objects::Object;
use super::values;
use crate::history::{Entry, Logged, histories, overwritten};
use crate::operation::Exchange;
use crate::request::encode;
use crate::{BoxOperation, DoneBatch, Method, Overwritten, Request, Response, wire};

/// Changes asked for: those since a read that is seconds old.
const LIMIT: usize = 100;

/// How our requests introduce themselves, and the changelog quotes them.
const AGENT: &str = "pg_crm";

/// Records of one write whose changelogs are looked at, at most.
pub(super) const MOST: usize = 25;

/// Looks back at the one record that a batch holds.
pub(super) fn read_history(
    object: &Object,
    batch: Arc<DoneBatch>,
) -> Option<BoxOperation<Vec<Vec<Overwritten>>>> {
    let id = encode(&batch.records.first()?.crm_id).to_string();
    let path = format!("/api/v1/{}/{id}/changelog?limit={LIMIT}", object.name);
    let request = Request::new(Method::Get, path);
    let exchange = Exchange::new(request, move |response| replaced(&batch, &response));
    object.has_changelog.then(|| Box::new(exchange) as _)
}

fn replaced(batch: &DoneBatch, response: &Response) -> Result<Vec<Vec<Overwritten>>, Failure> {
    let changes = match page(response) {
        Ok(page) => page.records,
        // Gone, which another path tells.
        Err(failure) if failure.class == ErrorClass::Mapping => Vec::new(),
        Err(failure) => return Err(failure),
    };
    // What cannot be read tells nothing.
    let readable = changes.iter().filter(|item| item.damage.is_none());
    let histories = histories(readable.filter_map(|item| logged(&item.json)).collect());
    let history = |name: &str| histories.get(name).map(Vec::as_slice);
    let mut found = vec![Vec::new(); batch.records.len()];
    if let Some((first, record)) = found.first_mut().zip(batch.records.first()) {
        *first = overwritten(record, history, values::read);
    }
    Ok(found)
}

fn logged(change: &Json) -> Option<Logged> {
    Some(Logged {
        field: change["field_key"].as_str()?.to_owned(),
        old: change["old_value"].clone(),
        set: Entry {
            value: change["new_value"].clone(),
            at: wire::moment(&change["time"]),
            is_by_a_program: is_by_a_program(change),
            source: source(change),
        },
    })
}

fn is_by_a_program(change: &Json) -> bool {
    match change["change_source_user_agent"].as_str() {
        Some(agent) => agent.contains(AGENT),
        None => change["change_source"].as_str() != Some("app"),
    }
}

fn source(change: &Json) -> Option<String> {
    let names = ["change_source", "change_source_user_agent"];
    let words = names.iter().filter_map(|name| change[*name].as_str());
    let user = wire::scalar_text(&change["actor_user_id"]).map(|id| format!("userId:{id}"));
    let words: Vec<String> = words.map(str::to_owned).chain(user).collect();
    (!words.is_empty()).then(|| words.join(" "))
}
