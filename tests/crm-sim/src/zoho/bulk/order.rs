//! What a job is ordered to do: read strictly, for a test must notice what the real one would pass
//! over.

use super::super::error::ZohoError;
use super::super::org::is_reference;
use super::super::save::Verb;
use super::File;
use crate::schema::Field;
use crate::store::{Object, Store};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROWS: usize = 25_000;
const COLUMNS: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    operation: String,
    character_encoding: Option<String>,
    resource: Vec<Resource>,
    #[serde(default)]
    ignore_empty: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    #[serde(rename = "type")]
    kind: String,
    module: Module,
    file_id: String,
    file_names: Vec<String>,
    #[serde(default)]
    ignore_empty: bool,
    find_by: Option<String>,
    field_mappings: Vec<Mapping>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Module {
    api_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    api_name: String,
    index: usize,
}

/// What is to be done with a file.
#[derive(Debug)]
pub struct Plan {
    pub csv: Arc<Vec<u8>>,
    pub module: String,
    pub verb: Verb,
    pub keys: Vec<String>,
    pub ignore_empty: bool,
    /// Names of fields, or `id`, by their columns.
    pub columns: Vec<(usize, String)>,
}

fn invalid(message: impl Into<String>) -> ZohoError {
    ZohoError::new(400, "INVALID_DATA", message)
}

fn missing(what: &str) -> ZohoError {
    let text = format!("Required key {what} is not available");
    ZohoError::new(400, "MANDATORY_NOT_FOUND", text)
}

pub fn read(store: &Store, files: &BTreeMap<String, File>, body: &Json) -> Result<Plan, ZohoError> {
    let order: Order =
        serde_json::from_value(body.clone()).map_err(|error| invalid(error.to_string()))?;
    let [resource] = &order.resource[..] else {
        return Err(invalid("one resource"));
    };
    if resource.kind != "data" || order.character_encoding.is_some_and(|name| name != "UTF-8") {
        return Err(invalid("type data, in UTF-8"));
    }
    let verb = match order.operation.as_str() {
        "insert" => Verb::Insert,
        "update" => Verb::Update,
        "upsert" => Verb::Upsert,
        other => return Err(invalid(format!("operation {other}"))),
    };
    let object = store
        .object(&resource.module.api_name)
        .ok_or_else(|| ZohoError::new(400, "MODULE_NOT_AVAILABLE", "no such module"))?;
    let file = files
        .get(&resource.file_id)
        .filter(|file| resource.file_names == [file.name.as_str()])
        .ok_or_else(|| ZohoError::new(400, "FILE_NOT_FOUND", "no such file"))?;
    let columns = columns(object, &resource.field_mappings, &file.csv)?;
    let is_mapped = |name: &str| columns.iter().any(|(_, mapped)| mapped == name);
    let find_by = resource.find_by.as_deref();
    match (verb, find_by) {
        (Verb::Insert, _) => {}
        (_, None) => return Err(missing("find_by")),
        (_, Some(name)) if !is_mapped(name) => {
            return Err(invalid(format!("{name} is not mapped")));
        }
        (Verb::Update, Some("id")) => {}
        (Verb::Upsert, Some(name)) if is_unique(object, name) => {}
        (_, Some(name)) => return Err(invalid(format!("find_by {name}"))),
    }
    Ok(Plan {
        csv: file.csv.clone(),
        module: object.def.name.clone(),
        verb,
        keys: find_by.map(str::to_owned).into_iter().collect(),
        ignore_empty: order.ignore_empty || resource.ignore_empty,
        columns,
    })
}

fn is_unique(object: &Object, name: &str) -> bool {
    let field = object.def.field(name).map(|(_, field)| field);
    field.is_some_and(|field: &Field| field.name() == name && field.spec.unique)
}

/// Holds the mapping against the file, which must not be too large.
fn columns(
    object: &Object,
    mappings: &[Mapping],
    csv: &[u8],
) -> Result<Vec<(usize, String)>, ZohoError> {
    let mut reader = csv::ReaderBuilder::new().from_reader(csv);
    let header = reader
        .headers()
        .map_err(|error| invalid(error.to_string()))?
        .clone();
    let rows = reader.byte_records().count();
    if rows == 0 || rows > ROWS || header.len() > COLUMNS {
        let limits = json!({"rows": rows, "columns": header.len()});
        return Err(
            ZohoError::new(400, "LIMIT_EXCEEDED", "25000 rows of 200 columns").with(limits),
        );
    }
    let column = |mapping: &Mapping| {
        let name = &mapping.api_name;
        let known = object.def.field(name).map(|(_, field)| field);
        let known = known.filter(|field| field.name() == name && field.writable());
        match known {
            _ if header.get(mapping.index) != Some(name) => Err(invalid(format!(
                "{name} is not in column {}",
                mapping.index
            ))),
            Some(field) if is_reference(field) => Err(ZohoError::new(
                501,
                "NOT_SUPPORTED",
                "crm-sim does not simulate lookups in files",
            )),
            None if name != "id" => Err(invalid(format!("there is no field {name}"))),
            _ => Ok((mapping.index, name.clone())),
        }
    };
    mappings.iter().map(column).collect()
}
