//! Changes, by Dataverse's change tracking: all rows once, and from then on what its delta links
//! report, including deleted rows.
//!
//! Guarantees: a link goes to the connection's own host alone, and asks for the columns that are
//! mapped now; a link that has lapsed is followed by a pass through all rows. Such a pass tells
//! nothing of rows that were deleted before it, and says so ([`ChangesPage::deletions_unknown`]).

use std::borrow::Cow;
use std::sync::Arc;

use crm_domain::{ErrorClass, Failure};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{self, MODIFIED};
use super::describe::unknown_set;
use super::{api, errors};
use crate::body::{Item, Listed};
use crate::changes::{self, Change, ChangesPage, ChangesQuery};
use crate::errors::{refused, unreadable};
use crate::operation::FailedOperation;
use crate::request::encode;
use crate::{BoxOperation, CrmObject, Method, Operation, Request, Response, Step, wire};

/// Rows in one page ("Page results").
const LIMIT: usize = 5000;

const MODIFIED_BY: &str = "_modifiedby_value";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// The column that holds a row's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_column: Option<String>,
    /// Where to go on. The vendor's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Whether the link is within a pass, and not where the next one begins.
    #[serde(default)]
    within: bool,
}

pub(super) fn changes(query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
    match changes::cursor::<Cursor>(query.since.as_ref()) {
        Ok(cursor) => Box::new(Changes {
            limit: query.limit.clamp(1, LIMIT),
            deletions_unknown: cursor.link.is_none(),
            query,
            cursor,
        }),
        Err(failure) => Box::new(FailedOperation::new(failure)),
    }
}

struct Changes {
    query: Arc<ChangesQuery>,
    limit: usize,
    cursor: Cursor,
    /// Whether all rows are being read from the first one on.
    deletions_unknown: bool,
}

impl Changes {
    fn ask(&self) -> Result<Request, Failure> {
        let (Some(_), link) = (&self.cursor.id_column, &self.cursor.link) else {
            return Ok(self.definition());
        };
        let size = format!("odata.maxpagesize={}", self.limit);
        let tracked = format!("odata.track-changes,{size}");
        Ok(match link {
            None => {
                let path = format!("{}?$select={}", encode(&self.query.object), self.select());
                api::request(Method::Get, path).header("prefer", tracked)
            }
            Some(link) => {
                let link = selecting(link, &self.select());
                let request = api::follow(&link).ok_or_else(strange_link)?;
                let preference = if self.cursor.within { tracked } else { size };
                request.header("prefer", preference)
            }
        })
    }

    /// Asks what the table calls its ids, and whether its changes are tracked.
    fn definition(&self) -> Request {
        let set = format!("'{}'", self.query.object.replace('\'', "''"));
        let filter = encode(&format!("EntitySetName eq {set}")).to_string();
        let columns = "LogicalName,PrimaryIdAttribute,ChangeTrackingEnabled";
        let path = format!("EntityDefinitions?$select={columns}&$filter={filter}");
        api::request(Method::Get, path)
    }

    fn select(&self) -> String {
        let fields = self.query.fields.iter();
        let names = fields.map(|field| columns::read_name(field));
        let key = self.query.external_id_field.as_deref().map(Cow::Borrowed);
        let own = [MODIFIED.into(), MODIFIED_BY.into()];
        columns::select(own.into_iter().chain(key).chain(names))
    }

    fn take(&mut self, response: &Response) -> Result<Step<ChangesPage>, Failure> {
        let failure = errors::of_response(response).map(refused);
        match failure {
            // The link is not taken any more: all rows again, then.
            Some(failure) if self.cursor.link.is_some() && has_lapsed(&failure) => {
                self.cursor.link = None;
                self.cursor.within = false;
                self.deletions_unknown = true;
                return Ok(Step::Send(self.ask()?));
            }
            Some(failure) => return Err(failure),
            None => {}
        }
        match self.cursor.id_column.clone() {
            None => {
                let body = response.json().ok_or_else(|| unreadable(response))?;
                self.cursor.id_column = Some(self.defined(&body)?);
                Ok(Step::Send(self.ask()?))
            }
            Some(id_column) => {
                let listed = response.list("value");
                self.page(&id_column, listed.ok_or_else(|| unreadable(response))?)
            }
        }
    }

    fn defined(&self, body: &Json) -> Result<String, Failure> {
        let object = &self.query.object;
        let table = &body["value"][0];
        let Some(id_column) = table["PrimaryIdAttribute"].as_str() else {
            return Err(unknown_set(object));
        };
        match table["ChangeTrackingEnabled"] == false {
            true => Err(untracked(object)),
            false => Ok(id_column.to_owned()),
        }
    }

    fn page(&mut self, id_column: &str, listed: Listed) -> Result<Step<ChangesPage>, Failure> {
        let Listed { items, rest } = listed;
        let found = items.into_iter().map(|item| self.change(id_column, item));
        let found: Vec<Change> = found.collect();
        let link = |name: &str| rest[name].as_str().map(str::to_owned);
        let next = link("@odata.nextLink");
        let more = next.is_some();
        let went_on = next.or_else(|| link("@odata.deltaLink"));
        if more && went_on == self.cursor.link {
            let message = "the list continues at a page that was already read";
            return Err(Failure::record(
                ErrorClass::Internal,
                "no_progress",
                message,
            ));
        }
        self.cursor.link = Some(went_on.ok_or_else(|| untracked(&self.query.object))?);
        self.cursor.within = more;
        let next = changes::cursor_json(&self.cursor);
        Ok(Step::Done(Ok(changes::page_of(
            found,
            next,
            more,
            self.deletions_unknown,
        ))))
    }

    fn change(&self, id_column: &str, item: Item) -> Change {
        let Item { json: row, damage } = item;
        let id = |json: &Json| wire::id(json).map(|id| api::id_form(&id));
        let context = row["@odata.context"].as_str().unwrap_or_default();
        if context.ends_with("/$deletedEntity") || row["reason"] == "deleted" {
            return Change {
                object: CrmObject {
                    crm_id: id(&row["id"]).unwrap_or_default(),
                    ..CrmObject::default()
                },
                deleted: true,
                ..Change::default()
            };
        }
        let key = self.query.external_id_field.as_deref();
        let (external_id, damage) = changes::keyed(key.and_then(|key| row.get(key)), damage);
        Change {
            external_id,
            modified_by: changes::modified_by(&row[MODIFIED_BY]),
            object: CrmObject {
                crm_id: id(&row[id_column]).unwrap_or_default(),
                fields: columns::held(&row, &self.query.fields),
                modified_at: columns::modified_at(&row),
                version: None,
                damage,
            },
            ..Change::default()
        }
    }
}

/// Whether the complaint may be about the link, and not about the columns or our rights: then the
/// same is said of all rows.
fn has_lapsed(failure: &Failure) -> bool {
    failure.code == errors::EXPIRED
        || matches!(failure.class, ErrorClass::Validation | ErrorClass::Mapping)
}

fn untracked(object: &str) -> Failure {
    let message = format!(
        "changes of \"{object}\" are not tracked: switch on \"Track changes\" in the properties of its table"
    );
    Failure::record(ErrorClass::Mapping, "change_tracking_disabled", message)
}

fn strange_link() -> Failure {
    let message = "the link to the next page does not belong to the Web API";
    Failure::record(ErrorClass::Internal, "strange_link", message)
}

/// A link that asks for these columns: those of the mapping may be others than when it was made.
fn selecting(link: &str, columns: &str) -> String {
    let Some((path, query)) = link.split_once('?') else {
        return link.to_owned();
    };
    let chosen = |option: &str| match option.split_once('=') {
        Some((name @ ("$select" | "%24select"), _)) => format!("{name}={columns}"),
        _ => option.to_owned(),
    };
    let options: Vec<String> = query.split('&').map(chosen).collect();
    format!("{path}?{}", options.join("&"))
}

impl Operation<ChangesPage> for Changes {
    fn step(&mut self, answer: Option<Response>) -> Step<ChangesPage> {
        let step = match answer {
            None => self.ask().map(Step::Send),
            Some(response) => self.take(&response),
        };
        step.unwrap_or_else(|failure| Step::Done(Err(failure)))
    }
}
