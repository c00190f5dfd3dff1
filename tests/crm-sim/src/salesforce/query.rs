//! SOQL over REST: pages, cursors, and the replication calls.
//!
//! Guarantees: a cursor walks a fixed list of records, each one once; old cursors expire as the
//! vendor's do, with INVALID_QUERY_LOCATOR.

use super::error::SfError;
use super::soql::{self, Columns, Found};
use super::{Answer, Org, org};
use crate::clock;
use crate::http::{Request, Response};
use crate::store::{Object, Store};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::collections::VecDeque;

const MAX_CURSORS: usize = 50;
const PAGE: std::ops::RangeInclusive<usize> = 200..=2000;

#[derive(Debug, Clone)]
struct Cursor {
    id: String,
    object: usize,
    found: Found,
    page: usize,
}

#[derive(Debug, Default)]
pub struct Cursors {
    held: Mutex<(u32, VecDeque<Cursor>)>,
}

impl Cursors {
    pub fn reset(&self) {
        self.held.lock().1.clear();
    }

    fn keep(&self, object: usize, found: Found, page: usize) -> String {
        let mut held = self.held.lock();
        held.0 += 1;
        let id = super::id::spell("01g", held.0);
        held.1.push_back(Cursor {
            id: id.clone(),
            object,
            found,
            page,
        });
        if held.1.len() > MAX_CURSORS {
            held.1.pop_front();
        }
        id
    }

    fn get(&self, id: &str) -> Option<Cursor> {
        let held = self.held.lock();
        held.1.iter().find(|cursor| cursor.id == id).cloned()
    }
}

pub fn answer(org: &Org, request: &Request, version: &str, path: &[&str]) -> Answer {
    if request.method != "GET" {
        return Err(SfError::method(request.method.as_str(), "HEAD,GET"));
    }
    match path {
        [verb] => {
            let text = request.param("q").ok_or_else(|| {
                SfError::new(400, "MALFORMED_QUERY", "A query string has to be specified")
            })?;
            let store = org.store.lock();
            let (object, found) = soql::run(&store, &text, *verb == "queryAll", now(org))?;
            let size = page_size(request);
            match &found.columns {
                Columns::Count => {
                    let total = found.slots.len();
                    let body = json!({"totalSize": total, "done": true, "records": []});
                    return Ok(Response::json(200, &body));
                }
                Columns::Rows(rows) => {
                    let body = json!({"totalSize": rows.len(), "done": true, "records": rows});
                    return Ok(Response::json(200, &body));
                }
                Columns::Fields(_) | Columns::Mixed(_) => {}
            }
            let id = match found.slots.len() > size {
                true => org.cursors.keep(object, found.clone(), size),
                false => String::new(),
            };
            Ok(page(&store, object, &found, &id, 0, size, version))
        }
        [_, locator] => {
            let lost = || SfError::new(400, "INVALID_QUERY_LOCATOR", "invalid query locator");
            let (id, offset) = locator.rsplit_once('-').ok_or_else(lost)?;
            let offset = offset.parse().map_err(|_| lost())?;
            let cursor = org.cursors.get(id).ok_or_else(lost)?;
            let store = org.store.lock();
            let Cursor {
                object,
                found,
                page: size,
                ..
            } = &cursor;
            Ok(page(&store, *object, found, id, offset, *size, version))
        }
        _ => Err(SfError::not_found()),
    }
}

pub fn now(org: &Org) -> i64 {
    org.services.clock.now()
}

fn page(
    store: &Store,
    object: usize,
    found: &Found,
    cursor: &str,
    offset: usize,
    size: usize,
    version: &str,
) -> Response {
    let total = found.slots.len();
    let end = (offset + size).min(total);
    let slots = found.slots[offset.min(total)..end].iter();
    let records = slots.map(|slot| match &found.columns {
        Columns::Fields(fields) => Shown::Row(org::Row {
            object: &store.objects[object],
            slot: *slot,
            fields,
            version,
        }),
        Columns::Mixed(columns) => {
            Shown::Tree(soql::shown::record(store, object, *slot, columns, version))
        }
        Columns::Count | Columns::Rows(_) => Shown::Tree(Json::Null),
    });
    let records: Vec<_> = records.collect();
    let next = (end < total).then(|| format!("/services/data/{version}/query/{cursor}-{end}"));
    Response::json(
        200,
        &Page {
            total,
            done: next.is_none(),
            next,
            records,
        },
    )
}

#[derive(serde::Serialize)]
struct Page<'a> {
    #[serde(rename = "totalSize")]
    total: usize,
    done: bool,
    #[serde(rename = "nextRecordsUrl", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    records: Vec<Shown<'a>>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Row(org::Row<'a>),
    Tree(Json),
}

fn page_size(request: &Request) -> usize {
    let options = request.header("sforce-query-options").unwrap_or_default();
    let asked = options
        .split([',', ';'])
        .find_map(|option| option.trim().strip_prefix("batchSize="));
    let size = asked.and_then(|text| text.trim().parse().ok());
    size.unwrap_or(*PAGE.end())
        .clamp(*PAGE.start(), *PAGE.end())
}

/// `/sobjects/{Type}/updated` and `/deleted`: ids by time, to the second.
pub fn replicated(object: &Object, request: &Request, deleted: bool) -> Answer {
    let time = |name: &str| {
        let text = request.param(name).unwrap_or_default();
        // A `+` that was not encoded arrives as a blank.
        let time = clock::parse_time(&text.replace(' ', "+"));
        let wrong = || {
            SfError::new(
                400,
                "INVALID_REPLICATION_DATE",
                format!("invalid {name}: {text}"),
            )
        };
        time.ok_or_else(wrong).map(|ms| ms.div_euclid(1000) * 1000)
    };
    let (start, end) = (time("start")?, time("end")?);
    let before_end = |(at, _): &(i64, u32)| *at < end;
    let changed: Vec<_> = match deleted {
        true => object.deleted_since(start).take_while(before_end).collect(),
        false => object.live_since(start).take_while(before_end).collect(),
    };
    let id = |slot: u32| org::record_id(object, slot);
    let body = match deleted {
        false => {
            let ids: Vec<_> = changed.iter().map(|(_, slot)| id(*slot)).collect();
            json!({"ids": ids, "latestDateCovered": clock::iso_offset(end)})
        }
        true => {
            let records: Vec<_> = changed
                .iter()
                .map(|(at, slot)| json!({"id": id(*slot), "deletedDate": clock::iso_offset(*at)}))
                .collect();
            json!({
                "deletedRecords": records,
                "earliestDateAvailable": clock::iso_offset(start - 30 * clock::DAY_MS),
                "latestDateCovered": clock::iso_offset(end),
            })
        }
    };
    Ok(Response::json(200, &body))
}
