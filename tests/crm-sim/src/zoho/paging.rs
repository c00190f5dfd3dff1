//! Pages of records: by number for the first 2,000, by tokens beyond.
//!
//! Guarantees: a page that a token leads to begins behind the last record of the page before,
//! whatever has come or gone meanwhile; no records at all are an answer without a body.

use super::error::ZohoError;
use super::org::{floor, moment};
use crate::clock::DAY_MS;
use crate::http::{Request, Response};
use crate::store::Object;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};
use std::cmp::Reverse;

pub const PAGE: usize = 200;
/// What page numbers reach.
const NUMBERED: usize = 2000;
/// How long a token leads anywhere.
const LASTS_MS: i64 = DAY_MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Created,
    Modified,
}

/// How a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    key: Key,
    descending: bool,
}

/// A value of a parameter that does not fit.
pub fn wrong(name: &str) -> ZohoError {
    let error = ZohoError::new(400, "INVALID_DATA", "the value given seems to be invalid");
    error.with(json!({"param_name": name}))
}

pub fn number(request: &Request, name: &str, most: usize) -> Result<usize, ZohoError> {
    let Some(text) = request.param(name) else {
        return Ok(if name == "page" { 1 } else { PAGE });
    };
    let told = text.parse().ok().filter(|n| (1..=most).contains(n));
    told.ok_or_else(|| wrong(name))
}

/// Records in a page of answers; none at all is an answer without a body.
pub fn paged(mut records: Vec<Json>, page: usize, per_page: usize) -> Response {
    let start = (page - 1) * per_page;
    let more = records.len() > start + per_page;
    let shown: Vec<Json> = records.drain(..).skip(start).take(per_page).collect();
    match shown.len() {
        0 => Response::empty(204),
        count => Response::json(
            200,
            &json!({"data": shown, "info": {"per_page": per_page, "count": count, "page": page, "more_records": more}}),
        ),
    }
}

impl Order {
    fn of(request: &Request) -> Result<Self, ZohoError> {
        let key = match request.param("sort_by").as_deref() {
            None | Some("id") => Key::Id,
            Some("Created_Time") => Key::Created,
            Some("Modified_Time") => Key::Modified,
            Some(_) => return Err(wrong("sort_by")),
        };
        let descending = match request.param("sort_order").as_deref() {
            None | Some("desc") => true,
            Some("asc") => false,
            Some(_) => return Err(wrong("sort_order")),
        };
        Ok(Self { key, descending })
    }

    fn place(self, object: &Object, slot: u32) -> (i64, u32) {
        let record = &object.records[slot as usize];
        let time = match self.key {
            Key::Id => 0,
            Key::Created => floor(record.created),
            Key::Modified => floor(record.modified),
        };
        (time, slot)
    }

    fn name(self) -> &'static str {
        match self.key {
            Key::Id => "id",
            Key::Created => "Created_Time",
            Key::Modified => "Modified_Time",
        }
    }

    fn direction(self) -> &'static str {
        if self.descending { "desc" } else { "asc" }
    }
}

/// Where a token goes on: page, place of the last record, and when the token was given.
type Token = (usize, (i64, u32), i64);

fn token(request: &Request, now: i64) -> Result<Option<Token>, ZohoError> {
    let Some(text) = request.param("page_token") else {
        return Ok(None);
    };
    if request.param("page").is_some() {
        let error = ZohoError::new(
            400,
            "AMBIGUITY_DURING_PROCESSING",
            "page and page_token exclude each other",
        );
        return Err(error.with(json!({"param_names": ["page", "page_token"]})));
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let token: Option<Token> = serde_json::from_slice(&bytes).ok();
    let token = token.ok_or_else(|| wrong("page_token"))?;
    match now - token.2 > LASTS_MS {
        true => Err(
            ZohoError::new(400, "EXPIRED_VALUE", "the page token has expired")
                .with(json!({"param_name": "page_token"})),
        ),
        false => Ok(Some(token)),
    }
}

/// The page of a list that a request asks for.
pub fn list(
    object: &Object,
    mut slots: Vec<u32>,
    request: &Request,
    now: i64,
    show: impl Fn(u32) -> Json,
) -> Result<Response, ZohoError> {
    let order = Order::of(request)?;
    let per_page = number(request, "per_page", PAGE)?;
    match order.descending {
        false => slots.sort_by_key(|slot| order.place(object, *slot)),
        true => slots.sort_by_key(|slot| Reverse(order.place(object, *slot))),
    }
    let (page, start) = match token(request, now)? {
        Some((page, after, _)) => {
            let behind = |slot: &u32| match order.descending {
                false => order.place(object, *slot) > after,
                true => order.place(object, *slot) < after,
            };
            let start = slots.iter().position(behind);
            (page, start.unwrap_or(slots.len()))
        }
        None => {
            let page = number(request, "page", usize::MAX / PAGE)?;
            if page * per_page > NUMBERED {
                let error = ZohoError::new(
                    400,
                    "DISCRETE_PAGINATION_LIMIT_EXCEEDED",
                    "records beyond the first 2000 need a page_token",
                );
                return Err(error.with(json!({"param_name": "page", "limit": NUMBERED})));
            }
            (page, (page - 1) * per_page)
        }
    };
    let more = slots.len() > start + per_page;
    let shown: Vec<u32> = slots.iter().copied().skip(start).take(per_page).collect();
    let Some(last) = shown.last().copied() else {
        return Ok(Response::empty(204));
    };
    let next: Option<Token> = more.then(|| (page + 1, order.place(object, last), now));
    let next = next.map(|token| URL_SAFE_NO_PAD.encode(json!(token).to_string()));
    let expiry = next.as_ref().map(|_| moment(now + LASTS_MS));
    let data: Vec<Json> = shown.iter().map(|slot| show(*slot)).collect();
    Ok(Response::json(
        200,
        &json!({"data": data, "info": {
            "per_page": per_page, "count": data.len(), "page": page, "more_records": more,
            "sort_by": order.name(), "sort_order": order.direction(),
            "next_page_token": next, "previous_page_token": null, "page_token_expiry": expiry,
        }}),
    ))
}
