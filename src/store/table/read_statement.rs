//! The statements that read a map's columns.

use pgrx::spi::quote_identifier;

use crate::store::config::field::MappedField;
use crate::store::config::map::Map;

/// The statement that reads a map's columns: one text per mapped column, NULL where the cell is not
/// wanted.
pub fn statement(map: &Map, filtered: bool) -> String {
    let columns: String = map
        .fields
        .iter()
        .map(|f| {
            let text = column_text(f, &format!("t.{}", quote_identifier(&f.column)));
            format!(
                ", CASE WHEN pg_catalog.get_bit(k.cells, {}) = 1 THEN {text} END",
                sql_bit(f.id)
            )
        })
        .collect();
    format!(
        "SELECT k.ord{columns}, {} AS inside FROM {KEYS} JOIN {} t ON {}",
        inside(map, filtered),
        map.relation,
        join(map)
    )
}

/// The keys and cells that are wanted.
pub const KEYS: &str = "unnest($1::text[], $2::text[], $3::bytea[], $4::int[]) AS k (shard_key, record_key, cells, ord)";

pub fn join(map: &Map) -> String {
    map.is_row("k.shard_key", "k.record_key")
}

/// The same with transforms: a row for each key that is wanted, in order, and whether the table has
/// it. The subquery sorts; transforms are called on top of it, row by row as they are fetched.
pub fn transforming_statement(map: &Map, filtered: bool) -> String {
    let (mut columns, mut texts) = (String::new(), String::new());
    for (i, f) in map.fields.iter().enumerate() {
        columns += &format!(", t.{} AS c{i}", quote_identifier(&f.column));
        let text = column_text(f, &format!("r.c{i}"));
        texts += &format!(
            ", CASE WHEN r.there AND pg_catalog.get_bit(r.cells, {}) = 1 THEN {text} END",
            sql_bit(f.id)
        );
    }
    format!(
        "SELECT r.ord, r.there{texts}
         FROM (SELECT k.ord, k.cells, CASE WHEN t.{} IS NOT NULL THEN {} ELSE false END AS there{columns} FROM {KEYS} LEFT JOIN {} t ON {} ORDER BY k.ord OFFSET 0) r",
        quote_identifier(&map.key.name),
        inside(map, filtered),
        map.relation,
        join(map)
    )
}

/// Whether the row `t` counts.
pub fn inside(map: &Map, filtered: bool) -> String {
    let filter = map.filter.as_ref().filter(|_| filtered);
    filter.map_or_else(|| "true".to_owned(), |filter| filter.of_row("t"))
}

/// Where get_bit() finds a cell: it counts bits from the low end of each byte, and words are
/// big-endian.
pub fn sql_bit(id: u16) -> usize {
    let (word, bit) = (id as usize / 64, id as usize % 64);
    (word * 8 + 7 - bit / 8) * 8 + bit % 8
}

/// A mapped column as text, through its transform.
pub fn column_text(f: &MappedField, column: &str) -> String {
    match &f.transform_out {
        Some(transform) => format!("{transform}(pg_catalog.to_jsonb({column}))::text"),
        None if f.as_json => format!("pg_catalog.to_jsonb({column})::text"),
        None => format!("{column}::text"),
    }
}
