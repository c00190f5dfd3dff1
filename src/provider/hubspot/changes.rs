//! Changes, by search in the order of the last-modified property.
//!
//! What search does not show is found otherwise. Archived records are looked through by the list of
//! them, once a pass has come to its end. Merged records are told by the one that took them in.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::api::object_path;
use super::errors;
use super::reads::modified_property;
use crate::body::{Item, Listed};
use crate::change_scan::{self, ChangeScan, ScanPage, ScanQuery, ScanRow, ScanStep};
use crate::changes::{self, Change, ChangesPage, ChangesQuery};
use crate::errors::{refused, unreadable, unreadable_record};
use crate::list_scan::ListScan;
use crate::moment;
use crate::operation::{Exchange, FailedOperation};
use crate::request::encode;
use crate::{BoxOperation, CrmObject, Method, Operation, Request, Response, Settings, Step, wire};

/// Results in one page of a search.
const SEARCH_LIMIT: usize = 200;
/// Results in one page of a list.
const LIST_LIMIT: usize = 100;

/// How late a record may become visible unless an option says otherwise: the index of the search
/// follows the records within seconds mostly, and sometimes within minutes.
const OVERLAP_SECONDS: i64 = 300;

/// The list of archived records cannot be asked for the new ones alone, so it is read whole. It is
/// read in each pass if it is one page; and so seldom that its further pages are one in 6 seconds.
const PAGE_MS: i64 = 6000;

const NO_TIME: &str = "it has no modification time";

const ID: &str = "hs_object_id";
/// Who changed a record last; empty where it was no person. An object without it shows nothing.
const BY: &str = "hs_updated_by_user_id";
/// Which records a record took in: its ids, and the older form of contacts, with times.
const MERGED: &str = "hs_merged_object_ids";
const MERGED_VIDS: &str = "hs_calculated_merged_vids";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    scan: ChangeScan,
    archived: ListScan,
}

pub(super) fn changes(settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
    match changes::cursor::<Cursor>(query.since.as_ref()) {
        Ok(cursor) => Box::new(Changes {
            overlap: change_scan::overlap(settings, OVERLAP_SECONDS),
            limit: query.limit.clamp(1, SEARCH_LIMIT),
            listing: cursor.archived.after().is_some(),
            cursor,
            found: Vec::new(),
            query,
        }),
        Err(failure) => Box::new(FailedOperation::new(failure)),
    }
}

struct Changes {
    query: Arc<ChangesQuery>,
    limit: usize,
    overlap: i64,
    cursor: Cursor,
    /// Whether the request under way is for archived records.
    listing: bool,
    found: Vec<Change>,
}

/// A page of a search or of a list.
struct Answer {
    results: Vec<Item>,
    after: Option<String>,
}

/// How many records there are, as a search for all of them says.
pub(super) fn count(object: &str) -> BoxOperation<u64> {
    let request = Request::new(Method::Post, format!("{}/search", object_path(object)))
        .json(&json!({ "filterGroups": [], "properties": [ID], "limit": 1, "after": "0" }))
        .repeatable();
    Box::new(Exchange::new(request, |response| {
        errors::check(&response).map_err(refused)?;
        let total = response.json().and_then(|body| body["total"].as_u64());
        total.ok_or_else(|| unreadable(&response))
    }))
}

impl Answer {
    fn of(response: &Response) -> Result<Answer, Failure> {
        errors::check(response).map_err(refused)?;
        let listed = response.list("results");
        let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
        Ok(Answer {
            results: items,
            after: wire::scalar_text(&rest["paging"]["next"]["after"]),
        })
    }
}

impl Changes {
    fn ask(&self) -> Step<ChangesPage> {
        Step::Send(match self.listing {
            true => self.list(),
            false => self.search(),
        })
    }

    fn search(&self) -> Request {
        let modified = modified_property(&self.query.object);
        let filter = |name: &str, operator: &str, value: String| json!({ "propertyName": name, "operator": operator, "value": value });
        let (filters, sort) = match self.cursor.scan.query() {
            ScanQuery::Since(None) => (vec![], modified),
            ScanQuery::Since(Some(at)) => (vec![filter(modified, "GTE", at.to_string())], modified),
            ScanQuery::Within { second, after } => {
                let end = second + moment::SECOND;
                let mut filters = vec![
                    filter(modified, "GTE", second.to_string()),
                    filter(modified, "LT", end.to_string()),
                ];
                if !after.is_empty() {
                    filters.push(filter(ID, "GT", after.to_owned()));
                }
                (filters, ID)
            }
        };
        let groups: Vec<Json> = match filters.is_empty() {
            true => Vec::new(),
            false => vec![json!({ "filters": filters })],
        };
        let mut properties: Vec<&str> = vec![modified, BY, MERGED];
        if modified == "lastmodifieddate" {
            properties.push(MERGED_VIDS);
        }
        let fields = self.query.fields.iter().map(|field| field.name.as_str());
        for name in fields.chain(self.query.external_id_field.as_deref()) {
            if !properties.contains(&name) {
                properties.push(name);
            }
        }
        // A search takes one sort, and asks for all of these keys.
        Request::new(
            Method::Post,
            format!("{}/search", object_path(&self.query.object)),
        )
        .json(&json!({
            "filterGroups": groups,
            "sorts": [{ "propertyName": sort, "direction": "ASCENDING" }],
            "properties": properties,
            "limit": self.limit,
            "after": "0",
        }))
        .repeatable()
    }

    fn list(&self) -> Request {
        let limit = self.limit.min(LIST_LIMIT);
        let path = object_path(&self.query.object);
        let mut path = format!("{path}?archived=true&limit={limit}");
        let modified = modified_property(&self.query.object);
        let key = self.query.external_id_field.as_deref();
        let names: Vec<String> = [modified]
            .into_iter()
            .chain(key)
            .map(|name| encode(name).to_string())
            .collect();
        path.push_str(&format!("&properties={}", names.join(",")));
        if let Some(after) = self.cursor.archived.after() {
            path.push_str(&format!("&after={}", encode(after)));
        }
        Request::new(Method::Get, path)
    }

    fn take(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        match self.listing {
            true => self.take_list(response),
            false => self.take_search(response),
        }
    }

    fn take_search(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let answer = Answer::of(response)?;
        let full = answer.after.is_some() || answer.results.len() >= self.limit;
        let rows = answer.results.into_iter().map(|found| self.row(found));
        let page = ScanPage {
            rows: rows.collect(),
            full,
            date: response.date(),
        };
        let ScanStep::Page { items, more } = self.cursor.scan.advance(page, self.overlap)? else {
            return Ok(self.ask());
        };
        self.found.extend(items.into_iter().flatten());
        if more {
            return Ok(self.page(true));
        }
        if !self.cursor.archived.is_due(response.date()) {
            return Ok(self.page(false));
        }
        self.listing = true;
        Ok(self.ask())
    }

    /// A record, and those that it took in.
    fn row(&self, found: Item) -> ScanRow<Vec<Change>> {
        let Item { mut json, damage } = found;
        let id = wire::id(&json["id"]);
        let updated_at = wire::member(&mut json, "updatedAt");
        let mut properties = match wire::member(&mut json, "properties") {
            Json::Object(properties) => properties,
            _ => Map::new(),
        };
        let modified = properties
            .get(modified_property(&self.query.object))
            .filter(|at| !at.is_null());
        let at = wire::moment(modified.unwrap_or(&updated_at));
        let (external_id, damage) = changes::keyed(self.key(&properties), damage);
        let damage = damage.or_else(|| at.is_none().then(|| unreadable_record(NO_TIME)));
        let losers = match &id {
            Some(id) => losers(id, &properties),
            None => Vec::new(),
        };
        // As webhooks spell it.
        let by = properties.get(BY).and_then(changes::modified_by);
        let by = by.map(|user| format!("userId:{user}"));
        let asked = self.query.fields.iter();
        let fields = asked.filter_map(|field| properties.remove_entry(&field.name));
        let change = Change {
            object: CrmObject {
                crm_id: id.clone().unwrap_or_default(),
                fields: fields.collect(),
                modified_at: at,
                version: None,
                damage,
            },
            external_id,
            modified_by: by,
            ..Change::default()
        };
        let gone = losers.into_iter().map(|loser| Change {
            object: CrmObject {
                crm_id: loser,
                modified_at: at,
                ..CrmObject::default()
            },
            deleted: true,
            merged_into: id.clone(),
            ..Change::default()
        });
        let item = std::iter::once(change).chain(gone).collect();
        ScanRow { at, id, item }
    }

    fn key<'a>(&self, properties: &'a Map<String, Json>) -> Option<&'a Json> {
        properties.get(self.query.external_id_field.as_deref()?)
    }

    fn take_list(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let answer = match Answer::of(response) {
            Ok(answer) => answer,
            // The text by which the list was to go on is not taken any more: from the start, then.
            Err(failure) if self.cursor.archived.after().is_some() && is_refusal(&failure) => {
                self.cursor.archived.restart();
                return Ok(self.ask());
            }
            Err(failure) => return Err(failure),
        };
        let since = self.cursor.archived.since();
        let pause = |pages: u32| i64::from(pages.saturating_sub(1)) * PAGE_MS;
        let scan = &mut self.cursor.archived;
        let more = scan.advance(answer.after, response.date(), self.overlap, pause)?;
        for Item { json, damage } in answer.results {
            let at = wire::moment(&json["archivedAt"]);
            if at.zip(since).is_some_and(|(at, since)| at < since) {
                continue;
            }
            let key = json["properties"].as_object().and_then(|p| self.key(p));
            let (external_id, damage) = changes::keyed(key, damage);
            self.found.push(Change {
                object: CrmObject {
                    modified_at: at.or_else(|| wire::moment(&json["updatedAt"])),
                    crm_id: wire::id(&json["id"]).unwrap_or_default(),
                    damage,
                    ..CrmObject::default()
                },
                external_id,
                deleted: true,
                ..Change::default()
            });
        }
        Ok(self.page(more))
    }

    fn page(&mut self, more: bool) -> Step<ChangesPage> {
        changes::page(&mut self.found, &self.cursor, more)
    }
}

impl Operation<ChangesPage> for Changes {
    fn step(&mut self, answer: Option<Response>) -> Step<ChangesPage> {
        match answer {
            None => self.ask(),
            Some(response) => self
                .take(&response)
                .unwrap_or_else(|failure| Step::Done(Err(failure))),
        }
    }
}

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.class, ErrorClass::Validation | ErrorClass::Mapping)
}

/// The ids of the records that this one took in: `51;52`, or with times `51:1700000000000;52:…`.
fn losers(own: &str, properties: &Map<String, Json>) -> Vec<String> {
    let lists = [MERGED, MERGED_VIDS].map(|name| properties.get(name));
    let texts = lists.into_iter().flatten().filter_map(Json::as_str);
    let ids = texts.flat_map(|text| text.split(';'));
    let mut losers: Vec<String> = Vec::new();
    for id in ids.map(|id| id.split(':').next().unwrap_or_default().trim()) {
        let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        if is_id && id != own && !losers.iter().any(|held| held == id) {
            losers.push(id.to_owned());
        }
    }
    losers
}
