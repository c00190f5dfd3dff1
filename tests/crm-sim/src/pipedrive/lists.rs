//! Lists and changelogs.
//!
//! Guarantees: parameters that are not known, or hold what they cannot, are refused; a cursor goes
//! on behind the record that it names, whatever has come or gone meanwhile.

use super::account::{self, as_text, floor, is_archived, is_first, plain, record_id, word};
use super::error::PdError;
use super::filters::Filters;
use crate::clock;
use crate::http::{Request, Response, pairs};
use crate::store::{Actor, Object, Store};
use crate::value::Value;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};
use std::cmp::Reverse;

pub type Answer = Result<Response, PdError>;

pub const PAGE: usize = 500;
const IDS: usize = 100;
const CUSTOM_KEYS: usize = 15;

/// Parameters of a request: the known ones, all others refused.
pub struct Params<'a>(&'a Request);

impl<'a> Params<'a> {
    pub fn of(request: &'a Request, known: &[&str]) -> Result<Self, PdError> {
        let strange = pairs(&request.query).find(|(name, _)| !known.contains(&name.as_str()));
        match strange {
            Some((name, _)) => Err(PdError::schema(&[PdError::not_allowed(&name)])),
            None => Ok(Self(request)),
        }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.0.param(name)
    }

    pub fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, PdError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let breach = || PdError::schema(&[format!("{name}: Invalid number")]);
        number.map(Some).ok_or_else(breach)
    }

    pub fn limit(&self) -> Result<usize, PdError> {
        Ok(self.number("limit", 1..=PAGE)?.unwrap_or(100))
    }

    /// A moment in RFC 3339, of a whole second.
    fn moment(&self, name: &str) -> Result<Option<i64>, PdError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let whole = text.len() == 20 && text.ends_with('Z');
        let breach = || PdError::schema(&[format!("{name}: Invalid datetime")]);
        let moment = clock::parse_time(&text).filter(|_| whole);
        moment.map(Some).ok_or_else(breach)
    }

    pub fn custom_fields(&self) -> Result<Vec<String>, PdError> {
        let keys = self.0.list("custom_fields");
        match keys.len() <= CUSTOM_KEYS {
            true => Ok(keys),
            false => Err(PdError::schema(&[
                "custom_fields: at most 15 keys".to_owned()
            ])),
        }
    }
}

/// The parameters of a list that name what a record is linked to, or stands in.
fn links(object: &str) -> &'static [&'static str] {
    match object {
        "deals" => &["owner_id", "person_id", "org_id", "pipeline_id", "stage_id"],
        "persons" => &["owner_id", "org_id"],
        "activities" => &["owner_id", "deal_id", "person_id", "org_id"],
        _ => &["owner_id"],
    }
}

/// A list of version 2, or of its archived records.
pub fn list(object: &Object, request: &Request, archived: bool, filters: &Filters) -> Answer {
    let mut known = vec![
        "filter_id",
        "ids",
        "updated_since",
        "sort_by",
        "sort_direction",
        "limit",
        "cursor",
    ];
    match object.def.name.as_str() {
        "deals" => known.extend(["status", "updated_until", "include_fields", "custom_fields"]),
        "products" => known.push("custom_fields"),
        "activities" => known.extend(["updated_until", "include_fields"]),
        _ => known.extend(["updated_until", "include_fields", "custom_fields"]),
    }
    known.extend(links(&object.def.name));
    if object.def.name == "activities" {
        known.push("done");
    }
    let params = Params::of(request, &known)?;
    let filter = match params.number("filter_id", 1..=usize::MAX)? {
        None => None,
        Some(id) => Some(filters.of(object, id)?),
    };
    let mut linked = Vec::new();
    for name in links(&object.def.name) {
        let id = params.number(name, 1..=usize::MAX)?;
        let at = object.def.field(name).map(|(at, _)| at);
        linked.extend(at.zip(id.map(|id| Value::Number(id as f64))));
    }
    if let Some(text) = params.text("done") {
        let done = match text.as_str() {
            "true" => true,
            "false" => false,
            _ => return Err(PdError::schema(&["done: Expected boolean".to_owned()])),
        };
        let at = object.def.field("done").map(|(at, _)| at);
        linked.extend(at.map(|at| (at, Value::Bool(done))));
    }
    let (limit, custom) = (params.limit()?, params.custom_fields()?);
    let (since, until) = (
        params.moment("updated_since")?,
        params.moment("updated_until")?,
    );
    let descending = match params.text("sort_direction").as_deref() {
        None | Some("asc") => false,
        Some("desc") => true,
        _ => {
            return Err(PdError::schema(&[
                "sort_direction: Invalid enum value".to_owned()
            ]));
        }
    };
    let sort_by = params.text("sort_by").unwrap_or_else(|| "id".to_owned());
    if !matches!(sort_by.as_str(), "id" | "update_time" | "add_time") {
        return Err(PdError::schema(&["sort_by: Invalid enum value".to_owned()]));
    }
    let ids = request.list("ids");
    if ids.len() > IDS || ids.iter().any(|id| id.parse::<u32>().is_err()) {
        return Err(PdError::schema(&["ids: Invalid ids".to_owned()]));
    }
    let statuses = request.list("status");
    let key = |slot: u32| {
        let record = &object.records[slot as usize];
        let time = match sort_by.as_str() {
            "update_time" => floor(record.modified),
            "add_time" => floor(record.created),
            _ => 0,
        };
        (time, slot)
    };
    let shows = |slot: &u32| {
        let Some(record) = object.record(*slot) else {
            return false;
        };
        let at = floor(record.modified);
        let state = match (record.live(), object.def.field("status")) {
            (false, _) => "deleted".to_owned(),
            (true, Some((at, _))) => record
                .get(at)
                .and_then(Value::as_text)
                .unwrap_or("open")
                .to_owned(),
            (true, None) => String::new(),
        };
        let has_state = match statuses.is_empty() {
            true => record.live(),
            false => statuses.contains(&state),
        };
        has_state
            && filter.is_none_or(|filter| filter.holds(object, *slot))
            && linked
                .iter()
                .all(|(at, value)| record.get(*at) == Some(value))
            && is_archived(object, record) == archived
            && since.is_none_or(|since| at >= since)
            && until.is_none_or(|until| at < until)
            && (ids.is_empty() || ids.contains(&record_id(object, *slot)))
    };
    let mut slots: Vec<u32> = (0..object.records.len() as u32).filter(shows).collect();
    match descending {
        false => slots.sort_by_key(|slot| key(*slot)),
        true => slots.sort_by_key(|slot| Reverse(key(*slot))),
    }
    if let Some(text) = params.text("cursor") {
        let after =
            cursor(&text).ok_or_else(|| PdError::schema(&["cursor: Invalid cursor".to_owned()]))?;
        slots.retain(|slot| match descending {
            false => key(*slot) > after,
            true => key(*slot) < after,
        });
    }
    let more = slots.len() > limit;
    slots.truncate(limit);
    let next = slots.last().filter(|_| more).map(|last| {
        let (time, slot) = key(*last);
        URL_SAFE_NO_PAD.encode(json!([time, slot]).to_string())
    });
    let shown: Vec<Json> = slots
        .iter()
        .map(|slot| account::show(object, *slot, &custom))
        .collect();
    Ok(page(&shown, next))
}

fn cursor(text: &str) -> Option<(i64, u32)> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

pub fn page(records: &[Json], next: Option<String>) -> Response {
    Response::json(
        200,
        &json!({"success": true, "data": records, "additional_data": {"next_cursor": next}}),
    )
}

/// A list of version 1, which counts.
pub fn list_first(object: &Object, request: &Request) -> Answer {
    let known = [
        "limit",
        "start",
        "updated_since",
        "sort",
        "person_id",
        "organization_id",
        "deal_id",
    ];
    let params = Params::of(request, &known)?;
    let since = params.moment("updated_since")?;
    let sort = params.text("sort").unwrap_or_else(|| "id ASC".to_owned());
    let (field, direction) = sort.split_once(' ').unwrap_or((&sort, "ASC"));
    let key = |slot: &u32| {
        let record = &object.records[*slot as usize];
        match field {
            "update_time" => (record.modified, *slot),
            "add_time" => (record.created, *slot),
            _ => (0, *slot),
        }
    };
    let mut slots: Vec<u32> = (0..object.records.len() as u32)
        .filter(|slot| {
            object
                .live(*slot)
                .is_some_and(|record| !is_archived(object, record))
        })
        .filter(|slot| since.is_none_or(|since| object.records[*slot as usize].modified >= since))
        .collect();
    slots.sort_by_key(key);
    if direction.eq_ignore_ascii_case("desc") {
        slots.reverse();
    }
    paged(&params, slots, |slot| account::show(object, slot, &[]))
}

pub fn paged<T>(params: &Params<'_>, rows: Vec<T>, show: impl FnMut(T) -> Json) -> Answer {
    let limit = params.limit()?;
    let start = params.number("start", 0..=usize::MAX)?.unwrap_or(0);
    let more = rows.len() > start + limit;
    let shown = rows.into_iter().skip(start).take(limit).map(show);
    let rows: Vec<Json> = shown.collect();
    let mut pagination = json!({"start": start, "limit": limit, "more_items_in_collection": more});
    if more {
        pagination["next_start"] = (start + limit).into();
    }
    let data = match rows.is_empty() {
        true => Json::Null,
        false => rows.into(),
    };
    Ok(Response::json(
        200,
        &json!({"success": true, "data": data, "additional_data": {"pagination": pagination}}),
    ))
}

/// What has changed lately, in the form of version 1; deleted records among it.
pub fn recents(store: &Store, request: &Request) -> Answer {
    let params = Params::of(request, &["since_timestamp", "items", "start", "limit"])?;
    let text = params.text("since_timestamp").unwrap_or_default();
    let since = clock::parse_time(&text.replace(' ', "T"))
        .filter(|_| text.contains(' '))
        .ok_or_else(|| PdError::new(400, "since_timestamp must be YYYY-MM-DD HH:MM:SS"))?;
    let items = request.list("items");
    let mut rows: Vec<(i64, &Object, u32)> = Vec::new();
    for object in &store.objects {
        let asked = items.is_empty() || items.iter().any(|i| i == word(object));
        if object.def.name != "leads" && asked {
            let slots = 0..object.records.len() as u32;
            let recent =
                slots.filter_map(|slot| Some((object.record(slot)?.modified, object, slot)));
            rows.extend(recent.filter(|(at, ..)| *at >= since));
        }
    }
    rows.sort_by_key(|(at, _, slot)| (*at, *slot));
    paged(&params, rows, |(_, object, slot)| recent(object, slot))
}

/// A record of either version, in the form of version 1.
fn recent(object: &Object, slot: u32) -> Json {
    let record = &object.records[slot as usize];
    let mut data = account::show(object, slot, &[]);
    let custom = data.get_mut("custom_fields").map(Json::take);
    let fields = data.as_object_mut().expect("a record");
    if let Some(Json::Object(keyed)) = custom {
        fields.extend(keyed);
    }
    for name in ["custom_fields", "is_deleted"] {
        fields.remove(name);
    }
    data["active_flag"] = record.live().into();
    data["update_time"] = plain(record.modified).into();
    data["add_time"] = plain(record.created).into();
    json!({"item": word(object), "id": data["id"], "data": data})
}

/// Each change of a field, newest first.
pub fn changelog(object: &Object, request: &Request, slot: u32) -> Answer {
    let params = Params::of(request, &["limit", "cursor"])?;
    let history = &object.records[slot as usize].history;
    let mut rows: Vec<Json> = Vec::new();
    for (n, past) in history.iter().enumerate() {
        let field = &object.def.fields[past.field as usize];
        let before = history[..n]
            .iter()
            .rev()
            .find(|held| held.field == past.field);
        let (user, source) = match past.by {
            Actor::Integration => (account::USER, "api"),
            Actor::Human => (98, "app"),
        };
        rows.push(json!({
            "field_key": field.name(),
            "old_value": as_text(field, before.and_then(|held| held.value.as_ref())),
            "new_value": as_text(field, past.value.as_ref()),
            "actor_user_id": user,
            "time": plain(past.at),
            "change_source": source,
            "change_source_user_agent": null,
            "is_bulk_update_flag": false,
        }));
    }
    rows.reverse();
    rows.truncate(params.limit()?);
    debug_assert!(!is_first(&object.def.name));
    Ok(page(&rows, None))
}
