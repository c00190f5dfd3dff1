//! Changes, by COQL in the order of `Modified_Time`; deleted records, by their own list at the end
//! of a pass.

use std::collections::HashMap;
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::module_path;
use super::errors;
use super::reads::{self, FIELDS, MODIFIED, Reading};
use super::values::second;
use crate::body::{Item, Listed};
use crate::change_scan::{self, ChangeScan, ScanPage, ScanQuery, ScanRow, ScanStep};
use crate::changes::{self, Change, ChangesPage, ChangesQuery, is_api_name};
use crate::errors::{refused, unreadable, unreadable_record};
use crate::list_scan::ListScan;
use crate::moment::SECOND;
use crate::operation::{Exchange, FailedOperation};
use crate::success::zoho as success;
use crate::{
    BoxOperation, CrmObject, Method, Operation, ReadBatch, Request, Response, Settings, Step, wire,
};

/// Rows of one query, for which it costs one credit ("Query API", overview).
const LIMIT: usize = 200;

/// How late a record may become visible unless an option says otherwise.
const OVERLAP_SECONDS: i64 = 120;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    scan: ChangeScan,
    #[serde(default)]
    deleted: ListScan,
}

pub(super) fn changes(settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
    if let Some(name) = names(&query).find(|name| !is_api_name(name)) {
        return Box::new(FailedOperation::new(no_name(name)));
    }
    match changes::cursor::<Cursor>(query.since.as_ref()) {
        Ok(cursor) => Box::new(Changes {
            overlap: change_scan::overlap(settings, OVERLAP_SECONDS),
            limit: query.limit.clamp(1, LIMIT),
            stage: match cursor.deleted.after() {
                Some(_) => Stage::Deleted,
                None => Stage::Query,
            },
            found: Vec::new(),
            more: false,
            cursor,
            query,
        }),
        Err(failure) => Box::new(FailedOperation::new(failure)),
    }
}

/// What becomes part of a query is a name first.
pub(super) fn no_name(name: &str) -> Failure {
    let message = format!("\"{name}\" cannot be the API name of a module or a field");
    Failure::record(ErrorClass::Mapping, "INVALID_QUERY", message)
}

/// How many records there are that are not deleted.
pub(super) fn count(object: &str) -> BoxOperation<u64> {
    let path = format!("{}/actions/count", module_path(object));
    let request = Request::new(Method::Get, path);
    Box::new(Exchange::new(request, |response| {
        errors::check(&response).map_err(refused)?;
        let count = response.json().and_then(|body| body["count"].as_u64());
        count.ok_or_else(|| unreadable(&response))
    }))
}

/// All names that come from the mapping.
fn names(query: &ChangesQuery) -> impl Iterator<Item = &str> {
    let fields = query.fields.iter().map(|field| field.name.as_str());
    let key = query.external_id_field.as_deref();
    fields.chain(key).chain([query.object.as_str()])
}

enum Stage {
    Query,
    /// The fields are being read that have no room in a query.
    Fields(Reading),
    Deleted,
}

struct Changes {
    query: Arc<ChangesQuery>,
    limit: usize,
    overlap: i64,
    cursor: Cursor,
    stage: Stage,
    found: Vec<Change>,
    /// Whether the query has more to tell.
    more: bool,
}

impl Changes {
    fn has_room(&self) -> bool {
        self.query.fields.len() < FIELDS
    }

    fn ask(&mut self) -> Step<ChangesPage> {
        match &mut self.stage {
            Stage::Query => Step::Send(self.coql()),
            Stage::Deleted => Step::Send(self.deleted()),
            Stage::Fields(reading) => {
                let step = reading.step(None);
                self.filled(step, None)
            }
        }
    }

    fn coql(&self) -> Request {
        let fields = self.query.fields.iter().map(|field| field.name.as_str());
        let fields = fields.filter(|_| self.has_room());
        let mut names = vec!["id", MODIFIED];
        for name in self
            .query
            .external_id_field
            .as_deref()
            .into_iter()
            .chain(fields)
        {
            if !names.iter().any(|held| held.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
        let (range, order) = match self.cursor.scan.query() {
            // A query without a condition is refused.
            ScanQuery::Since(None) => (
                "id is not null".to_owned(),
                format!("{MODIFIED} asc, id asc"),
            ),
            ScanQuery::Since(Some(at)) => (
                format!("{MODIFIED} >= '{}'", second(at)),
                format!("{MODIFIED} asc, id asc"),
            ),
            ScanQuery::Within { second: at, after } => {
                let (from, to) = (second(at), second(at + SECOND));
                let within = format!("({MODIFIED} >= '{from}' and {MODIFIED} < '{to}')");
                let range = match after {
                    "" => within,
                    id => format!("({within} and id > {})", quoted(id)),
                };
                (range, "id asc".to_owned())
            }
        };
        let (names, object, limit) = (names.join(", "), &self.query.object, self.limit);
        let text =
            format!("select {names} from {object} where {range} order by {order} limit {limit}");
        Request::new(Method::Post, "/crm/v8/coql")
            .success(success::LIST)
            .json(&json!({ "select_query": text }))
            .repeatable()
    }

    fn deleted(&self) -> Request {
        let scan = &self.cursor.deleted;
        let page = scan.after().unwrap_or("1");
        let path = module_path(&self.query.object);
        let path = format!("{path}/deleted?type=all&per_page=200&page={page}");
        let request = Request::new(Method::Get, path).success(success::LIST);
        match scan.since() {
            Some(at) => request.header("if-modified-since", second(at)),
            None => request,
        }
    }

    fn take_query(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let answer = answer(response)?;
        let rows = answer.records.into_iter().map(|item| self.row(item));
        let rows: Vec<_> = rows.collect();
        let page = ScanPage {
            full: answer.more || rows.len() >= self.limit,
            date: response.date(),
            rows,
        };
        let ScanStep::Page { items, more } = self.cursor.scan.advance(page, self.overlap)? else {
            return Ok(self.ask());
        };
        self.found = items;
        self.more = more;
        if self.has_room() || self.found.is_empty() {
            return Ok(self.go_on(response.date()));
        }
        let known = self
            .found
            .iter()
            .filter(|change| !change.object.crm_id.is_empty());
        let ids = known.map(|change| change.object.crm_id.clone());
        let batch = ReadBatch {
            object: self.query.object.clone(),
            ids: ids.take(reads::LIMIT).collect(),
            fields: self.query.fields.clone(),
            for_write: false,
        };
        self.stage = Stage::Fields(Reading::new(Arc::new(batch)));
        Ok(self.ask())
    }

    /// What becomes of a read of fields.
    fn filled(
        &mut self,
        step: Step<Vec<Option<CrmObject>>>,
        date: Option<i64>,
    ) -> Step<ChangesPage> {
        let objects = match step {
            Step::Send(request) => return Step::Send(request),
            Step::Wait(time) => return Step::Wait(time),
            Step::Done(Err(failure)) => return Step::Done(Err(failure)),
            Step::Done(Ok(objects)) => objects,
        };
        let objects = objects.into_iter().flatten();
        let mut objects: HashMap<String, CrmObject> = objects
            .map(|object| (object.crm_id.clone(), object))
            .collect();
        // What is gone meanwhile comes again as deleted.
        self.found
            .retain_mut(|change| match objects.remove(&change.object.crm_id) {
                Some(object) => {
                    let damage = change.object.damage.take();
                    change.object = CrmObject {
                        version: None,
                        damage: damage.or(object.damage),
                        ..object
                    };
                    true
                }
                None => change.object.crm_id.is_empty(),
            });
        self.go_on(date)
    }

    /// After a page of the query: the list of deleted records follows the last one.
    fn go_on(&mut self, date: Option<i64>) -> Step<ChangesPage> {
        self.stage = Stage::Query;
        if self.more || !self.cursor.deleted.is_due(date) {
            return self.page(self.more);
        }
        self.stage = Stage::Deleted;
        self.ask()
    }

    fn take_deleted(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let answer = answer(response)?;
        for Item { json, damage } in answer.records {
            self.found.push(Change {
                object: CrmObject {
                    crm_id: wire::id(&json["id"]).unwrap_or_default(),
                    modified_at: wire::moment(&json["deleted_time"]),
                    damage,
                    ..CrmObject::default()
                },
                deleted: true,
                modified_by: changes::modified_by(&json["deleted_by"]["id"]),
                ..Change::default()
            });
        }
        let page: u32 = self
            .cursor
            .deleted
            .after()
            .and_then(|page| page.parse().ok())
            .unwrap_or(1);
        let next = answer.more.then(|| (page + 1).to_string());
        let scan = &mut self.cursor.deleted;
        let more = scan.advance(next, response.date(), self.overlap, |_| 0)?;
        Ok(self.page(more))
    }

    fn row(&self, item: Item) -> ScanRow<Change> {
        let Item {
            json: record,
            damage,
        } = item;
        let id = wire::id(&record["id"]);
        let at = wire::moment(&record[MODIFIED]);
        let key = self.query.external_id_field.as_deref();
        let (external_id, damage) = changes::keyed(key.and_then(|key| record.get(key)), damage);
        let names = self.query.fields.iter().map(|field| &field.name);
        let held = names.filter_map(|name| Some((name.clone(), record.get(name)?.clone())));
        let no_time = || unreadable_record("it has no modification time");
        let item = Change {
            external_id,
            object: CrmObject {
                crm_id: id.clone().unwrap_or_default(),
                fields: held.collect(),
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

struct Answer {
    records: Vec<Item>,
    more: bool,
}

fn answer(response: &Response) -> Result<Answer, Failure> {
    // Nothing was changed since the time that was asked about.
    if response.status == 304 {
        return Ok(Answer {
            records: Vec::new(),
            more: false,
        });
    }
    let Listed { items, rest } = reads::records(response)?;
    Ok(Answer {
        records: items,
        more: rest["info"]["more_records"] == true,
    })
}

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl Operation<ChangesPage> for Changes {
    fn step(&mut self, answer: Option<Response>) -> Step<ChangesPage> {
        let Some(response) = answer else {
            return self.ask();
        };
        let step = match &mut self.stage {
            Stage::Query => self.take_query(&response),
            Stage::Deleted => self.take_deleted(&response),
            Stage::Fields(reading) => {
                let date = response.date();
                let step = reading.step(Some(response));
                return self.filled(step, date);
            }
        };
        step.unwrap_or_else(|failure| Step::Done(Err(failure)))
    }
}
