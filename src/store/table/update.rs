//! Setting cells of users' rows, so that their triggers fire and our own know whose doing it is.

use pgrx::spi::{SpiClient, quote_identifier};

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::{Cached, names};

/// A row to change: its keys, and column -> value as a JSON object.
pub struct Row {
    pub shard_key: String,
    pub record_key: String,
    pub values: String,
}

/// A row that was changed.
pub struct Changed {
    /// Its place among those that were to be.
    pub place: usize,
    /// It holds what it was to hold: no trigger made something else of it.
    pub as_given: bool,
}

/// Sets these columns of rows; returns those that were changed. Runs as the current user, and names
/// only what the mapping refers to: an UPDATE of the caller's own would have resolved these names
/// before the CRM was asked.
pub fn update(
    client: &mut SpiClient,
    map: &Map,
    columns: &[&str],
    rows: &[Row],
) -> Result<Vec<Changed>, StoreError> {
    names::restrict_to(&map.names, || {
        update_returning(client, map, columns, rows, "true")
    })
}

/// The same, and looks at what the rows then hold, which takes the right to read these columns.
/// Compared byte by byte: not every type has an equality.
pub fn update_looking(
    client: &mut SpiClient,
    map: &Map,
    columns: &[&str],
    rows: &[Row],
) -> Result<Vec<Changed>, StoreError> {
    let list = |alias: &str| {
        let columns = columns
            .iter()
            .map(|column| format!("{alias}.{}", quote_identifier(column)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let (held, given) = (list("t"), list("r"));
    let as_given = format!("pg_catalog.record_image_eq(ROW({held}), ROW({given}))");
    update_returning(client, map, columns, rows, &as_given)
}

fn update_returning(
    client: &mut SpiClient,
    map: &Map,
    columns: &[&str],
    rows: &[Row],
    as_given: &str,
) -> Result<Vec<Changed>, StoreError> {
    let set: Vec<String> = columns
        .iter()
        .map(|column| format!("{0} = r.{0}", quote_identifier(column)))
        .collect();
    let statement = format!(
        "UPDATE {relation} AS t SET {set}
         FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[]))
                  WITH ORDINALITY AS k (shard_key, record_key, changes, ord),
              LATERAL pg_catalog.jsonb_to_record(k.changes::pg_catalog.jsonb) AS r ({record})
         WHERE {row} RETURNING k.ord - 1 AS ord, {as_given} AS as_given",
        relation = map.relation,
        set = set.join(", "),
        record = map.record_type(columns.iter().copied()),
        row = map.is_row("k.shard_key", "k.record_key"),
    );
    let result = client.update(
        Cached(&statement),
        None,
        &[
            rows.iter()
                .map(|r| r.shard_key.as_str())
                .collect::<Vec<_>>()
                .into(),
            rows.iter()
                .map(|r| r.record_key.as_str())
                .collect::<Vec<_>>()
                .into(),
            rows.iter()
                .map(|r| r.values.as_str())
                .collect::<Vec<_>>()
                .into(),
        ],
    )?;
    let mut changed = Vec::with_capacity(result.len());
    for row in result {
        changed.push(Changed {
            place: row.number("ord")?,
            as_given: row.required("as_given")?,
        });
    }
    Ok(changed)
}
