//! `$expand`: the row that a lookup leads to, within the row that has the lookup.

use super::error::DataverseError;
use super::{address, org, save};
use crate::http::Request;
use crate::store::{Object, Store};
use serde_json::{Map, Value as Json};

/// A lookup to follow, and the columns to show of the row that it leads to.
pub struct Expansion<'s> {
    at: u16,
    navigation: String,
    target: &'s Object,
    columns: Option<Vec<u16>>,
}

/// What a request wants expanded.
pub fn of<'s>(
    store: &'s Store,
    object: &Object,
    request: &Request,
) -> Result<Vec<Expansion<'s>>, DataverseError> {
    let Some(list) = request.param("$expand") else {
        return Ok(Vec::new());
    };
    let items = split(&list)?;
    items
        .into_iter()
        .map(|item| one(store, object, item))
        .collect()
}

/// At commas that stand in no brackets.
fn split(list: &str) -> Result<Vec<&str>, DataverseError> {
    let mut items = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => {
                let unopened = || DataverseError::query("Syntax error in the $expand option");
                depth = depth.checked_sub(1).ok_or_else(unopened)?;
            }
            ',' if depth == 0 => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&list[start..]);
    Ok(items)
}

fn one<'s>(store: &'s Store, object: &Object, item: &str) -> Result<Expansion<'s>, DataverseError> {
    let (navigation, options) = match item.trim().split_once('(') {
        None => (item.trim(), None),
        Some((name, rest)) => {
            let options = rest.strip_suffix(')');
            let unclosed = || DataverseError::query("Syntax error in the $expand option");
            (name, Some(options.ok_or_else(unclosed)?))
        }
    };
    let table = org::table(&object.def.name);
    let unknown = || {
        DataverseError::query(format!(
            "Could not find a property named '{navigation}' on type 'Microsoft.Dynamics.CRM.{table}'."
        ))
    };
    let (at, field) = save::lookup(object, navigation).ok_or_else(unknown)?;
    let target = field
        .spec
        .references
        .get(1)
        .and_then(|set| store.object(set));
    let target = target.ok_or_else(unknown)?;
    let columns = match options.map(|options| options.strip_prefix("$select=").ok_or(options)) {
        None => None,
        Some(Ok(list)) if !list.contains(['(', ';']) => {
            let columns = list
                .split(',')
                .map(|name| address::column(target, name.trim()));
            Some(columns.collect::<Result<_, _>>()?)
        }
        Some(_) => {
            return Err(DataverseError::not_simulated(
                "options of $expand but $select",
            ));
        }
    };
    let navigation = navigation.to_owned();
    Ok(Expansion {
        at,
        navigation,
        target,
        columns,
    })
}

/// Puts the rows that lookups lead to into the row.
pub fn add(expansions: &[Expansion<'_>], object: &Object, slot: u32, row: &mut Map<String, Json>) {
    for Expansion {
        at,
        navigation,
        target,
        columns,
    } in expansions
    {
        let led = match org::held(object, slot, *at) {
            Json::String(id) => org::slot(target, &id).filter(|slot| target.live(*slot).is_some()),
            _ => None,
        };
        let shown = led.map(|slot| org::show(target, slot, columns.as_deref()));
        row.insert(navigation.clone(), shown.map_or(Json::Null, Json::from));
    }
}
