//! The WHERE clause, bound to an object.
//!
//! Guarantees: literals are checked against the fields' types before any record is looked at.

use super::super::error::SfError;
use super::super::{id, org};
use super::path::Path;
use super::statement::{Condition, Literal, Op, Term};
use super::{compare, equal, malformed};
use crate::clock::{self, DAY_MS};
use crate::schema::{Field, Source};
use crate::store::{Object, Store};
use crate::value::{Kind, Value};

#[derive(Debug)]
pub enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Test {
        path: Path,
        kind: Kind,
        op: Op,
        /// `None` is null.
        values: Vec<Option<Value>>,
    },
}

impl Filter {
    pub fn everything() -> Self {
        Self::And(Vec::new())
    }

    /// Binds a condition on the records of the object that stands `at` that position.
    pub fn new(store: &Store, at: usize, condition: &Condition, now: i64) -> Result<Self, SfError> {
        let all = |parts: &[Condition]| -> Result<Vec<Self>, SfError> {
            parts
                .iter()
                .map(|part| Self::new(store, at, part, now))
                .collect()
        };
        Ok(match condition {
            Condition::And(parts) => Self::And(all(parts)?),
            Condition::Or(parts) => Self::Or(all(parts)?),
            Condition::Not(part) => Self::Not(Box::new(Self::new(store, at, part, now)?)),
            Condition::Test { term, op, values } => {
                let path = path(store, at, term)?;
                let def = path.field(store);
                if let Some(filter) = day_range(&path, def, *op, values, now) {
                    return Ok(filter);
                }
                let values = values.iter().map(|literal| bind(def, *op, literal, now));
                Self::Test {
                    kind: def.kind,
                    op: *op,
                    values: values.collect::<Result<_, _>>()?,
                    path,
                }
            }
            Condition::Among {
                term,
                negated,
                query,
            } => {
                let path = path(store, at, term)?;
                let op = if *negated { Op::NotIn } else { Op::In };
                Self::Test {
                    kind: path.field(store).kind,
                    op,
                    values: super::column(store, query, now)?,
                    path,
                }
            }
        })
    }

    pub fn takes(&self, store: &Store, at: usize, slot: u32) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.takes(store, at, slot)),
            Self::Or(parts) => parts.iter().any(|part| part.takes(store, at, slot)),
            Self::Not(part) => !part.takes(store, at, slot),
            Self::Test {
                path,
                kind,
                op,
                values,
            } => {
                let held = path.read(store, at, slot);
                test(*kind, *op, held.as_deref(), values)
            }
        }
    }

    /// The records that an id or an indexed field names, if the filter pins one down.
    pub fn by_key(&self, object: &Object) -> Option<Vec<u32>> {
        match self {
            Self::And(parts) => parts.iter().find_map(|part| part.by_key(object)),
            Self::Test {
                path,
                op: Op::Eq | Op::In,
                values,
                ..
            } if path.own() => {
                let def = &object.def.fields[path.at as usize];
                let mut slots: Vec<u32> = Vec::new();
                for value in values {
                    let text = value.as_ref()?.as_text()?;
                    match def.source {
                        Source::Id => slots.extend(org::slot(object, text)),
                        // Deleted records are not in the index, so `queryAll` must scan.
                        _ => return None,
                    }
                }
                slots.sort_unstable();
                slots.dedup();
                Some(slots)
            }
            _ => None,
        }
    }

    /// The modified time from which on nothing matches.
    pub fn until(&self, object: &Object) -> Option<i64> {
        match self {
            Self::And(parts) => parts.iter().filter_map(|part| part.until(object)).min(),
            Self::Test {
                path,
                op: Op::Lt,
                values,
                ..
            } if path.own() => {
                let def = &object.def.fields[path.at as usize];
                match (def.source, values.first()) {
                    (Source::Modified, Some(Some(Value::Time(ms)))) => Some(*ms),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The modified time below which nothing matches.
    pub fn since(&self, object: &Object) -> Option<i64> {
        match self {
            Self::And(parts) => parts.iter().filter_map(|part| part.since(object)).max(),
            Self::Test {
                path,
                op: Op::Ge | Op::Gt,
                values,
                ..
            } if path.own() => {
                let def = &object.def.fields[path.at as usize];
                match (def.source, values.first()) {
                    (Source::Modified, Some(Some(Value::Time(ms)))) => Some(*ms),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn path(store: &Store, at: usize, term: &Term) -> Result<Path, SfError> {
    match term {
        Term::Field(name) => Path::resolve(store, at, name),
        Term::Call(..) => Err(malformed("unexpected token: aggregates belong in HAVING")),
    }
}

pub fn test(kind: Kind, op: Op, held: Option<&Value>, values: &[Option<Value>]) -> bool {
    let same = |value: &Option<Value>| match (held, value) {
        (Some(held), Some(value)) => equal(kind, held, value),
        (None, None) => true,
        _ => false,
    };
    let order = || match (held, &values[0]) {
        (Some(held), Some(value)) => Some(match (kind, held, value) {
            // The characters of ids stand by their codes, as they do in ORDER BY Id.
            (Kind::Id | Kind::Reference, Value::Text(held), Value::Text(value)) => held.cmp(value),
            _ => compare(held, value),
        }),
        _ => None,
    };
    let parts = |value: &Option<Value>| -> bool {
        let (Some(Value::Text(held)), Some(Value::Text(wanted))) = (held, value) else {
            return false;
        };
        wanted
            .split(';')
            .all(|part| held.split(';').any(|held| held == part))
    };
    match op {
        Op::Eq => same(&values[0]),
        Op::Ne => !same(&values[0]),
        Op::Lt => order().is_some_and(|order| order.is_lt()),
        Op::Le => order().is_some_and(|order| order.is_le()),
        Op::Gt => order().is_some_and(|order| order.is_gt()),
        Op::Ge => order().is_some_and(|order| order.is_ge()),
        Op::In => values.iter().any(same),
        Op::NotIn => !values.iter().any(same),
        Op::Includes => values.iter().any(parts),
        Op::Excludes => !values.iter().any(parts),
        Op::Like => match (held, &values[0]) {
            (Some(Value::Text(held)), Some(Value::Text(pattern))) => {
                let chars = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
                like(&chars(pattern), &chars(held))
            }
            _ => false,
        },
    }
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|at| like(rest, &text[at..])),
        ['\\', c @ ('%' | '_'), rest @ ..] => text.first() == Some(c) && like(rest, &text[1..]),
        ['_', rest @ ..] => !text.is_empty() && like(rest, &text[1..]),
        [c, rest @ ..] => text.first() == Some(c) && like(rest, &text[1..]),
    }
}

fn bind(def: &Field, op: Op, literal: &Literal, now: i64) -> Result<Option<Value>, SfError> {
    let name = def.name();
    let wrong = |wanted: &str| {
        let message =
            format!("value of filter criterion for field '{name}' must be of type {wanted}");
        SfError::new(400, "INVALID_FIELD", message)
    };
    let bare = match literal {
        Literal::Bare(word) if word.eq_ignore_ascii_case("null") => return Ok(None),
        Literal::Bare(word) => Some(word.as_str()),
        Literal::Text(_) => None,
    };
    let value = match (def.kind, literal) {
        (Kind::Id | Kind::Reference, Literal::Text(text)) => match id::canonical(text) {
            Some(id) => Value::text(id),
            None => {
                let message = format!("invalid ID field: {text}");
                return Err(SfError::new(400, "INVALID_QUERY_FILTER_OPERATOR", message));
            }
        },
        (Kind::Text | Kind::Email | Kind::Choice | Kind::Choices, Literal::Text(text)) => {
            // Only LIKE tells an escaped wildcard from a bare one.
            let text = match op {
                Op::Like => text.clone(),
                _ => text.replace("\\%", "%").replace("\\_", "_"),
            };
            Value::text(text)
        }
        (Kind::Bool, _) => match bare.map(str::to_ascii_lowercase).as_deref() {
            Some("true") => Value::Bool(true),
            Some("false") => Value::Bool(false),
            _ => return Err(wrong("boolean and should not be enclosed in quotes")),
        },
        (Kind::Int | Kind::Number | Kind::Decimal, _) => {
            let number = bare.and_then(|word| word.parse().ok());
            Value::Number(
                number.ok_or_else(|| wrong("double and should not be enclosed in quotes"))?,
            )
        }
        (Kind::Date, _) => {
            let days = bare.and_then(|word| clock::parse_date(word).or_else(|| day(word, now)));
            Value::Date(days.ok_or_else(|| wrong("date and should not be enclosed in quotes"))?)
        }
        (Kind::Time | Kind::Second, _) => {
            let time = bare.and_then(|word| {
                let day = || day(word, now).map(|day| i64::from(day) * DAY_MS);
                clock::parse_time(word).or_else(day)
            });
            let time =
                time.ok_or_else(|| wrong("dateTime and should not be enclosed in quotes"))?;
            Value::Time(time.div_euclid(1000) * 1000)
        }
        _ => return Err(wrong("string and should be enclosed in quotes")),
    };
    Ok(Some(value))
}

/// The day a date literal begins at.
fn day(word: &str, now: i64) -> Option<i32> {
    let today = now.div_euclid(DAY_MS) as i32;
    let word = word.to_ascii_uppercase();
    match word.as_str() {
        "TODAY" => Some(today),
        "YESTERDAY" => Some(today - 1),
        "TOMORROW" => Some(today + 1),
        _ => {
            let days: i32 = word.strip_prefix("LAST_N_DAYS:")?.parse().ok()?;
            Some(today - days)
        }
    }
}

/// `CreatedDate = TODAY` means the whole day, `= LAST_N_DAYS:3` everything since.
fn day_range(path: &Path, def: &Field, op: Op, values: &[Literal], now: i64) -> Option<Filter> {
    let (Op::Eq, [Literal::Bare(word)]) = (op, values) else {
        return None;
    };
    let first = day(word, now)?;
    let last = match word.to_ascii_uppercase().starts_with("LAST_N") {
        true => now.div_euclid(DAY_MS) as i32,
        false => first,
    };
    let value = |days: i32| match def.kind {
        Kind::Date => Some(Value::Date(days)),
        Kind::Time | Kind::Second => Some(Value::Time(i64::from(days) * DAY_MS)),
        _ => None,
    };
    let test = |op, value| Filter::Test {
        path: path.clone(),
        kind: def.kind,
        op,
        values: vec![Some(value)],
    };
    Some(Filter::And(vec![
        test(Op::Ge, value(first)?),
        test(Op::Lt, value(last + 1)?),
    ]))
}
