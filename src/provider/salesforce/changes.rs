//! Changes, by SOQL: `queryAll` in the order of `SystemModstamp`.
//!
//! `SystemModstamp` and not `LastModifiedDate`, because it moves with every change, also those that
//! the system makes, and is never earlier. `queryAll` shows deleted records until they are purged
//! from the recycle bin, after 15 days at most; what was purged unseen is not told by it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::api::{Api, id_form};
use super::{errors, reads};
use crate::body::{Item, Listed};
use crate::change_scan::{self, ChangeScan, ScanPage, ScanQuery, ScanRow, ScanStep};
use crate::changes::{self, Change, ChangesPage, ChangesQuery, is_api_name};
use crate::errors::{refused, unreadable, unreadable_record};
use crate::moment;
use crate::operation::{Exchange, FailedOperation};
use crate::request::encode;
use crate::{BoxOperation, CrmObject, Method, Operation, Response, Settings, Step, wire};

/// Records in one answer of a query (REST API Developer Guide, "Query Options Header").
pub(super) const LIMIT: usize = 2000;

/// How late a record may become visible unless an option says otherwise: the time stamp is that of
/// the save, the record can be seen from the commit on.
const OVERLAP_SECONDS: i64 = 120;

/// Longest path and query. Address and headers end at 16,384 bytes together, and a token is long
/// too.
pub(super) const LONGEST_PATH: usize = 12_000;

const TIME: &str = "SystemModstamp";
const MODIFIED: &str = "LastModifiedDate";
const BY: &str = "LastModifiedById";
const DELETED: &str = "IsDeleted";
const MASTER: &str = "MasterRecordId";

/// Fields that not every object has. They are asked for until the CRM says that it knows them not.
const OPTIONAL: [&str; 4] = [DELETED, MODIFIED, BY, MASTER];

/// Objects whose records can be merged, and then say into which.
const MERGEABLE: [&str; 4] = ["Account", "Case", "Contact", "Lead"];

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    scan: ChangeScan,
    /// Optional fields that the object turned out not to have, as long as one pass lasts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    without: Vec<String>,
}

pub(super) fn changes(settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
    if let Some(name) = names(&query).find(|name| !is_api_name(name)) {
        return Box::new(FailedOperation::new(no_name(name)));
    }
    match changes::cursor(query.since.as_ref()) {
        Ok(cursor) => Box::new(Changes {
            api: Api::new(settings),
            overlap: change_scan::overlap(settings, OVERLAP_SECONDS),
            limit: query.limit.clamp(1, LIMIT),
            cursor,
            page: None,
            query,
        }),
        Err(failure) => Box::new(FailedOperation::new(failure)),
    }
}

/// What becomes part of a statement is a name first.
pub(super) fn no_name(name: &str) -> Failure {
    let message = format!("\"{name}\" cannot be the API name of an object or a field");
    Failure::record(ErrorClass::Mapping, "INVALID_FIELD", message)
}

/// How many records there are, deleted ones too: `SELECT COUNT()`.
pub(super) fn count(settings: &Settings, object: &str) -> BoxOperation<u64> {
    let text = format!("SELECT COUNT() FROM {object}");
    let path = format!("/queryAll?q={}", encode(&text));
    let request = Api::new(settings).request(Method::Get, path);
    Box::new(Exchange::new(request, |response| {
        errors::check(&response).map_err(refused)?;
        let total = response.json().and_then(|body| body["totalSize"].as_u64());
        total.ok_or_else(|| unreadable(&response))
    }))
}

/// All names that come from the mapping.
fn names(query: &ChangesQuery) -> impl Iterator<Item = &str> {
    let fields = query.fields.iter().map(|field| field.name.as_str());
    let key = query.external_id_field.as_deref();
    fields.chain(key).chain([query.object.as_str()])
}

struct Changes {
    api: Api,
    query: Arc<ChangesQuery>,
    limit: usize,
    overlap: i64,
    cursor: Cursor,
    /// A page that lacks the fields, because they do not fit a statement: they are being read.
    page: Option<ChangesPage>,
}

impl Changes {
    fn has(&self, optional: &str) -> bool {
        let mergeable = || {
            let object = &self.query.object;
            MERGEABLE
                .iter()
                .any(|name| name.eq_ignore_ascii_case(object))
        };
        let given_up = self.cursor.without.iter().any(|name| name == optional);
        !given_up && (optional != MASTER || mergeable())
    }

    fn is_mapped(&self, name: &str) -> bool {
        let fields = self.query.fields.iter().map(|field| &field.name);
        let mut names = fields.chain(&self.query.external_id_field);
        names.any(|held| held.eq_ignore_ascii_case(name))
    }

    /// The columns, each once: a statement that names one twice is refused.
    fn columns(&self, all: bool) -> Vec<&str> {
        let optional = OPTIONAL.into_iter().filter(|name| self.has(name));
        let key = self.query.external_id_field.as_deref();
        let fields = self.query.fields.iter().map(|field| field.name.as_str());
        let fields = fields.filter(|_| all);
        let mut seen = HashSet::new();
        let names = ["Id", TIME].into_iter().chain(optional).chain(key);
        let names = names.chain(fields);
        names
            .filter(|name| seen.insert(name.to_ascii_lowercase()))
            .collect()
    }

    fn path(&self, all: bool) -> String {
        let columns = self.columns(all).join(",");
        let (range, order) = match self.cursor.scan.query() {
            ScanQuery::Since(None) => (String::new(), "SystemModstamp,Id"),
            ScanQuery::Since(Some(at)) => (
                format!(" WHERE {TIME} >= {}", second(at)),
                "SystemModstamp,Id",
            ),
            ScanQuery::Within { second: at, after } => {
                let (from, to) = (second(at), second(at + moment::SECOND));
                let after = match after {
                    "" => String::new(),
                    id => format!(" AND Id > {}", quoted(id)),
                };
                let range = format!(" WHERE {TIME} >= {from} AND {TIME} < {to}{after}");
                (range, "Id")
            }
        };
        let (object, limit) = (&self.query.object, self.limit);
        let text = format!("SELECT {columns} FROM {object}{range} ORDER BY {order} LIMIT {limit}");
        format!("/queryAll?q={}", encode(&text))
    }

    /// The statement, and whether it asks for all fields.
    fn statement(&self) -> (String, bool) {
        let path = self.path(true);
        match path.len() <= LONGEST_PATH {
            true => (path, true),
            false => (self.path(false), false),
        }
    }

    fn ask(&self) -> Step<ChangesPage> {
        Step::Send(self.api.request(Method::Get, self.statement().0))
    }

    /// The optional field that a refusal complains of, if it may be done without.
    fn dispensable(&self, failure: &Failure) -> Option<&'static str> {
        let named = |name: &&str| failure.message.contains(&format!("'{name}'"));
        let asked = |name: &&str| self.has(name) && !self.is_mapped(name);
        let mut names = OPTIONAL.into_iter().filter(asked);
        names.find(|name| failure.code == "INVALID_FIELD" && named(name))
    }

    fn take(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        if let Some(failure) = errors::of_response(response) {
            let Some(name) = self.dispensable(&failure) else {
                return Err(refused(failure));
            };
            self.cursor.without.push(name.to_owned());
            return Ok(self.ask());
        }
        let listed = response.list("records");
        let Listed { items, rest } = listed.ok_or_else(|| unreadable(response))?;
        // The server may show fewer than asked for and say that it is not done.
        let full = rest["done"] == false || items.len() >= self.limit;
        let page = ScanPage {
            rows: items.into_iter().map(|item| self.row(item)).collect(),
            full,
            date: response.date(),
        };
        let all = self.statement().1;
        let ScanStep::Page { items, more } = self.cursor.scan.advance(page, self.overlap)? else {
            return Ok(self.ask());
        };
        if !more {
            self.cursor.without.clear();
        }
        let page = changes::page_of(items, changes::cursor_json(&self.cursor), more, false);
        let live = page.changes.iter().filter(|change| !change.deleted);
        let ids: Vec<String> = live.map(|change| change.object.crm_id.clone()).collect();
        if all || ids.is_empty() {
            return Ok(Step::Done(Ok(page)));
        }
        self.page = Some(page);
        let fields = self.query.fields.iter().map(|field| field.name.as_str());
        let mut seen = HashSet::new();
        let names = ["Id", MODIFIED]
            .into_iter()
            .filter(|name| *name == "Id" || self.has(name));
        let names = names.chain(fields);
        let names: Vec<&str> = names
            .filter(|name| seen.insert(name.to_ascii_lowercase()))
            .collect();
        let object = &self.query.object;
        Ok(Step::Send(reads::collection(
            &self.api,
            object,
            &ids,
            &names.join(","),
        )))
    }

    fn row(&self, item: Item) -> ScanRow<Change> {
        let Item { json, damage } = item;
        let record = record_of(json);
        let id = reads::held(&record, "Id").and_then(wire::id);
        let at = reads::held(&record, TIME).and_then(wire::moment);
        let deleted = reads::held(&record, DELETED).and_then(Json::as_bool) == Some(true);
        let key = self.query.external_id_field.as_deref();
        let key = key.and_then(|key| reads::held(&record, key));
        let (external_id, damage) = changes::keyed(key, damage);
        let no_time = || unreadable_record("it has no modification time");
        let object = CrmObject {
            crm_id: id.clone().unwrap_or_default(),
            modified_at: reads::held(&record, MODIFIED).and_then(wire::moment),
            fields: self.fields(&record),
            version: None,
            damage: damage.or_else(|| at.is_none().then(no_time)),
        };
        let master = reads::held(&record, MASTER).and_then(wire::id);
        let item = Change {
            external_id,
            merged_into: master.filter(|_| deleted),
            modified_by: reads::held(&record, BY).and_then(changes::modified_by),
            deleted,
            object,
        };
        ScanRow { at, id, item }
    }

    /// The asked fields in a record, by the names they were asked by.
    fn fields(&self, record: &Map<String, Json>) -> Map<String, Json> {
        let asked = self.query.fields.iter().map(|field| &field.name);
        let held =
            asked.filter_map(|name| Some((name.clone(), reads::held(record, name)?.clone())));
        held.collect()
    }

    /// Fills in what a statement had no room for. What is gone meanwhile comes again as deleted.
    fn fill(&self, mut page: ChangesPage, response: &Response) -> Result<ChangesPage, Failure> {
        errors::check(response).map_err(refused)?;
        let items = response.array().ok_or_else(|| unreadable(response))?;
        let items = items.into_iter().filter(|item| !item.is_nothing());
        let mut unidentified = 0;
        let mut found = HashMap::new();
        for Item { json, damage } in items {
            let record = record_of(json);
            match reads::held(&record, "Id").and_then(wire::id) {
                Some(id) => drop(found.insert(id_form(&id).to_owned(), (record, damage))),
                None => unidentified += 1,
            }
        }
        page.changes.retain_mut(|change| {
            if change.deleted {
                return true;
            }
            let Some((record, damage)) = found.get(id_form(&change.object.crm_id)) else {
                // It may be one of which cannot be read which it is.
                if unidentified > 0 && change.object.damage.is_none() {
                    change.object.damage = Some(unreadable_record("its fields do not name it"));
                }
                return unidentified > 0;
            };
            let modified_at = reads::held(record, MODIFIED).and_then(wire::moment);
            change.object.modified_at = modified_at.or(change.object.modified_at);
            change.object.fields = self.fields(record);
            change.object.damage = change.object.damage.take().or_else(|| damage.clone());
            true
        });
        Ok(page)
    }
}

/// The members of a record; what is no object has none.
fn record_of(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(record) => record,
        _ => Map::new(),
    }
}

impl Operation<ChangesPage> for Changes {
    fn step(&mut self, answer: Option<Response>) -> Step<ChangesPage> {
        let Some(response) = answer else {
            return self.ask();
        };
        let step = match self.page.take() {
            Some(page) => self.fill(page, &response).map(|page| Step::Done(Ok(page))),
            None => self.take(&response),
        };
        step.unwrap_or_else(|failure| Step::Done(Err(failure)))
    }
}

/// A whole second as a literal.
fn second(ms: i64) -> String {
    let text = moment::text(ms);
    format!("{}Z", text.get(..19).unwrap_or(&text))
}

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
