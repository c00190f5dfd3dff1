//! `/crm/v3/objects/{type}/search`.
//!
//! Guarantees: no more than 10,000 results of a query can be reached; what was written within the
//! configured lag is not seen yet, as in the real index.

mod filter;
mod order;

use super::error::HsError;
use super::objects::Answer;
use super::portal::{self, View};
use crate::http::Response;
use crate::store::Object;
use filter::{Filter, Group};
use order::Order;
use serde::Deserialize;
use serde_json::{Value as Json, json};

const MAX_RESULTS: usize = 10_000;
const MAX_PAGE: usize = 200;
const MAX_QUERY: usize = 3000;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Search {
    filter_groups: Vec<Group>,
    sorts: Vec<Json>,
    properties: Vec<String>,
    limit: Option<usize>,
    after: Option<Json>,
    query: Option<String>,
}

pub fn answer(object: &Object, body: &[u8], visible_until: i64) -> Answer {
    let search: Search = serde_json::from_slice(body)
        .map_err(|error| HsError::validation(format!("Invalid input JSON: {error}")))?;
    let limit = search.limit.unwrap_or(10);
    if limit > MAX_PAGE {
        return Err(HsError::validation(format!(
            "limit must be at most {MAX_PAGE}"
        )));
    }
    let after = match &search.after {
        None | Some(Json::Null) => 0,
        Some(Json::String(text)) if text.is_empty() => 0,
        Some(Json::String(text)) => number(text)?,
        Some(other) => number(&other.to_string())?,
    };
    if after + limit > MAX_RESULTS {
        let message = format!("Cannot page past {MAX_RESULTS} results");
        return Err(HsError::validation(message));
    }
    let groups = filter::groups(object, &search.filter_groups)?;
    let words = search.query.as_deref().unwrap_or_default().to_lowercase();
    if words.len() > MAX_QUERY {
        return Err(HsError::validation(format!(
            "query must be at most {MAX_QUERY} characters"
        )));
    }
    let query = Query {
        object,
        groups,
        words,
        visible_until,
    };
    let (total, page) = query.page(&search.sorts, after, limit)?;
    let view = View {
        properties: search.properties.clone(),
        history: Vec::new(),
    };
    let results = page.iter().map(|slot| portal::show(object, *slot, &view));
    let results: Vec<_> = results.collect();
    let mut body = json!({"total": total, "results": results});
    if after + limit < total {
        body["paging"] = json!({"next": {"after": (after + limit).to_string()}});
    }
    Ok(Response::json(200, &body))
}

fn number(text: &str) -> Result<usize, HsError> {
    let wrong = |_| HsError::validation(format!("after must be a number, not {text}"));
    text.parse().map_err(wrong)
}

struct Query<'a> {
    object: &'a Object,
    groups: Vec<Vec<Filter<'a>>>,
    words: String,
    /// Later writes are not in the index yet.
    visible_until: i64,
}

impl Query<'_> {
    /// How many records match, and a page of them.
    fn page(
        &self,
        sorts: &[Json],
        after: usize,
        limit: usize,
    ) -> Result<(usize, Vec<u32>), HsError> {
        let order = Order::new(self.object, sorts)?;
        let since = self.since();
        let visible = |(at, _): &(i64, u32)| *at <= self.visible_until;
        let timeline = || {
            self.object
                .live_since(since.unwrap_or(i64::MIN))
                .take_while(visible)
        };
        // Polling for what changed asks nothing that the timeline does not answer by itself.
        if self.is_poll() && order.by_modified(self.object) {
            let page = timeline().skip(after).take(limit).map(|(_, slot)| slot);
            return Ok((timeline().count(), page.collect()));
        }
        let slots = timeline().map(|(_, slot)| slot);
        let mut slots: Vec<u32> = slots.filter(|slot| self.takes(*slot)).collect();
        order.arrange(self.object, &mut slots);
        let page = slots.iter().skip(after).take(limit).copied().collect();
        Ok((slots.len(), page))
    }

    fn takes(&self, slot: u32) -> bool {
        let all =
            |group: &Vec<Filter<'_>>| group.iter().all(|filter| filter.takes(self.object, slot));
        (self.groups.is_empty() || self.groups.iter().any(all))
            && (self.words.is_empty() || filter::mentions(self.object, slot, &self.words))
    }

    /// The modified time below which nothing matches.
    fn since(&self) -> Option<i64> {
        let bound = |group: &Vec<Filter<'_>>| group.iter().filter_map(Filter::since).max();
        let bounds: Option<Vec<i64>> = self.groups.iter().map(bound).collect();
        bounds?.into_iter().min()
    }

    fn is_poll(&self) -> bool {
        let bound = |filter: &Filter<'_>| filter.operator == "GTE" && filter.since().is_some();
        self.words.is_empty()
            && match &self.groups[..] {
                [group] => group.iter().all(bound),
                groups => groups.is_empty(),
            }
    }
}
