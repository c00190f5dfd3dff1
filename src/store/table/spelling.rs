//! What a column's type makes of a CRM value's text: `1 week` becomes `7 days`.
//!
//! Guarantees: a spelling is told from what a trigger made of the value, and from a rounding, by
//! casting the text to the type as the column does. What would be rounded is refused before the row
//! is written.

use std::collections::HashSet;

use crm_domain::{Cells, Column, Rounded};
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

use crate::store::config::field::MappedField;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::crm_values::{self, Altered, CrmValues};
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::{self, Pace};
use crate::store::table::read::Bounds;

/// Refuses values, in JSON objects, that their columns would round. Runs as the table's owner.
pub fn refuse_rounded<'a>(
    map: &Map,
    columns: impl IntoIterator<Item = &'a str>,
    objects: &[&str],
) -> Result<(), StoreError> {
    let of_column = |column| map.fields.iter().find(|f| f.column == column);
    let rounding: Vec<(&MappedField, String, &str)> = columns
        .into_iter()
        .filter_map(of_column)
        .filter_map(|f| {
            let (exact, type_name) = exactly(f)?;
            Some((f, exact, type_name))
        })
        .collect();
    if rounding.is_empty() {
        return Ok(());
    }
    let exact: Vec<&str> = rounding
        .iter()
        .map(|(_, exact, _)| exact.as_str())
        .collect();
    let unrounded: Vec<String> = rounding
        .iter()
        .map(|(f, _, type_name)| format!("{} {type_name}", quote_identifier(&f.column)))
        .collect();
    let statement = format!(
        "SELECT ARRAY[{}] AS exact
         FROM pg_catalog.unnest($1::pg_catalog.text[]) AS k (changes),
              LATERAL pg_catalog.jsonb_to_record(k.changes::pg_catalog.jsonb) AS r ({}),
              LATERAL pg_catalog.jsonb_to_record(k.changes::pg_catalog.jsonb) AS u ({})",
        exact.join(", "),
        map.record_type(rounding.iter().map(|(f, _, _)| f.column.as_str())),
        unrounded.join(", "),
    );
    Spi::connect_mut(|client| {
        for row in client.update(Cached(&statement), None, &[objects.to_vec().into()])? {
            let exact: Vec<bool> = row.required("exact")?;
            if let Some(place) = exact.iter().position(|exact| !exact) {
                let (column, type_name) = (&rounding[place].0.column, &rounding[place].0.type_name);
                return Err(StoreError::Postgres {
                    code: PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                    message: format!(
                        "column \"{column}\" of type {type_name} cannot hold the value exactly"
                    ),
                });
            }
        }
        Ok(())
    })
}

/// Whether the column's value `r` is exactly what was given, as SQL, and the type of `u`, the same
/// value as it was given. `None`: it does not round, or a transform may.
fn exactly(field: &MappedField) -> Option<(String, &'static str)> {
    let Column::Rounded(rounded) = field.holds else {
        return None;
    };
    let column = quote_identifier(&field.column);
    match rounded {
        _ if field.transform_in.is_some() => None,
        Rounded::ToMicroseconds => None,
        Rounded::By(type_name) => {
            let equal = format!("coalesce(u.{column} OPERATOR(pg_catalog.=) r.{column}, true)");
            Some((equal, type_name))
        }
        Rounded::ToCents => {
            let digits = |value: String| {
                let digits = format!(
                    "pg_catalog.regexp_replace({value}::pg_catalog.text, '[^0-9]', '', 'g')"
                );
                format!("pg_catalog.rtrim(pg_catalog.ltrim({digits}, '0'), '0')")
            };
            let (given, held) = (digits(format!("u.{column}")), digits(format!("r.{column}")));
            let equal = format!("coalesce({given} OPERATOR(pg_catalog.=) {held}, true)");
            Some((equal, "pg_catalog.text"))
        }
    }
}

/// Of cells that hold something else than the CRM (by place among `changes`), those that hold just
/// what their type makes of the CRM's value.
pub fn spelled(
    map: &Map,
    changes: &[&CrmValues],
    differing: &[(usize, Altered)],
    bounds: &Bounds,
) -> HashSet<(usize, u16)> {
    let mut found = HashSet::new();
    let is_cast = |id: &u16| {
        let field = map.field(*id);
        field.is_some_and(|f| f.transform_in.is_none() && f.transform_out.is_none())
    };
    let cells: Cells = differing
        .iter()
        .flat_map(|(_, altered)| altered.keys().copied())
        .filter(is_cast)
        .collect();
    if cells.is_empty() {
        return found;
    }
    let cells: Vec<u16> = cells.iter().collect();
    let mut pace = Pace::new(map, bounds.time);
    let all: Vec<usize> = (0..differing.len()).collect();
    // What cannot be compared is taken for an alteration.
    pace::each(&mut pace, &all, |pace, part| {
        let places: Vec<usize> = part.iter().map(|&n| differing[n].0).collect();
        let rows = pace.run_nested(part.len(), || as_cast(map, &cells, changes, &places))?;
        for (&n, is_cast) in part.iter().zip(rows) {
            let (place, altered) = &differing[n];
            let spelled = cells.iter().zip(is_cast).filter(|(_, is_cast)| *is_cast);
            let spelled = spelled.filter(|(id, _)| altered.contains_key(id));
            found.extend(spelled.map(|(id, _)| (*place, *id)));
        }
        Ok(())
    });
    found
}

/// For each of these rows, whether it holds in each of the cells what the cast of the CRM's value
/// to the column's type is. Compared byte by byte: not every type has an equality.
fn as_cast(
    map: &Map,
    cells: &[u16],
    changes: &[&CrmValues],
    places: &[usize],
) -> Result<Vec<Vec<bool>>, StoreError> {
    let columns: Vec<&str> = cells
        .iter()
        .filter_map(|id| Some(map.field(*id)?.column.as_str()))
        .collect();
    let equal: Vec<String> = columns
        .iter()
        .map(|column| {
            let column = quote_identifier(column);
            format!("pg_catalog.record_image_eq(ROW(t.{column}), ROW(r.{column}))")
        })
        .collect();
    let statement = format!(
        "SELECT k.ord - 1 AS ord, ARRAY[{}] AS is_cast
         FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[]))
                  WITH ORDINALITY AS k (shard_key, record_key, changes, ord),
              LATERAL pg_catalog.jsonb_to_record(k.changes::pg_catalog.jsonb) AS r ({}), {} AS t
         WHERE {}",
        equal.join(", "),
        map.record_type(columns.iter().copied()),
        map.relation,
        map.is_row("k.shard_key", "k.record_key"),
    );
    let mut objects = Vec::with_capacity(places.len());
    for &place in places {
        let mut values = changes[place].values.clone();
        values.retain(|id, _| cells.contains(id));
        objects.push(serde_json::Value::Object(crm_values::columns(map, &values)?).to_string());
    }
    as_owner_of(map, || {
        Spi::connect_mut(|client| {
            let args = [
                places
                    .iter()
                    .map(|&n| changes[n].shard_key)
                    .collect::<Vec<_>>()
                    .into(),
                places
                    .iter()
                    .map(|&n| changes[n].record_key)
                    .collect::<Vec<_>>()
                    .into(),
                objects
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .into(),
            ];
            let mut found = vec![vec![false; cells.len()]; places.len()];
            for row in client.update(Cached(&statement), None, &args)? {
                let place: usize = row.number("ord")?;
                found[place] = row.required("is_cast")?;
            }
            Ok(found)
        })
    })
}
