//! Changes, by the list of an object's records in the order of their last change.
//!
//! What that list does not show is looked for elsewhere, at the end of a pass and seldom: archived
//! deals in a list of their own, deleted records of the other objects among what has changed
//! lately. Deleted deals are in the list itself.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::answers::{Page, go_on, page};
use super::lookup::PAGE;
use super::objects::{Elsewhere, Object, Version};
use super::values::{self, second};
use crate::change_scan::{self, ChangeScan, ScanPage, ScanQuery, ScanRow, ScanStep};
use crate::changes::{self, Change, ChangesPage, ChangesQuery};
use crate::errors::unreadable_record;
use crate::list_scan::ListScan;
use crate::moment::SECOND;
use crate::operation::FailedOperation;
use crate::request::encode;
use crate::{BoxOperation, CrmObject, Method, Operation, Request, Response, Settings, Step};

/// How late a record may become visible unless an option says otherwise.
pub(super) const OVERLAP_SECONDS: i64 = 120;

/// How long deleted records are kept (API Reference, "Delete a person": 30 days).
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * SECOND;

/// How often it is looked elsewhere: each time costs up to 20 of the day's tokens.
const ELSEWHERE_MS: i64 = 15 * 60 * SECOND;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    scan: ChangeScan,
    /// Where a second goes on that holds more than a page. The vendor's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    #[serde(default)]
    elsewhere: ListScan,
}

pub(super) fn changes(
    settings: &Settings,
    object: &'static Object,
    query: Arc<ChangesQuery>,
) -> BoxOperation<ChangesPage> {
    match changes::cursor::<Cursor>(query.since.as_ref()) {
        Ok(cursor) => Box::new(Changes {
            overlap: change_scan::overlap(settings, OVERLAP_SECONDS),
            limit: query.limit.clamp(1, PAGE),
            is_elsewhere: cursor.elsewhere.after().is_some(),
            found: Vec::new(),
            object,
            cursor,
            query,
        }),
        Err(failure) => Box::new(FailedOperation::new(failure)),
    }
}

struct Changes {
    object: &'static Object,
    query: Arc<ChangesQuery>,
    limit: usize,
    overlap: i64,
    cursor: Cursor,
    /// Whether the request under way looks elsewhere.
    is_elsewhere: bool,
    found: Vec<Change>,
}

impl Changes {
    fn ask(&self) -> Step<ChangesPage> {
        Step::Send(match (self.is_elsewhere, self.object.elsewhere) {
            (false, _) => self.list(),
            (true, Elsewhere::Recents) => self.recents(),
            (true, _) => self.archived(),
        })
    }

    fn list(&self) -> Request {
        let time = match self.object.version {
            Version::V1 => "&sort=update_time%20ASC",
            Version::V2 => "&sort_by=update_time&sort_direction=asc",
        };
        let since = |at: i64| format!("&updated_since={}", encode(&second(at)));
        let range = match self.cursor.scan.query() {
            ScanQuery::Since(None) => time.to_owned(),
            ScanQuery::Since(Some(at)) => time.to_owned() + &since(at),
            ScanQuery::Within { second: at, .. } => {
                let page = go_on(self.object, self.cursor.page.as_deref());
                let order = match self.object.has_until {
                    true => {
                        let until = encode(&second(at + SECOND)).to_string();
                        format!("&sort_by=id&sort_direction=asc&updated_until={until}")
                    }
                    false => time.to_owned(),
                };
                order + &since(at) + &page
            }
        };
        self.request("", &range)
    }

    /// A list of records in the mapped fields, deleted ones among them if there is a way.
    fn request(&self, list: &str, rest: &str) -> Request {
        let mut path = format!("{list}?limit={}{rest}", self.limit);
        if self.object.elsewhere == Elsewhere::Archived {
            path.push_str("&status=open,won,lost,deleted");
        }
        let names = self.query.fields.iter().map(|field| field.name.as_str());
        let names = names.chain(self.query.external_id_field.as_deref());
        path.push_str(&self.object.wanted(names));
        self.object.request(Method::Get, path)
    }

    fn archived(&self) -> Request {
        let scan = &self.cursor.elsewhere;
        let since = scan
            .since()
            .map(|at| format!("&updated_since={}", encode(&second(at))));
        let page = go_on(self.object, scan.after());
        let order = "&sort_by=update_time&sort_direction=asc";
        self.request(
            "/archived",
            &format!("{order}{}{page}", since.unwrap_or_default()),
        )
    }

    fn recents(&self) -> Request {
        let scan = &self.cursor.elsewhere;
        let since = second(scan.since().unwrap_or_default());
        // `2026-01-02 03:04:05`, in UTC.
        let since = since.replace('T', " ").replace('Z', "");
        let start = scan.after().unwrap_or("0");
        Request::new(
            Method::Get,
            format!(
                "/api/v1/recents?since_timestamp={}&items={}&start={}&limit={PAGE}",
                encode(&since),
                self.object.word,
                encode(start)
            ),
        )
    }

    fn take(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let held = match self.is_elsewhere {
            true => self.cursor.elsewhere.after().is_some(),
            false => self.cursor.page.is_some(),
        };
        match page(response) {
            Ok(page) if self.is_elsewhere => self.take_elsewhere(page, response.date()),
            Ok(page) => self.take_list(page, response),
            // The text by which the list was to go on is not taken any more: from the start, then.
            Err(failure) if held && is_refusal(&failure) => {
                match self.is_elsewhere {
                    true => self.cursor.elsewhere.restart(),
                    false => {
                        self.cursor.page = None;
                        self.cursor.scan.restart_second();
                    }
                }
                Ok(self.ask())
            }
            // Version 1 goes out of use one day; what else is told does not depend on it.
            Err(failure)
                if self.is_elsewhere
                    && self.object.elsewhere == Elsewhere::Recents
                    && is_refusal(&failure) =>
            {
                self.take_elsewhere(Page::default(), response.date())
            }
            Err(failure) => Err(failure),
        }
    }

    fn take_list(&mut self, page: Page, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let within = match self.cursor.scan.query() {
            ScanQuery::Within { second, .. } => Some(second..second + SECOND),
            ScanQuery::Since(_) => None,
        };
        let mut rows = Vec::with_capacity(page.records.len());
        let mut next = page.next;
        for item in page.records {
            let row = self.row(&item.json, item.damage);
            // A list without an end goes on beyond the second.
            let is_within = |at| within.as_ref().is_none_or(|within| within.contains(&at));
            match row.at.is_none_or(is_within) {
                true => rows.push(row),
                false => next = None,
            }
        }
        let date = response.date();
        let page = ScanPage {
            rows,
            full: next.is_some(),
            date,
        };
        let taken = self.cursor.scan.advance(page, self.overlap)?;
        self.cursor.page = next.filter(|_| within.is_some());
        let ScanStep::Page { items, more } = taken else {
            return Ok(self.ask());
        };
        self.found.extend(items);
        let scan = &mut self.cursor.elsewhere;
        if more || !scan.is_due(date) || self.object.elsewhere == Elsewhere::Nowhere {
            return Ok(self.page(more));
        }
        if self.object.elsewhere == Elsewhere::Recents {
            scan.begin(date.map(|date| date - KEPT_MS));
        }
        self.is_elsewhere = true;
        Ok(self.ask())
    }

    fn take_elsewhere(
        &mut self,
        page: Page,
        date: Option<i64>,
    ) -> Result<Step<ChangesPage>, Failure> {
        let scan = &mut self.cursor.elsewhere;
        let more = scan.advance(page.next, date, self.overlap, |_| ELSEWHERE_MS)?;
        let is_recents = self.object.elsewhere == Elsewhere::Recents;
        let told = page
            .records
            .into_iter()
            .filter_map(|item| match is_recents {
                // The list itself has told of those that are there.
                true => {
                    let row = self.row(&item.json["data"], item.damage);
                    row.item.deleted.then_some(row.item)
                }
                false => Some(self.row(&item.json, item.damage).item),
            });
        let told: Vec<Change> = told.collect();
        self.found.extend(told);
        Ok(self.page(more))
    }

    fn row(&self, record: &Json, damage: Option<Failure>) -> ScanRow<Change> {
        let id = values::id(record);
        let at = values::modified_at(record);
        let names = self.query.fields.iter().map(|field| field.name.as_str());
        let key = self.query.external_id_field.as_deref();
        let key = key.map(|key| values::held(record, key));
        let (external_id, damage) = changes::keyed(key, damage);
        let no_time = || unreadable_record("it has no modification time");
        let item = Change {
            external_id,
            deleted: values::is_deleted(record),
            object: CrmObject {
                crm_id: id.clone().unwrap_or_default(),
                fields: values::fields(record, names),
                modified_at: at,
                version: None,
                damage: damage.or_else(|| at.is_none().then(no_time)),
            },
            ..Change::default()
        };
        ScanRow { at, id, item }
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
