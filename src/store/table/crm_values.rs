//! CRM values that rows take, in the types of their columns.

use std::collections::BTreeMap;

use crm_domain::Value;
use pgrx::PgSqlErrorCode;
use serde_json::{Map as JsonMap, Value as Json};

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::table::transform;

/// Cells of a row, and the values that they are set to.
pub struct CrmValues<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    /// By field_id.
    pub values: BTreeMap<u16, &'a Value>,
}

/// Values that the table's own code made, by field_id.
pub type Altered = BTreeMap<u16, Value>;

/// Column -> value in the table's types. A value that its column would round or cut is refused: the
/// CRM's user did not mean another one, and the column's would go back to the CRM.
pub fn columns(
    map: &Map,
    values: &BTreeMap<u16, &Value>,
) -> Result<JsonMap<String, Json>, StoreError> {
    let mut object = JsonMap::new();
    for (id, value) in values {
        let Some(field) = map.field(*id) else {
            continue;
        };
        if let Some(message) = field.misfit(value) {
            return Err(StoreError::Postgres {
                code: PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                message,
            });
        }
        let canonical = value.to_json();
        let value = match &field.transform_in {
            Some(transform) => transform::transformed(map, transform, &canonical)?,
            None => field.column_json(&canonical),
        };
        object.insert(field.column.clone(), value);
    }
    Ok(object)
}
