//! What a cell of a row is as a value of the domain.

use crm_domain::{DataType, Value, ValueError};
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use serde_json::Value as Json;

use crate::store::config::field::MappedField;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::statement::Cached;
use crate::store::table::owner::as_owner_of;
use crate::store::table::read_statement::column_text;

/// Why a cell's text is no value of its field's type.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Value(#[from] ValueError),
}

pub fn value_of(f: &MappedField, text: Option<&str>) -> Result<Value, CellError> {
    raw_value_of(f, text).map(|value| f.stored(value))
}

pub fn raw_value_of(f: &MappedField, text: Option<&str>) -> Result<Value, CellError> {
    match (&f.transform_out, text) {
        (Some(_), Some(json)) => from_json_text(f.field.data_type, json),
        _ => Ok(Value::from_postgres(f.field.data_type, text)?),
    }
}

pub fn from_json_text(data_type: DataType, text: &str) -> Result<Value, CellError> {
    let json = serde_json::from_str(text)?;
    Ok(Value::from_row(data_type, &json)?)
}

/// What columns would be sent as if the row held what a JSON object says, in the table's own types.
pub fn of_object(
    map: &Map,
    fields: &[&MappedField],
    object: &Json,
) -> Result<Vec<(u16, Value)>, StoreError> {
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let columns: Vec<String> = fields
        .iter()
        .map(|f| column_text(f, &format!("t.{}", quote_identifier(&f.column))))
        .collect();
    let statement = format!(
        "SELECT {} FROM pg_catalog.jsonb_to_record($1::pg_catalog.jsonb) AS t ({})",
        columns.join(", "),
        map.record_type(fields.iter().map(|f| f.column.as_str()))
    );
    as_owner_of(map, || {
        Spi::connect_mut(|client| {
            let mut values = Vec::with_capacity(fields.len());
            for row in client.update(Cached(&statement), None, &[object.to_string().into()])? {
                for (i, field) in fields.iter().enumerate() {
                    let value = value_of(field, row.get::<&str>(i + 1)?).map_err(|message| {
                        StoreError::Postgres {
                            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                            message: format!("column \"{}\": {message}", field.column),
                        }
                    })?;
                    values.push((field.id, value));
                }
            }
            Ok(values)
        })
    })
}
