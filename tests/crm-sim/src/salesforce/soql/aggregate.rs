//! GROUP BY, HAVING and the aggregates.
//!
//! Guarantees: every column is grouped by or aggregated; without GROUP BY there is exactly one row;
//! empty values are not counted, and the sum of none is null.

use super::super::error::SfError;
use super::super::org;
use super::path::Path;
use super::statement::{Condition, Function, Item, Literal, Op, Statement, Term, What};
use super::{compare, malformed};
use crate::store::Store;
use crate::value::{Kind, Value};
use serde_json::{Map, Value as Json, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// One column: what it is called, and how it comes about.
struct Column {
    name: String,
    of: Of,
}

#[derive(Clone)]
enum Of {
    Grouped(Path),
    Called(Function, Option<Path>),
}

struct Sheet<'a> {
    store: &'a Store,
    at: usize,
}

/// The rows of an aggregate statement over the records that its filter takes.
pub fn rows(
    store: &Store,
    at: usize,
    statement: &Statement,
    items: &[Item],
    slots: &[u32],
) -> Result<Vec<Json>, SfError> {
    let sheet = Sheet { store, at };
    let resolve = |name: &String| Path::resolve(store, at, name);
    let by: Vec<Path> = statement
        .group
        .iter()
        .map(resolve)
        .collect::<Result<_, _>>()?;
    let columns = sheet.columns(items, &by)?;
    let mut order = Vec::new();
    for key in &statement.order {
        order.push((sheet.of(&key.term, &by, &columns)?, key));
    }
    let having = statement.having.as_ref();
    let having = having
        .map(|having| sheet.bind(having, &by, &columns))
        .transpose()?;
    let mut groups: Vec<Vec<u32>> = sheet.groups(&by, slots);
    if let Some(having) = &having {
        groups.retain(|group| sheet.takes(having, group));
    }
    let mut keyed: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let keys = order.iter().map(|(of, _)| sheet.value(of, &group));
            (keys.collect::<Vec<_>>(), group)
        })
        .collect();
    keyed.sort_by(|(a, _), (b, _)| {
        let pairs = a.iter().zip(b).zip(&order);
        let mut orders = pairs.map(|((a, b), (_, key))| key.arrange(a.as_ref(), b.as_ref()));
        orders
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
    let shown = keyed.iter().map(|(_, group)| {
        let mut row = Map::new();
        row.insert("attributes".into(), json!({"type": "AggregateResult"}));
        for column in &columns {
            row.insert(column.name.clone(), sheet.cell(&column.of, group));
        }
        row.into()
    });
    let limit = statement.limit.unwrap_or(usize::MAX);
    Ok(shown.skip(statement.offset).take(limit).collect())
}

enum Having {
    And(Vec<Having>),
    Or(Vec<Having>),
    Not(Box<Having>),
    Test(Of, Op, Vec<Option<Value>>),
}

impl Sheet<'_> {
    fn columns(&self, items: &[Item], by: &[Path]) -> Result<Vec<Column>, SfError> {
        let mut unnamed = 0;
        let mut columns: Vec<Column> = Vec::new();
        for item in items {
            let What::Term(term) = &item.what else {
                return Err(malformed("a grouped query has no child queries"));
            };
            let of = self.of(term, by, &[])?;
            let name = match (&item.alias, &of) {
                (Some(alias), _) => alias.clone(),
                (None, Of::Grouped(path)) => path.field(self.store).name().to_owned(),
                (None, Of::Called(..)) => {
                    unnamed += 1;
                    format!("expr{}", unnamed - 1)
                }
            };
            if columns.iter().any(|column| column.name == name) {
                return Err(malformed(format!("duplicate alias: {name}")));
            }
            columns.push(Column { name, of });
        }
        Ok(columns)
    }

    /// What a term means; in HAVING and ORDER BY it may be a column's alias.
    fn of(&self, term: &Term, by: &[Path], columns: &[Column]) -> Result<Of, SfError> {
        let resolve = |name: &String| Path::resolve(self.store, self.at, name);
        match term {
            Term::Field(name) => {
                if let Some(column) = columns.iter().find(|column| column.name == *name) {
                    return Ok(column.of.clone());
                }
                let path = resolve(name)?;
                match by.contains(&path) {
                    true => Ok(Of::Grouped(path)),
                    false => {
                        let message = format!("Field must be grouped or aggregated: {name}");
                        Err(malformed(message))
                    }
                }
            }
            Term::Call(function, name) => {
                let path = name.as_ref().map(resolve).transpose()?;
                if let Some(path) = &path {
                    let field = path.field(self.store);
                    let number = matches!(field.kind, Kind::Int | Kind::Number | Kind::Decimal);
                    if matches!(function, Function::Sum | Function::Avg) && !number {
                        let name = field.name();
                        let message = format!("field {name} does not support aggregate operator");
                        return Err(malformed(message));
                    }
                }
                Ok(Of::Called(*function, path))
            }
        }
    }

    fn groups(&self, by: &[Path], slots: &[u32]) -> Vec<Vec<u32>> {
        if by.is_empty() {
            return vec![slots.to_vec()];
        }
        let mut groups: BTreeMap<Vec<Option<String>>, Vec<u32>> = BTreeMap::new();
        for slot in slots {
            let key = by.iter().map(|path| {
                let value = path.read(self.store, self.at, *slot);
                let kind = path.field(self.store).kind;
                value.map(|value| org::Cell(Some(value), kind).text().to_lowercase())
            });
            groups.entry(key.collect()).or_default().push(*slot);
        }
        groups.into_values().collect()
    }

    fn value(&self, of: &Of, group: &[u32]) -> Option<Value> {
        let read = |path: &Path, slot: &u32| {
            let value = path.read(self.store, self.at, *slot);
            value.map(std::borrow::Cow::into_owned)
        };
        let (function, path) = match of {
            Of::Grouped(path) => return group.first().and_then(|slot| read(path, slot)),
            Of::Called(_, None) => return Some(Value::Number(group.len() as f64)),
            Of::Called(function, Some(path)) => (function, path),
        };
        let held = group.iter().filter_map(|slot| read(path, slot));
        let number = |value: Value| match value {
            Value::Number(number) => Some(number),
            _ => None,
        };
        match function {
            Function::Count => Some(Value::Number(held.count() as f64)),
            Function::CountDistinct => {
                let mut all: Vec<Value> = held.collect();
                all.sort_by(compare);
                all.dedup_by(|a, b| compare(a, b).is_eq());
                Some(Value::Number(all.len() as f64))
            }
            Function::Sum => held
                .filter_map(number)
                .reduce(|a, b| a + b)
                .map(Value::Number),
            Function::Avg => {
                let all: Vec<f64> = held.filter_map(number).collect();
                let sum: f64 = all.iter().sum();
                (!all.is_empty()).then(|| Value::Number(sum / all.len() as f64))
            }
            Function::Min => held.min_by(compare),
            Function::Max => held.max_by(compare),
        }
    }

    fn cell(&self, of: &Of, group: &[u32]) -> Json {
        let kind = match of {
            Of::Called(Function::Count | Function::CountDistinct, _) | Of::Called(_, None) => {
                Kind::Int
            }
            Of::Called(Function::Sum | Function::Avg, _) => Kind::Number,
            Of::Grouped(path) | Of::Called(_, Some(path)) => path.field(self.store).kind,
        };
        let value = self.value(of, group).map(std::borrow::Cow::Owned);
        serde_json::to_value(org::Cell(value, kind)).expect("a cell serialises")
    }

    fn bind(
        &self,
        condition: &Condition,
        by: &[Path],
        columns: &[Column],
    ) -> Result<Having, SfError> {
        let all = |parts: &[Condition]| -> Result<Vec<Having>, SfError> {
            parts
                .iter()
                .map(|part| self.bind(part, by, columns))
                .collect()
        };
        Ok(match condition {
            Condition::And(parts) => Having::And(all(parts)?),
            Condition::Or(parts) => Having::Or(all(parts)?),
            Condition::Not(part) => Having::Not(Box::new(self.bind(part, by, columns)?)),
            Condition::Test { term, op, values } => {
                let of = self.of(term, by, columns)?;
                let values = values.iter().map(|literal| match literal {
                    Literal::Text(text) => Some(Value::text(text.as_str())),
                    Literal::Bare(word) => word.parse().ok().map(Value::Number),
                });
                Having::Test(of, *op, values.collect())
            }
            Condition::Among { .. } => return Err(malformed("HAVING takes no queries")),
        })
    }

    fn takes(&self, having: &Having, group: &[u32]) -> bool {
        match having {
            Having::And(parts) => parts.iter().all(|part| self.takes(part, group)),
            Having::Or(parts) => parts.iter().any(|part| self.takes(part, group)),
            Having::Not(part) => !self.takes(part, group),
            Having::Test(of, op, values) => {
                super::filter::test(Kind::Text, *op, self.value(of, group).as_ref(), values)
            }
        }
    }
}
