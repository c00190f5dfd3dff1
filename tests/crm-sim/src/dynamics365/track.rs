//! Lists of rows, and what changed since a delta link.
//!
//! Guarantees: a row that changes while a list is paged is told by the delta link at its end; new and
//! changed rows come in the order of their versions, deleted ones after them.

use super::address;
use super::error::DataverseError;
use super::{Answer, ROOT, org};
use crate::clock::{self, DAY_MS};
use crate::http::Response;
use crate::store::Object;
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
        })
    }

    fn text(&self) -> String {
        let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        let (deleted, last) = self.after.unwrap_or_default();
        let since = number(self.since);
        format!(
            "<cookie {} {since} {} {deleted} {last}/>",
            self.tracked, self.until
        )
    }

    fn parse(token: &str) -> Option<Self> {
        let words = token.strip_prefix("<cookie ")?.strip_suffix("/>")?;
        let words: Vec<&str> = words.split(' ').collect();
        let [tracked, since, until, deleted, last] = words[..] else {
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
        })
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

pub fn list(object: &Object, call: &Call<'_>, now: i64) -> Answer {
    let request = call.request;
    let place = Place::begin(object, call, now)?;
    if place.tracked {
        for name in ["filter", "orderby", "expand", "top"] {
            if request.param(&format!("${name}")).is_some() {
                let text = format!(
                    "The \"${name}\" query parameter isn't supported when Change Tracking is enabled."
                );
                return Err(DataverseError::query(text));
            }
        }
    }
    address::only(request, &["$select", "$deltatoken", "$skiptoken"])?;
    let columns = address::columns(object, request)?;
    let set = &object.def.name;
    let metadata = format!("{}{ROOT}/$metadata#{set}", call.origin);
    let left = place.rows(object);
    let size = address::page_size(request);
    let shown = left
        .iter()
        .take(size)
        .map(|((deleted, _), slot)| match deleted {
            true => json!({
                "@odata.context": format!("{metadata}/$deletedEntity"),
                "id": org::row_id(object, *slot),
                "reason": "deleted",
            }),
            false => org::show(object, *slot, columns.as_deref()).into(),
        });
    let mut body = json!({"@odata.context": metadata, "value": shown.collect::<Vec<Json>>()});
    let select = request
        .param("$select")
        .map(|list| format!("$select={list}&"));
    let select = select.unwrap_or_default();
    let link = |option: &str, token: &str| {
        let token = utf8_percent_encode(token, NON_ALPHANUMERIC);
        Json::from(format!(
            "{}{ROOT}/{set}?{select}{option}={token}",
            call.origin
        ))
    };
    if left.len() > size {
        let after = Some(left[size - 1].0);
        let next = Place { after, ..place };
        body["@odata.nextLink"] = link("$skiptoken", &next.text());
    } else if place.tracked {
        let token = format!("{}!{}", place.until, clock::iso(now));
        body["@odata.deltaLink"] = link("$deltatoken", &token);
    }
    let response = Response::json(200, &body);
    Ok(match place.tracked {
        true => response.with("Preference-Applied", "odata.track-changes"),
        false => response,
    })
}
