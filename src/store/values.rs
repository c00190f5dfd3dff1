//! The values to send, read from the mapped table as its owner, bounded by bytes.
//!
//! Only the cells that wait are read, so a heavy column that did not change costs nothing. A transform that fails
//! concerns its record alone: the slice is read again in halves until the record stands by itself.

use std::collections::HashMap;
use std::sync::Arc;

use crm_domain::{Cells, DataType, ErrorClass, Failure, Value};
use crm_provider::record::Field;
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier};
use serde_json::Value as Json;

use super::config::{Map, MappedField};
use super::{Kept, StoreError, as_owner, subtransaction};

/// What became of one record's row.
pub enum RowValues {
    Found(Vec<(u16, Arc<Field>, Value)>),
    /// Its row is gone.
    Missing,
    /// A value or a transform is at fault.
    Unreadable(Failure),
}

/// A record to read: keys and the cells that are wanted.
pub struct Wanted<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub cells: &'a Cells,
}

/// Rows fetched at a time: few at first, then as many as the rows seen so far allow, so that neither the bound on bytes
/// is overrun by much nor small rows are fetched one by one.
const FIRST_FETCH: usize = 16;
const FETCH: usize = 1000;

/// Reads until `bytes` are in hand. Records that are not in the answer were not reached.
pub fn read(
    map: &Map,
    wanted: &[Wanted],
    bytes: usize,
) -> Result<HashMap<usize, RowValues>, StoreError> {
    let all: Vec<usize> = (0..wanted.len()).collect();
    let mut found = HashMap::with_capacity(wanted.len());
    let mut budget = bytes;
    read_part(map, wanted, &all, &mut budget, &mut found)?;
    Ok(found)
}

fn read_part(
    map: &Map,
    wanted: &[Wanted],
    part: &[usize],
    budget: &mut usize,
    found: &mut HashMap<usize, RowValues>,
) -> Result<(), StoreError> {
    if part.is_empty() || *budget == 0 {
        return Ok(());
    }
    let result = subtransaction(|| as_owner(map.owner, || fetch(map, wanted, part, *budget)));
    match result {
        Ok((rows, used)) => {
            found.extend(rows);
            *budget = budget.saturating_sub(used);
            Ok(())
        }
        // A lock on the table, or an interrupt: nobody's fault, the slice comes again.
        Err(error) if error.is_transient() => Err(error),
        // The table changed under our feet; no record is at fault. (A transform may lack something of its own, though.)
        Err(error)
            if error.is_undefined() && map.fields.iter().all(|f| f.transform_out.is_none()) =>
        {
            Err(error)
        }
        Err(error) if part.len() == 1 => {
            let failure = Failure::record(ErrorClass::Mapping, "unreadable_row", error.message());
            found.insert(part[0], RowValues::Unreadable(failure));
            Ok(())
        }
        Err(_) => {
            let (left, right) = part.split_at(part.len() / 2);
            read_part(map, wanted, left, budget, found)?;
            read_part(map, wanted, right, budget, found)
        }
    }
}

/// A mapped column of `t` as text, through its transform.
fn column_text(f: &MappedField) -> String {
    let column = format!("t.{}", quote_identifier(&f.column));
    match &f.transform_out {
        Some(transform) => format!("{transform}(pg_catalog.to_jsonb({column}))::text"),
        None if f.as_json => format!("pg_catalog.to_jsonb({column})::text"),
        None => format!("{column}::text"),
    }
}

fn value_of(f: &MappedField, text: Option<&str>) -> Result<Value, String> {
    match (&f.transform_out, text) {
        (Some(_), Some(json)) => from_json_text(f.field.data_type, json),
        _ => Value::from_postgres(f.field.data_type, text).map_err(|e| e.to_string()),
    }
}

/// What columns would be sent as if the row held what a JSON object says, in the table's own types.
pub fn of_object(
    map: &Map,
    fields: &[&MappedField],
    object: &Json,
) -> Result<Vec<(u16, Value)>, StoreError> {
    let columns: Vec<String> = fields.iter().map(|f| column_text(f)).collect();
    let statement = format!(
        "SELECT {} FROM pg_catalog.jsonb_populate_record(NULL::{}, $1::pg_catalog.jsonb) AS t",
        columns.join(", "),
        map.relation
    );
    as_owner(map.owner, || {
        Spi::connect_mut(|client| {
            let mut values = Vec::with_capacity(fields.len());
            for row in client.update(Kept(&statement), None, &[object.to_string().into()])? {
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

/// The statement that reads a map's columns: one text per mapped column, NULL where the cell is not wanted.
fn statement(map: &Map) -> String {
    let columns: String = map
        .fields
        .iter()
        .map(|f| {
            format!(
                ", CASE WHEN pg_catalog.get_bit(k.cells, {}) = 1 THEN {} END",
                sql_bit(f.id),
                column_text(f)
            )
        })
        .collect();
    let shard = match &map.shard_column {
        Some(column) => format!(" AND t.{}::text = k.shard_key", quote_identifier(column)),
        None => String::new(),
    };
    format!(
        "SELECT k.ord{columns} FROM unnest($1::text[], $2::text[], $3::bytea[], $4::int[]) AS k (shard_key, record_key, cells, ord)
         JOIN {} t ON t.{} = k.record_key::{}{shard}",
        map.relation,
        quote_identifier(&map.key_column),
        map.key_type
    )
}

/// Where get_bit() finds a cell: it counts bits from the low end of each byte, and words are big-endian.
fn sql_bit(id: u16) -> usize {
    let (word, bit) = (id as usize / 64, id as usize % 64);
    (word * 8 + 7 - bit / 8) * 8 + bit % 8
}

fn fetch(
    map: &Map,
    wanted: &[Wanted],
    part: &[usize],
    budget: usize,
) -> Result<(HashMap<usize, RowValues>, usize), StoreError> {
    // Every mask as long as the map is wide, for get_bit() to find its place.
    let width = map
        .fields
        .iter()
        .map(|f| f.id as usize / 64 + 1)
        .max()
        .unwrap_or(1)
        * 8;
    let masks: Vec<Vec<u8>> = part
        .iter()
        .map(|&i| {
            let mut mask = wanted[i].cells.to_bytes();
            mask.resize(width.max(mask.len()), 0);
            mask
        })
        .collect();
    let shard_keys: Vec<&str> = part.iter().map(|&i| wanted[i].shard_key).collect();
    let record_keys: Vec<&str> = part.iter().map(|&i| wanted[i].record_key).collect();
    let ords: Vec<i32> = part.iter().map(|&i| i as i32).collect();
    let mut found = HashMap::with_capacity(part.len());
    let mut used = 0;
    let exhausted = Spi::connect_mut(|client: &mut SpiClient| -> Result<bool, StoreError> {
        let args = [
            shard_keys.into(),
            record_keys.into(),
            masks.into(),
            ords.into(),
        ];
        // Not read-only, so that it sees what this transaction has just changed.
        let mut cursor = client.try_open_cursor_mut(Kept(&statement(map)), &args)?;
        let mut fetch = FIRST_FETCH;
        loop {
            let rows = cursor.fetch(fetch as _)?;
            if rows.is_empty() {
                return Ok(true);
            }
            for row in rows {
                let ord = row.get::<i32>(1)?.unwrap_or_default() as usize;
                let cells = wanted[ord].cells;
                let mut values = Vec::with_capacity(map.fields.len());
                let mut fault = None;
                for (i, field) in map
                    .fields
                    .iter()
                    .enumerate()
                    .filter(|(_, f)| cells.contains(f.id))
                {
                    let text = row.get::<&str>(i + 2)?;
                    used += text.map_or(0, str::len) + 16;
                    match value_of(field, text) {
                        Ok(value) => values.push((field.id, field.field.clone(), value)),
                        Err(error) => {
                            let message = format!("column \"{}\": {error}", field.column);
                            fault.get_or_insert(Failure::record(
                                ErrorClass::Mapping,
                                "unreadable_value",
                                message,
                            ));
                        }
                    }
                }
                found.insert(
                    ord,
                    fault.map_or(RowValues::Found(values), RowValues::Unreadable),
                );
            }
            if used >= budget {
                return Ok(false);
            }
            fetch = ((budget - used) / (used / found.len().max(1)).max(1)).clamp(1, FETCH);
        }
    })?;
    if exhausted {
        for &i in part {
            found.entry(i).or_insert(RowValues::Missing);
        }
    }
    Ok((found, used))
}

fn from_json_text(data_type: DataType, text: &str) -> Result<Value, String> {
    let json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Value::from_json(data_type, &json).map_err(|e| e.to_string())
}

/// Deletes a row whose CRM record was deleted, as the table's owner.
pub fn delete_row(map: &Map, shard_key: &str, record_key: &str) -> Result<(), StoreError> {
    let shard = match &map.shard_column {
        Some(column) => format!(" AND t.{}::text = $2", quote_identifier(column)),
        None => " AND $2 = $2".to_owned(),
    };
    let statement = format!(
        "DELETE FROM {} t WHERE t.{} = $1::{}{shard}",
        map.relation,
        quote_identifier(&map.key_column),
        map.key_type
    );
    subtransaction(|| {
        as_owner(map.owner, || {
            Spi::connect_mut(|client| {
                client
                    .update(&statement, None, &[record_key.into(), shard_key.into()])
                    .map(|_| ())
            })
            .map_err(StoreError::from)
        })
    })
}
