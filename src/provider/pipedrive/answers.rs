//! What an answer holds: one record, or a page of them and where the next one begins.

use crm_domain::Failure;
use serde_json::Value as Json;

use super::errors;
use super::objects::{Object, Version};
use crate::body::{Item, Listed};
use crate::errors::{refused, unreadable};
use crate::request::encode;
use crate::{Response, wire};

/// The record of an answer about one.
pub(super) fn item(response: &Response) -> Result<Item, Failure> {
    errors::check(response)?;
    response.item_at("data").ok_or_else(|| unreadable(response))
}

/// [`item`], where its values do not matter, or nothing can be done without them.
pub(super) fn record(response: &Response) -> Result<Json, Failure> {
    item(response).map(|item| item.json)
}

/// A page of a list.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub records: Vec<Item>,
    /// Where the list goes on, for [`go_on`].
    pub next: Option<String>,
}

/// A list that is refused has an unknown path or parameter; no record is missing because of it.
pub(super) fn page(response: &Response) -> Result<Page, Failure> {
    errors::check(response).map_err(refused)?;
    let listed = response.list("data").or_else(|| {
        // Version 1 says so when there is nothing.
        let rest = response.json()?;
        (rest["data"].is_null() && rest["success"] == true).then(|| Listed {
            items: Vec::new(),
            rest,
        })
    });
    let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
    let more = &rest["additional_data"];
    let pagination = &more["pagination"];
    let next = match &more["next_cursor"] {
        Json::Null if pagination["more_items_in_collection"] == true => {
            wire::scalar_text(&pagination["next_start"])
        }
        cursor => wire::scalar_text(cursor),
    };
    Ok(Page {
        records: items,
        next: next.filter(|next| !next.is_empty()),
    })
}

/// The parameter by which a list goes on.
pub(super) fn go_on(object: &Object, next: Option<&str>) -> String {
    let name = match object.version {
        Version::V1 => "start",
        Version::V2 => "cursor",
    };
    next.map_or(String::new(), |next| format!("&{name}={}", encode(next)))
}
