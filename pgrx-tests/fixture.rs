//! What the tests share: SQL in, text out; a mapped table; what was captured of it; how a statement
//! is refused.

use pgrx::prelude::*;

pub fn run(sql: &str) {
    Spi::run(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// The rows of a query of one column, as text.
pub fn rows(query: &str) -> Vec<String> {
    let query = format!("SELECT array_agg(coalesce(x::text, 'NULL')) FROM ({query}) q (x)");
    Spi::get_one(&query)
        .unwrap_or_else(|error| panic!("{error}: {query}"))
        .unwrap_or_default()
}

/// The one value of a query, as text.
pub fn value(query: &str) -> String {
    let mut rows = rows(query);
    assert_eq!(rows.len(), 1, "{query}");
    rows.remove(0)
}

/// How a statement is refused: its SQLSTATE, message, detail and hint, a line each; empty if it is
/// not.
pub fn refusal(statement: &str) -> String {
    if value("SELECT to_regprocedure('pg_temp.refusal(text)') IS NULL") == "true" {
        run(r"
            CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text LANGUAGE plpgsql AS $$
            DECLARE message text; detail text; hint text;
            BEGIN
                EXECUTE statement;
                RETURN '';
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
                RETURN concat_ws(E'\n', sqlstate || ' ' || message, nullif(detail, ''), nullif(hint, ''));
            END $$");
    }
    value(&format!(
        "SELECT pg_temp.refusal({})",
        pgrx::spi::quote_literal(statement)
    ))
}

#[track_caller]
pub fn accepts(statement: &str) {
    assert_eq!(refusal(statement), "", "{statement}");
}

/// Asserts that a statement is refused, and that the words are in the error.
#[track_caller]
pub fn refuses(statement: &str, words: &[&str]) {
    let refusal = refusal(statement);
    assert!(!refusal.is_empty(), "accepted: {statement}");
    for word in words {
        assert!(
            refusal.contains(word),
            "no {word:?} in the refusal of {statement}:\n{refusal}"
        );
    }
}

/// This test's own connection to the stub: tests run side by side.
pub fn connection() -> String {
    let name = format!("stub-{}", std::process::id());
    if value(&format!(
        "SELECT count(*) FROM crm.connection WHERE name = '{name}'"
    )) == "0"
    {
        run(&format!("SELECT crm.create_connection('{name}', 'stub')"));
    }
    name
}

/// Maps a table with these further arguments of `crm.map_object`.
pub fn map(relation: &str, arguments: &[&str]) -> i32 {
    let arguments: String = arguments.iter().map(|a| format!(", {a}")).collect();
    let connection = connection();
    let relation = pgrx::spi::quote_literal(relation);
    value(&format!(
        "SELECT crm.map_object('{connection}', {relation}, 'account'{arguments})"
    ))
    .parse()
    .expect("a map_id")
}

/// Maps a column to a custom field, with these further arguments of `crm.map_field`, or alters how it
/// is mapped.
pub fn field(map: i32, column: &str, arguments: &[&str]) {
    let field = pgrx::spi::quote_literal(format!("x_{column}"));
    let column = pgrx::spi::quote_literal(column);
    let arguments: String = arguments.iter().map(|a| format!(", {a}")).collect();
    let mapped = value(&format!(
        "SELECT EXISTS (SELECT FROM crm.field_map WHERE map_id = {map} AND column_name = {column})"
    ));
    let verb = if mapped == "true" {
        "alter_field"
    } else {
        "map_field"
    };
    run(&format!(
        "SELECT crm.{verb}({map}, {column}, {field}{arguments})"
    ));
}

/// New records of the map are created in the CRM, so their INSERT is captured.
pub const CREATE: &[&str] = &[
    "external_id_field => 'external_key'",
    "on_insert => 'create'",
];

/// A table with a key `id` and these columns, all of them mapped, whose new rows are captured.
pub fn mapped(table: &str, columns: &[&str]) -> i32 {
    run(&format!(
        "CREATE TABLE {table} (id int PRIMARY KEY, {})",
        columns.join(", ")
    ));
    let map = map(table, CREATE);
    for column in columns {
        let name = column.split(' ').next().expect("a name");
        // Nothing can be taken into a generated column.
        let arguments: &[&str] = match column.contains("GENERATED") {
            true => &["direction => 'outbound'"],
            false => &[],
        };
        field(map, name, arguments);
    }
    map
}

/// What was captured since the last call, as `op record_key columns`, in order; records of one
/// statement that changed alike come together.
pub fn captured(map: i32) -> Vec<String> {
    let captured = rows(&format!(
        "SELECT concat_ws(' ', h.op, k.record_key, (
                    SELECT string_agg(f.column_name, ',' ORDER BY f.field_id) FROM crm.field_map f
                    WHERE f.map_id = h.map_id AND crm_internal.cells_has(h.cells, f.field_id)))
         FROM crm.change h, unnest(h.record_keys) WITH ORDINALITY AS k (record_key, place)
         WHERE h.map_id = {map} ORDER BY h.change_id, k.place"
    ));
    run(&format!("DELETE FROM crm.change WHERE map_id = {map}"));
    captured
}
