//! Lists of rows, filtered and sorted, and what changed since a delta link.
//!
//! Guarantees: a row that changes while a list is paged is told by the delta link at its end; new
//! and changed rows come in the order of their versions, deleted ones after them. The link to the
//! next page says all that the first request said.

use super::error::DataverseError;
use super::filter::Filter;
use super::order::Order;
use super::{Answer, ROOT, address, annotations, expand, org};
use crate::clock::{self, DAY_MS};
use crate::http::{Request, Response, pairs};
use crate::store::{Object, Store};
use crate::vendor::Call;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value as Json, json};

/// `ExpireChangeTrackingInDays` of a new environment.
const LASTS_MS: i64 = 7 * DAY_MS;

/// Where a list is.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Whether the list ends in a delta link.
    tracked: bool,
    /// Changes since this version; all rows without one.
    since: Option<u64>,
    /// What is newer than this is told later.
    until: u64,
    /// The last row that was shown: whether it was deleted, and its slot or its version.
    after: Option<(bool, u64)>,
    /// How many rows were shown.
    seen: usize,
}

impl Place {
    fn begin(object: &Object, call: &Call<'_>, now: i64) -> Result<Self, DataverseError> {
        if let Some(token) = call.request.param("$skiptoken") {
            return Self::parse(&token)
                .ok_or_else(|| DataverseError::query("Malformed skip token"));
        }
        let since = match call.request.param("$deltatoken") {
            Some(token) => Some(since(&token, now)?),
            None => None,
        };
        Ok(Self {
            tracked: since.is_some() || address::prefers(call.request, "odata.track-changes"),
            since,
            until: object.turn(),
            after: None,
            seen: 0,
        })
    }

    fn text(&self) -> String {
        let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        let (deleted, last) = self.after.unwrap_or_default();
        let since = number(self.since);
        format!(
            "<cookie {} {since} {} {deleted} {last} {}/>",
            self.tracked, self.until, self.seen
        )
    }

    fn parse(token: &str) -> Option<Self> {
        let words = token.strip_prefix("<cookie ")?.strip_suffix("/>")?;
        let words: Vec<&str> = words.split(' ').collect();
        let [tracked, since, until, deleted, last, seen] = words[..] else {
            return None;
        };
        Some(Self {
            tracked: tracked.parse().ok()?,
            since: match since {
                "-" => None,
                since => Some(since.parse().ok()?),
            },
            until: until.parse().ok()?,
            after: Some((deleted.parse().ok()?, last.parse().ok()?)),
            seen: seen.parse().ok()?,
        })
    }

    /// The rows of a query that are left. A page of a sorted list goes on behind the row that was
    /// the last; if that one is gone, behind so many rows.
    fn sorted(&self, object: &Object, query: &Query) -> Vec<((bool, u64), u32)> {
        if !query.order.is_given() {
            let mut left = self.rows(object);
            left.retain(|(_, slot)| query.shows(object, *slot));
            return left;
        }
        let slots = 0..object.records.len() as u32;
        let live = slots.filter(|slot| object.live(*slot).is_some());
        let mut slots: Vec<u32> = live.filter(|slot| query.shows(object, *slot)).collect();
        query.order.sort(object, &mut slots);
        let last = self.after.and_then(|(_, last)| u32::try_from(last).ok());
        let last = last.and_then(|last| slots.iter().position(|slot| *slot == last));
        let start = match self.after {
            None => 0,
            Some(_) => last.map_or(self.seen, |at| at + 1),
        };
        let left = slots.into_iter().skip(start);
        left.map(|slot| ((false, u64::from(slot)), slot)).collect()
    }

    /// The rows that are left, each with its place in the order.
    fn rows(&self, object: &Object) -> Vec<((bool, u64), u32)> {
        let slots = 0..object.records.len() as u32;
        let place = |slot: u32| {
            let record = object.record(slot)?;
            let deleted = !record.live();
            let place = match self.since {
                None => (!deleted).then_some((false, u64::from(slot))),
                Some(since) => (record.turn > since && record.turn <= self.until)
                    .then_some((deleted, record.turn)),
            };
            Some((place?, slot))
        };
        let left = slots.filter_map(place);
        let mut left: Vec<_> = left
            .filter(|(place, _)| Some(*place) > self.after)
            .collect();
        left.sort_unstable();
        left
    }
}

/// The version that a delta token stands for: `919042!08/22/2017 08:10:44`.
fn since(token: &str, now: i64) -> Result<u64, DataverseError> {
    let malformed = || DataverseError::query("Malformed delta token");
    let (version, issued) = token.split_once('!').ok_or_else(malformed)?;
    let version = version.parse().map_err(|_| malformed())?;
    let issued = clock::parse_time(issued).ok_or_else(malformed)?;
    match now - issued > LASTS_MS {
        true => Err(DataverseError::new(
            400,
            "0x80044352",
            "Version stamp associated with the client has expired. Please perform a full sync.",
        )),
        false => Ok(version),
    }
}

/// What a list shows of the rows, and in what order.
struct Query {
    filter: Option<Filter>,
    order: Order,
    top: Option<usize>,
    counted: bool,
}

impl Query {
    fn of(object: &Object, request: &Request) -> Result<Self, DataverseError> {
        let filter = request.param("$filter");
        let filter = filter
            .map(|text| Filter::parse(object, &text))
            .transpose()?;
        let order = request.param("$orderby");
        let order = order.map(|text| Order::parse(object, &text)).transpose()?;
        let top = request.param("$top").map(|text| {
            let top = text.parse().ok().filter(|top| *top > 0);
            let wrong = || {
                DataverseError::query(format!(
                    "Invalid value '{text}' for $top query option found."
                ))
            };
            top.ok_or_else(wrong)
        });
        let counted = match request.param("$count").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(DataverseError::query("$count is true or false")),
        };
        Ok(Self {
            filter,
            order: order.unwrap_or_default(),
            top: top.transpose()?,
            counted,
        })
    }

    fn shows(&self, object: &Object, slot: u32) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.holds(object, slot))
    }
}

/// `/$count`: how many rows there are, 5,000 at most.
pub fn count(object: &Object, call: &Call<'_>) -> Answer {
    address::only(call.request, &["$filter"])?;
    let query = Query::of(object, call.request)?;
    let slots = 0..object.records.len() as u32;
    let found = slots.filter(|slot| object.live(*slot).is_some() && query.shows(object, *slot));
    let count = found.count().min(address::LARGEST);
    Ok(Response::bytes(200, "text/plain", count.to_string()))
}

pub fn list(store: &Store, at: usize, call: &Call<'_>, now: i64) -> Answer {
    let object = &store.objects[at];
    let request = call.request;
    let place = Place::begin(object, call, now)?;
    if place.tracked {
        for name in ["filter", "orderby", "expand", "top", "count"] {
            if request.param(&format!("${name}")).is_some() {
                let text = format!(
                    "The \"${name}\" query parameter isn't supported when Change Tracking is enabled."
                );
                return Err(DataverseError::query(text));
            }
        }
    }
    let known = [
        "$select",
        "$expand",
        "$filter",
        "$orderby",
        "$top",
        "$count",
        "$deltatoken",
        "$skiptoken",
    ];
    address::only(request, &known)?;
    let query = Query::of(object, request)?;
    let columns = address::columns(object, request)?;
    let expansions = expand::of(store, object, request)?;
    let annotated = annotations::wanted(request);
    let set = &object.def.name;
    let metadata = format!("{}{ROOT}/$metadata#{set}", call.origin);
    let mut left = match place.tracked {
        true => place.rows(object),
        false => place.sorted(object, &query),
    };
    let count = left.len();
    if let Some(top) = query.top {
        left.truncate(top);
    }
    // A request for so many rows gets them on one page.
    let told = address::page_size(request).filter(|_| query.top.is_none());
    let size = told.unwrap_or(address::LARGEST);
    let shown = left
        .iter()
        .take(size)
        .map(|((deleted, _), slot)| match deleted {
            true => json!({
                "@odata.context": format!("{metadata}/$deletedEntity"),
                "id": org::row_id(object, *slot),
                "reason": "deleted",
            }),
            false => {
                let mut row = org::show(object, *slot, columns.as_deref());
                annotations::add(annotated, object, &mut row);
                expand::add(&expansions, object, *slot, &mut row);
                row.into()
            }
        });
    let mut body = json!({"@odata.context": metadata, "value": shown.collect::<Vec<Json>>()});
    let mut options = String::new();
    for (name, value) in pairs(&request.query) {
        match name.as_str() {
            "$skiptoken" | "$deltatoken" => {}
            "$select" => options += &format!("$select={value}&"),
            _ => options += &format!("{name}={}&", utf8_percent_encode(&value, NON_ALPHANUMERIC)),
        }
    }
    let link = |option: &str, token: &str| {
        let token = utf8_percent_encode(token, NON_ALPHANUMERIC);
        Json::from(format!(
            "{}{ROOT}/{set}?{options}{option}={token}",
            call.origin
        ))
    };
    if query.counted {
        body["@odata.count"] = (count + place.seen).min(address::LARGEST).into();
    }
    if left.len() > size {
        let after = Some(left[size - 1].0);
        let seen = place.seen + size;
        let next = Place {
            after,
            seen,
            ..place
        };
        body["@odata.nextLink"] = link("$skiptoken", &next.text());
    } else if place.tracked {
        let token = format!("{}!{}", place.until, clock::iso(now));
        body["@odata.deltaLink"] = link("$deltatoken", &token);
    }
    let applied = [
        place.tracked.then(|| "odata.track-changes".to_owned()),
        told.map(|size| format!("odata.maxpagesize={size}")),
        annotated.map(|names| format!("odata.include-annotations=\"{names}\"")),
    ];
    let applied: Vec<String> = applied.into_iter().flatten().collect();
    let response = Response::json(200, &body);
    Ok(match applied.is_empty() {
        true => response,
        false => response.with("Preference-Applied", applied.join(",")),
    })
}
