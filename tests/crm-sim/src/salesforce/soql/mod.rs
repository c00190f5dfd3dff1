//! The part of SOQL that integrations use.
//!
//! Guarantees: what is not understood is refused with the vendor's error code, never ignored;
//! times compare at whole seconds, texts without case.

mod aggregate;
mod filter;
mod parse;
mod path;
mod select;
pub mod shown;
mod statement;

use super::error::SfError;
use crate::schema::Source;
use crate::store::{Object, Store};
use crate::value::{Kind, Value};
use filter::Filter;
use path::Path;
use select::columns;
use serde_json::Value as Json;
use shown::Column;
use statement::{Item, OrderKey, Select, Statement, Term, What};
use std::borrow::Cow;
use std::cmp::Ordering;

#[derive(Debug, Clone, PartialEq)]
pub enum Columns {
    Count,
    /// Fields of the records themselves.
    Fields(Vec<u16>),
    /// Fields of other records among them.
    Mixed(Vec<Column>),
    /// An aggregate query has no records, but rows.
    Rows(Vec<Json>),
}

/// The records a statement finds, in its order.
#[derive(Debug, Clone)]
pub struct Found {
    pub columns: Columns,
    pub slots: Vec<u32>,
}

/// Runs a statement; `all` includes deleted records. Returns the object's position too.
pub fn run(store: &Store, text: &str, all: bool, now: i64) -> Result<(usize, Found), SfError> {
    let statement = parse::parse(text).map_err(malformed)?;
    let at = store.position(&statement.object).ok_or_else(|| {
        let message = format!(
            "sObject type '{}' is not supported. If you are attempting to use a custom object, be \
             sure to append the '__c' after the entity name.",
            statement.object
        );
        SfError::new(400, "INVALID_TYPE", message)
    })?;
    let found = match &statement.select {
        Select::Items(items) if aggregates(&statement, items) => {
            let slots = find(store, at, &statement, &[], all, now)?;
            let rows = aggregate::rows(store, at, &statement, items, &slots)?;
            Found {
                columns: Columns::Rows(rows),
                slots: Vec::new(),
            }
        }
        _ if !statement.group.is_empty() || statement.having.is_some() => {
            return Err(malformed("a grouped query needs columns"));
        }
        _ => {
            let mut order = Vec::new();
            for key in &statement.order {
                order.push((path(store, at, &key.term)?, key));
            }
            let columns = columns(store, at, &statement, now)?;
            let mut slots = find(store, at, &statement, &order, all, now)?;
            arrange(store, at, &mut slots, &order);
            let limit = statement.limit.unwrap_or(usize::MAX);
            let slots = slots.into_iter().skip(statement.offset).take(limit);
            let slots = slots.collect();
            Found { columns, slots }
        }
    };
    Ok((at, found))
}

fn aggregates(statement: &Statement, items: &[Item]) -> bool {
    let called = |item: &Item| matches!(item.what, What::Term(Term::Call(..)));
    !statement.group.is_empty() || items.iter().any(called)
}

/// What the WHERE clause takes, in no order yet.
fn find(
    store: &Store,
    at: usize,
    statement: &Statement,
    order: &[Key<'_>],
    all: bool,
    now: i64,
) -> Result<Vec<u32>, SfError> {
    let filter = match &statement.filter {
        Some(condition) => Filter::new(store, at, condition, now)?,
        None => Filter::everything(),
    };
    let wanted = statement.limit.map(|limit| limit + statement.offset);
    let wanted = wanted.filter(|_| !order.is_empty());
    Ok(matches(store, at, &filter, order, all, wanted))
}

/// The values of the one column of a query within `IN`.
fn column(store: &Store, query: &Statement, now: i64) -> Result<Vec<Option<Value>>, SfError> {
    let Select::Items(items) = &query.select else {
        return Err(malformed("a query within IN needs a column"));
    };
    let [
        Item {
            what: What::Term(term),
            ..
        },
    ] = &items[..]
    else {
        return Err(malformed("a query within IN needs exactly one column"));
    };
    let at = store.position(&query.object).ok_or_else(|| {
        let message = format!("sObject type '{}' is not supported.", query.object);
        SfError::new(400, "INVALID_TYPE", message)
    })?;
    let path = path(store, at, term)?;
    let slots = find(store, at, query, &[], false, now)?;
    let values = slots.iter().filter_map(|slot| path.read(store, at, *slot));
    Ok(values.map(|value| Some(value.into_owned())).collect())
}

fn path(store: &Store, at: usize, term: &Term) -> Result<Path, SfError> {
    match term {
        Term::Field(name) => Path::resolve(store, at, name),
        Term::Call(..) => Err(malformed("unexpected token: an aggregate")),
    }
}

fn malformed(message: impl Into<String>) -> SfError {
    SfError::new(400, "MALFORMED_QUERY", message)
}

/// Everything the filter takes, or at least the first `wanted` in the order asked for.
fn matches(
    store: &Store,
    at: usize,
    filter: &Filter,
    order: &[Key<'_>],
    all: bool,
    wanted: Option<usize>,
) -> Vec<u32> {
    let object = &store.objects[at];
    let takes = |slot: &u32| {
        let record = object.record(*slot);
        record.is_some_and(|record| all || record.live()) && filter.takes(store, at, *slot)
    };
    if let Some(slots) = filter.by_key(object) {
        return slots.into_iter().filter(takes).collect();
    }
    let Some(since) = filter.since(object) else {
        return (0..object.records.len() as u32).filter(takes).collect();
    };
    // Polling walks the records in the order of their modified time; a LIMIT ends the walk early,
    // but only after the second it falls into, because times are told apart by whole seconds.
    let in_order = order.first().is_some_and(|(path, key)| {
        key.ascending && path.own() && path.field(store).source == Source::Modified
    });
    let wanted = wanted.filter(|_| in_order).unwrap_or(usize::MAX);
    let mut slots = Vec::new();
    let mut last = i64::MIN;
    let until = filter.until(object).unwrap_or(i64::MAX);
    for (at, slot) in timeline(object, since, all) {
        if at >= until {
            break;
        }
        let second = at.div_euclid(1000);
        if slots.len() >= wanted && second != last {
            break;
        }
        last = second;
        if takes(&slot) {
            slots.push(slot);
        }
    }
    slots
}

/// Records by modified time, deleted ones among them if `all`.
fn timeline(object: &Object, since: i64, all: bool) -> impl Iterator<Item = (i64, u32)> {
    let mut live = object.live_since(since).peekable();
    let mut deleted = object
        .deleted_since(if all { since } else { i64::MAX })
        .peekable();
    std::iter::from_fn(move || match (live.peek(), deleted.peek()) {
        (Some(a), Some(b)) if b < a => deleted.next(),
        (Some(_), _) => live.next(),
        (None, _) => deleted.next(),
    })
}

type Key<'a> = (Path, &'a OrderKey);

fn arrange(store: &Store, at: usize, slots: &mut Vec<u32>, order: &[Key<'_>]) {
    if order.is_empty() {
        return;
    }
    // An id sorts as its number, which is the order of its digits too.
    let key = |slot: u32, path: &Path| match path.field(store).source {
        Source::Id if path.own() => Some(Cow::Owned(Value::Number(f64::from(slot)))),
        _ => path.read(store, at, slot),
    };
    let keys = |slot: u32| {
        order
            .iter()
            .map(|(path, _)| key(slot, path))
            .collect::<Vec<_>>()
    };
    let mut keyed: Vec<_> = slots.iter().map(|slot| (keys(*slot), *slot)).collect();
    keyed.sort_by(|(a, _), (b, _)| {
        let pairs = a.iter().zip(b).zip(order);
        let mut orders = pairs.map(|((a, b), (_, key))| key.arrange(a.as_deref(), b.as_deref()));
        orders
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
    *slots = keyed.into_iter().map(|(_, slot)| slot).collect();
}

fn unknown(object: &Object, name: &str) -> SfError {
    let message = match name.split_once('.') {
        Some((relation, _)) => {
            format!("Didn't understand relationship '{relation}' in field path.")
        }
        None => format!(
            "No such column '{name}' on entity '{}'. If you are attempting to use a custom field, be \
             sure to append the '__c' after the custom field name. Please reference your WSDL or the \
             describe call for the appropriate names.",
            object.def.name
        ),
    };
    SfError::new(400, "INVALID_FIELD", message)
}

/// Compares as SOQL does: texts without case.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => match a.is_ascii() && b.is_ascii() {
            true => {
                let lower = |byte: u8| byte.to_ascii_lowercase();
                a.bytes().map(lower).cmp(b.bytes().map(lower))
            }
            false => a.to_lowercase().cmp(&b.to_lowercase()),
        },
        (Value::Number(a), Value::Number(b)) => a.total_cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Time(a), Value::Time(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

impl OrderKey {
    fn arrange(&self, a: Option<&Value>, b: Option<&Value>) -> Ordering {
        let nulls = if self.nulls_first {
            Ordering::Less
        } else {
            Ordering::Greater
        };
        match (a, b) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => nulls,
            (Some(_), None) => nulls.reverse(),
            (Some(a), Some(b)) if self.ascending => compare(a, b),
            (Some(a), Some(b)) => compare(b, a),
        }
    }
}

/// Ids compare by case where everything else does not.
fn equal(kind: Kind, a: &Value, b: &Value) -> bool {
    match (kind, a, b) {
        (Kind::Id | Kind::Reference, Value::Text(a), Value::Text(b)) => a == b,
        _ => compare(a, b).is_eq(),
    }
}
