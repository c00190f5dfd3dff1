//! Columns by the names that mappings give them.
//!
//! A column has its logical name. A lookup is read by one name and written by another, to a row of
//! a table that must be named: so its field is `column/set`, or `column/navigation/set` where the
//! navigation property is not called like the column
//! (`parentcustomerid/parentcustomerid_account/accounts`).

use std::borrow::Cow;
use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure, Value};
use serde_json::{Map, Value as Json};

use super::{api, values};
use crate::record::Field;
use crate::request::encode;
use crate::wire;

/// Read of every row beside what is mapped.
pub(super) const MODIFIED: &str = "modifiedon";

/// The name by which a field is read.
pub(super) fn read_name(field: &Field) -> Cow<'_, str> {
    let column = field.name.split('/').next().unwrap_or_default();
    match field.data_type == DataType::Reference && !column.starts_with('_') {
        true => Cow::Owned(format!("_{column}_value")),
        false => Cow::Borrowed(column),
    }
}

/// A list of columns, as a parameter of a query.
pub(super) fn select<'a>(names: impl IntoIterator<Item = Cow<'a, str>>) -> String {
    let mut chosen: Vec<String> = Vec::new();
    for name in names {
        let name = encode(&name).to_string();
        if !chosen.contains(&name) {
            chosen.push(name);
        }
    }
    chosen.join(",")
}

/// The fields of a row, by the names that mappings give them.
pub(super) fn held(row: &Json, fields: &[Arc<Field>]) -> Map<String, Json> {
    let one = |field: &Arc<Field>| {
        let value = row.get(&*read_name(field))?;
        Some((field.name.clone(), value.clone()))
    };
    fields.iter().filter_map(one).collect()
}

pub(super) fn modified_at(row: &Json) -> Option<i64> {
    wire::moment(&row[MODIFIED])
}

/// Navigation property and set of a lookup.
fn target(field: &Field) -> Option<(&str, &str)> {
    let mut parts = field.name.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(column), Some(set), None, None) => Some((column, set)),
        (Some(_), Some(navigation), Some(set), None) => Some((navigation, set)),
        _ => None,
    }
}

/// Puts a value where a write has it. A lookup whose table is not named cannot be written.
pub(super) fn write_into(
    body: &mut Map<String, Json>,
    field: &Field,
    value: &Value,
) -> Result<(), Failure> {
    if field.data_type != DataType::Reference {
        let form = values::form(field.data_type, value);
        body.insert(field.name.clone(), form);
        return Ok(());
    }
    let Some((navigation, set)) = target(field) else {
        let message = format!(
            "\"{0}\" is a lookup: to be written it must be mapped as {0}/SET, with the entity set of its table",
            field.name
        );
        return Err(Failure::record(
            ErrorClass::Mapping,
            "lookup_without_table",
            message,
        ));
    };
    let bound = match value {
        Value::Text(id) => format!("/{}", api::by_id(set, &api::id_form(id))).into(),
        _ => Json::Null,
    };
    body.insert(format!("{navigation}@odata.bind"), bound);
    Ok(())
}
