//! The columns of a statement, and the records below each record found.

use super::super::error::SfError;
use super::super::{id, org, reference};
use super::path::Path;
use super::shown::{Children, Column};
use super::statement::{Select, Statement, What};
use super::{Columns, arrange, find, malformed, path};
use crate::store::Store;
use crate::value::Value;
use std::collections::HashMap;

pub fn columns(
    store: &Store,
    at: usize,
    statement: &Statement,
    now: i64,
) -> Result<Columns, SfError> {
    let items = match &statement.select {
        Select::Count => return Ok(Columns::Count),
        Select::All if statement.limit.is_some_and(|limit| limit <= 200) => {
            let all = store.objects[at].def.visible();
            return Ok(Columns::Fields(all.map(|(at, _)| at).collect()));
        }
        Select::All => {
            let message = "The SOQL FIELDS function must have a LIMIT of at most 200";
            return Err(malformed(message));
        }
        Select::Items(items) => items,
    };
    let mut columns = Vec::with_capacity(items.len());
    for item in items {
        if let Some(alias) = &item.alias {
            return Err(malformed(format!("unexpected token: '{alias}'")));
        }
        columns.push(match &item.what {
            What::Term(term) => Column::Field(path(store, at, term)?),
            What::Children(query) => Column::Children(children(store, at, query, now)?),
        });
    }
    let own = columns.iter().map(|column| match column {
        Column::Field(path) if path.own() => Some(path.at),
        _ => None,
    });
    Ok(match own.collect() {
        Some(fields) => Columns::Fields(fields),
        None => Columns::Mixed(columns),
    })
}

/// `(SELECT LastName FROM Contacts)`
fn children(
    store: &Store,
    parent: usize,
    query: &Statement,
    now: i64,
) -> Result<Children, SfError> {
    let name = &query.object;
    let found = reference::children(store, parent).find(|child| child.2.eq_ignore_ascii_case(name));
    let (object, field, name) = found.ok_or_else(|| {
        let message =
            format!("Didn't understand relationship '{name}' in FROM part of query call.");
        SfError::new(400, "INVALID_TYPE", message)
    })?;
    let columns = match columns(store, object, query, now)? {
        Columns::Mixed(columns) => columns,
        Columns::Fields(fields) => {
            let own = |at| Path {
                via: Vec::new(),
                object,
                at,
            };
            let fields = fields.into_iter().map(own);
            fields.map(Column::Field).collect()
        }
        _ => return Err(malformed("a child query needs columns")),
    };
    let mut order = Vec::new();
    for key in &query.order {
        order.push((path(store, object, &key.term)?, key));
    }
    // A LIMIT holds for each parent.
    let mut all = find(store, object, query, &[], false, now)?;
    arrange(store, object, &mut all, &order);
    let mut slots: HashMap<u32, Vec<u32>> = HashMap::new();
    for slot in all {
        let id = org::read(&store.objects[object], slot, field);
        let id = id.as_deref().and_then(Value::as_text).and_then(id::parse);
        if let Some((_, parent)) = id {
            let held = slots.entry(parent).or_default();
            if held.len() < query.limit.unwrap_or(usize::MAX) {
                held.push(slot);
            }
        }
    }
    Ok(Children {
        name,
        object,
        columns,
        slots,
    })
}
