//! Columns of every type: whether a cell changed is decided rightly, and by nobody else's code.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    /// Creates the table with a value, sets another, and returns whether that was captured as a
    /// change.
    fn changes(column_type: &str, data_type: &str, from: &str, to: &str) -> bool {
        run("DROP TABLE IF EXISTS t");
        run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, c {column_type})"
        ));
        let map = value(&format!(
            "SELECT crm.map_object('{}', 't', 'account')",
            connection()
        ))
        .parse()
        .unwrap();
        field(map, "c", &[&format!("data_type => '{data_type}'")]);
        run(&format!("INSERT INTO t VALUES (1, {from})"));
        run(&format!("UPDATE t SET c = {to}"));
        let captured = captured(map);
        run(&format!("SELECT crm.unmap_object({map})"));
        assert!(captured.is_empty() || captured == ["u 1 c"], "{captured:?}");
        !captured.is_empty()
    }

    #[pg_test]
    fn equal_values_are_no_change_and_others_are() {
        run("CREATE TYPE mood AS ENUM ('ok', 'bad');
             CREATE TYPE pair AS (a int, b json);
             CREATE DOMAIN name_list AS text[];
             CREATE DOMAIN doc AS json");
        for (column_type, data_type, from, same, other) in [
            ("text", "text", "'a'", "'a'", "'A'"),
            ("text", "text", "NULL", "NULL", "''"),
            ("varchar(9)", "text", "'a'", "'a'", "'b'"),
            ("numeric", "number", "1.0", "1.00", "1.01"),
            ("float8", "number", "'NaN'", "'NaN'", "1"),
            ("boolean", "boolean", "true", "true", "NULL"),
            ("date", "date", "'2026-01-01'", "'20260101'", "'2026-01-02'"),
            (
                "timestamptz",
                "timestamp",
                "'2026-01-01 00:00+00'",
                "'2026-01-01 01:00+01'",
                "'2026-01-01 00:00+01'",
            ),
            ("mood", "choice", "'ok'", "'ok'", "'bad'"),
            ("mood[]", "multi_choice", "'{ok}'", "'{ok}'", "'{ok,bad}'"),
            ("text[]", "multi_choice", "'{a,b}'", "'{a,b}'", "'{b}'"),
            ("name_list", "multi_choice", "'{a}'", "'{a}'", "'{A}'"),
            (
                "json",
                "json",
                "'{\"a\": 1}'",
                "'{\"a\": 1}'",
                "'{\"a\": 2}'",
            ),
            ("doc", "json", "'[]'", "'[]'", "'[1]'"),
            (
                "jsonb",
                "json",
                "'{\"a\": 1, \"b\": 2}'",
                "'{\"b\":2,\"a\":1.0}'",
                "'{\"a\": 1}'",
            ),
            (
                "json[]",
                "text",
                "ARRAY['1'::json]",
                "ARRAY['1'::json]",
                "NULL",
            ),
            (
                "pair",
                "json",
                "ROW(1, '1')",
                "ROW(1, '1')",
                "ROW(NULL, NULL)",
            ),
            (
                "pair[]",
                "text",
                "ARRAY[ROW(1, '1')::pair]",
                "ARRAY[ROW(1, '1')::pair]",
                "'{}'",
            ),
            ("point", "text", "'(1,2)'", "'(1,2)'", "'(1,3)'"),
            ("int4range", "text", "'[1,3)'", "'[1,2]'", "'[1,4]'"),
            (
                "uuid",
                "text",
                "'6f1b4d3a-0000-4000-8000-00000000000A'",
                "'6f1b4d3a00004000800000000000000a'",
                "NULL",
            ),
        ] {
            assert!(
                !changes(column_type, data_type, from, same),
                "{column_type}: {from} -> {same}"
            );
            assert!(
                changes(column_type, data_type, from, other),
                "{column_type}: {from} -> {other}"
            );
        }
    }

    #[pg_test]
    fn texts_that_a_collation_calls_equal_differ_for_a_crm() {
        run(
            "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        );
        assert!(changes("text COLLATE caseless", "text", "'ann'", "'Ann'"));
        assert!(changes(
            "text[] COLLATE caseless",
            "multi_choice",
            "'{ann}'",
            "'{Ann}'"
        ));
    }

    #[pg_test]
    fn a_users_cast_does_not_run_with_a_superusers_rights() {
        run(
            "CREATE ROLE caster; CREATE SCHEMA caster AUTHORIZATION caster;
             SELECT crm.grant_access('caster', 'admin')",
        );
        let connection = connection();
        run("SET ROLE caster; SET search_path = caster;
             CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TYPE pair AS (a int);
             CREATE FUNCTION cast_mood(mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'cast as %', current_user; END $$;
             CREATE FUNCTION cast_pair(pair) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'cast as %', current_user; END $$;
             CREATE FUNCTION cast_number(mood) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE 'cast as %', current_user; END $$;
             CREATE FUNCTION upcase(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
             CREATE CAST (mood AS text) WITH FUNCTION cast_mood(mood);
             CREATE CAST (mood AS numeric) WITH FUNCTION cast_number(mood);
             CREATE CAST (pair AS text) WITH FUNCTION cast_pair(pair);
             CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], p pair, n mood)");
        run(&format!(
            r#"SELECT crm.map_field(m, 'm', 'x_m', validation => '{{"choices": ["ok"]}}'),
                      crm.map_field(m, 'ms', 'x_ms', validation => '{{"choices": ["ok"]}}'),
                      crm.map_field(m, 'p', 'x_p'),
                      crm.map_field(m, 'n', 'x_n', data_type => 'text', validation => '{{"pattern": "b"}}')
               FROM crm.map_object('{connection}', 't', 'account', shard_column => 'n') m"#
        ));
        accepts("INSERT INTO t VALUES (1, 'ok', '{ok}', ROW(1), 'bad')");
        accepts("UPDATE t SET p = ROW(2), ms = '{ok,ok}'");
        refuses(
            "UPDATE t SET m = 'bad'",
            &["23514", "column \"m\", rule choices: ok"],
        );
        refuses("UPDATE t SET ms = '{ok,bad}'", &["23514", "column \"ms\""]);
        run("RESET ROLE");
    }
}
