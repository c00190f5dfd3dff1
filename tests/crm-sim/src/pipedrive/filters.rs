//! Filters: conditions that are kept under a number, by which lists of version 2 are narrowed.
//!
//! Guarantees: a filter that is taken can be answered; its groups are one joined by `and` and one
//! by `or`, and it has 16 conditions at most.

use super::account::{self, USER, plain, word};
use super::error::PdError;
use super::fields::numbered;
use super::lists::{Answer, Params};
use super::save;
use crate::http::{Request, Response};
use crate::store::{Object, Store};
use serde_json::{Map, Value as Json, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

const MOST: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    IsNull,
    IsNotNull,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Begins,
    Contains,
    BeginsNot,
}

impl Op {
    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "IS NULL" => Self::IsNull,
            "IS NOT NULL" => Self::IsNotNull,
            "=" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterEqual,
            "LIKE '$%'" => Self::Begins,
            "LIKE '%$%'" => Self::Contains,
            "NOT LIKE '$%'" => Self::BeginsNot,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone)]
struct Condition {
    at: u16,
    op: Op,
    value: String,
}

#[derive(Debug, Clone)]
pub struct Filter {
    name: String,
    kind: String,
    /// As they were sent.
    conditions: Json,
    all: Vec<Condition>,
    any: Vec<Condition>,
    added: i64,
    updated: Option<i64>,
}

/// The object that a type of filters is for, and the word that its conditions have for it.
fn object_of(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "deals" => "deals",
        "leads" => "leads",
        "org" => "organizations",
        "people" => "persons",
        "products" => "products",
        "activity" => "activities",
        _ => return None,
    })
}

#[derive(Debug, Default)]
pub struct Filters {
    kept: BTreeMap<usize, Filter>,
    last: usize,
}

fn wrong(what: &str) -> PdError {
    PdError::new(400, what)
}

impl Filters {
    /// The filter of a number, if it is for these records.
    pub fn of(&self, object: &Object, id: usize) -> Result<&Filter, PdError> {
        let filter = self.kept.get(&id);
        let filter = filter.filter(|filter| object_of(&filter.kind) == Some(&object.def.name));
        filter.ok_or_else(|| PdError::schema(&["filter_id: Filter not found".to_owned()]))
    }

    pub fn answer(
        &mut self,
        store: &Store,
        request: &Request,
        method: &str,
        path: &[&str],
        now: i64,
    ) -> Answer {
        let id = match path {
            [] => None,
            [id] => Some(id.parse().map_err(|_| PdError::not_found("filter"))?),
            _ => return Err(PdError::no_path()),
        };
        let missing = || PdError::not_found("filter");
        match (method, id) {
            ("GET", None) => {
                let params = Params::of(request, &["type"])?;
                let kind = params.text("type");
                let kept = self.kept.iter();
                let kept = kept
                    .filter(|(_, filter)| kind.as_ref().is_none_or(|kind| filter.kind == *kind));
                Ok(told(
                    200,
                    &kept.map(|(id, filter)| filter.shown(*id, false)).collect(),
                ))
            }
            ("POST", None) => {
                let filter = Filter::read(store, &save::body(&request.body)?, None, now)?;
                self.last += 1;
                self.kept.insert(self.last, filter);
                Ok(told(200, &json!({"id": self.last})))
            }
            ("GET", Some(id)) => {
                let filter = self.kept.get(&id).ok_or_else(missing)?;
                Ok(told(200, &filter.shown(id, true)))
            }
            ("PUT", Some(id)) => {
                let old = self.kept.get(&id).ok_or_else(missing)?;
                let filter = Filter::read(store, &save::body(&request.body)?, Some(old), now)?;
                self.kept.insert(id, filter);
                Ok(told(200, &json!({"id": id})))
            }
            ("DELETE", Some(id)) => {
                self.kept.remove(&id).ok_or_else(missing)?;
                Ok(told(200, &json!({"id": id})))
            }
            _ => Err(PdError::new(405, "Method not allowed")),
        }
    }
}

fn told(status: u16, data: &Json) -> Response {
    Response::json(status, &json!({"success": true, "data": data}))
}

impl Filter {
    fn read(
        store: &Store,
        body: &Map<String, Json>,
        old: Option<&Filter>,
        now: i64,
    ) -> Result<Self, PdError> {
        let text = |name: &str| body.get(name).and_then(Json::as_str).map(str::to_owned);
        let kind = old.map(|old| old.kind.clone()).or_else(|| text("type"));
        let kind = kind.ok_or_else(|| wrong("type is required"))?;
        let object = object_of(&kind).and_then(|name| store.object(name));
        let object = object.ok_or_else(|| wrong("type is unknown"))?;
        let name = text("name").or_else(|| old.map(|old| old.name.clone()));
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("name is required"))?;
        let conditions = body.get("conditions");
        let conditions = conditions.or_else(|| old.map(|old| &old.conditions));
        let conditions = conditions.ok_or_else(|| wrong("conditions is required"))?;
        let unsound = || {
            wrong("conditions must be a group of \"and\" and a group of \"or\", glued by \"and\"")
        };
        let groups = conditions["conditions"]
            .as_array()
            .filter(|groups| groups.len() == 2);
        let (Some(groups), true) = (groups, conditions["glue"] == "and") else {
            return Err(unsound());
        };
        let group = |glue: &str| -> Result<Vec<Condition>, PdError> {
            let group = groups.iter().find(|group| group["glue"] == glue);
            let lines = group.and_then(|group| group["conditions"].as_array());
            let lines = lines.ok_or_else(unsound)?;
            lines.iter().map(|line| condition(object, line)).collect()
        };
        let (all, any) = (group("and")?, group("or")?);
        if all.len() + any.len() > MOST {
            return Err(wrong("a filter has at most 16 conditions"));
        }
        Ok(Self {
            name,
            kind,
            conditions: conditions.clone(),
            all,
            any,
            added: old.map_or(now, |old| old.added),
            updated: old.map(|_| now),
        })
    }

    fn shown(&self, id: usize, whole: bool) -> Json {
        let mut shown = json!({
            "id": id, "name": self.name, "type": self.kind, "active_flag": true, "temporary_flag": null, "user_id": USER,
            "add_time": plain(self.added), "update_time": self.updated.map(plain), "visible_to": "7",
            "custom_view_id": null,
        });
        if whole {
            shown["conditions"] = self.conditions.clone();
        }
        shown
    }

    pub fn holds(&self, object: &Object, slot: u32) -> bool {
        let holds = |condition: &Condition| condition.holds(object, slot);
        self.all.iter().all(holds) && (self.any.is_empty() || self.any.iter().any(holds))
    }
}

fn condition(object: &Object, line: &Json) -> Result<Condition, PdError> {
    let plain = |value: &Json| match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    match line["object"].as_str() {
        Some(name) if name == word(object) => {}
        Some(_) => return Err(PdError::not_simulated("conditions of linked records")),
        None => return Err(wrong("a condition needs an object")),
    }
    let number = plain(&line["field_id"]).parse().ok();
    let field = number.and_then(|number| numbered(object, number));
    let (at, _) = field.ok_or_else(|| wrong("a condition needs the id of a field"))?;
    let op = line["operator"].as_str().and_then(Op::of);
    let op = op.ok_or_else(|| wrong("a condition needs an operator"))?;
    let value = plain(&line["value"]);
    match value.is_empty() && !matches!(op, Op::IsNull | Op::IsNotNull) {
        true => Err(wrong("a condition needs a value")),
        false => Ok(Condition { at, op, value }),
    }
}

/// The values that a field holds, as texts: each of several.
fn values(held: &Json) -> Vec<String> {
    match held {
        Json::Null => Vec::new(),
        Json::String(text) => vec![text.clone()],
        Json::Bool(value) => vec![u8::from(*value).to_string()],
        Json::Array(items) => items.iter().flat_map(values).collect(),
        Json::Object(parts) => {
            let value = parts.get("value").or_else(|| parts.get("amount"));
            value.map(values).unwrap_or_default()
        }
        other => vec![other.to_string()],
    }
}

/// As numbers, if both are; else as texts, without case.
fn compare(a: &str, b: &str) -> Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        _ => a.to_lowercase().cmp(&b.to_lowercase()),
    }
}

impl Condition {
    fn holds(&self, object: &Object, slot: u32) -> bool {
        let held = values(&account::held(object, slot, self.at));
        let any = |fits: &dyn Fn(Ordering) -> bool| {
            held.iter().any(|text| fits(compare(text, &self.value)))
        };
        let sought = self.value.to_lowercase();
        match self.op {
            Op::IsNull => held.is_empty(),
            Op::IsNotNull => !held.is_empty(),
            Op::Equal => any(&Ordering::is_eq),
            Op::NotEqual => !any(&Ordering::is_eq),
            Op::Less => any(&Ordering::is_lt),
            Op::LessEqual => any(&Ordering::is_le),
            Op::Greater => any(&Ordering::is_gt),
            Op::GreaterEqual => any(&Ordering::is_ge),
            Op::Begins => held
                .iter()
                .any(|text| text.to_lowercase().starts_with(&sought)),
            Op::Contains => held
                .iter()
                .any(|text| text.to_lowercase().contains(&sought)),
            Op::BeginsNot => !held
                .iter()
                .any(|text| text.to_lowercase().starts_with(&sought)),
        }
    }
}
