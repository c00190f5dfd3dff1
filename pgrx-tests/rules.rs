//! Validation rules at the triggers: each rule, for each type that takes it, on both sides of its
//! limit.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    /// Maps a column with these rules and puts each value to an INSERT and to an UPDATE.
    #[track_caller]
    fn rule(column_type: &str, data_type: &str, rules: &str, good: &[&str], bad: &[&str]) {
        run("DROP TABLE IF EXISTS t");
        run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, c {column_type}); INSERT INTO t VALUES (1, NULL)"
        ));
        let map = map("t", &[]);
        field(
            map,
            "c",
            &[
                &format!("data_type => '{data_type}'"),
                &format!("validation => '{rules}'"),
            ],
        );
        for good in good {
            accepts(&format!("INSERT INTO t VALUES (2, {good})"));
            accepts(&format!("UPDATE t SET c = {good} WHERE id = 1"));
            run("ALTER TABLE t DISABLE TRIGGER USER;
                 DELETE FROM t WHERE id = 2; UPDATE t SET c = NULL;
                 ALTER TABLE t ENABLE TRIGGER USER");
        }
        for bad in bad {
            refuses(
                &format!("INSERT INTO t VALUES (2, {bad})"),
                &["23514", "column \"c\"", "record_key 2"],
            );
            if *bad != "NULL" {
                refuses(
                    &format!("UPDATE t SET c = {bad}"),
                    &["23514", "column \"c\"", "record_key 1"],
                );
            }
        }
        run(&format!("SELECT crm.unmap_object({map})"));
    }

    #[pg_test]
    fn min_and_max_bound_numbers_inclusively() {
        rule(
            "numeric",
            "number",
            r#"{"min": -1, "max": 1e2}"#,
            &["-1", "100.00", "NULL"],
            &["-1.001", "100.001", "'NaN'"],
        );
        rule("int", "number", r#"{"min": "5"}"#, &["5"], &["4"]);
        rule(
            "float8",
            "number",
            r#"{"max": 0.5}"#,
            &["0.5", "'-Infinity'"],
            &["0.51"],
        );
    }

    #[pg_test]
    fn min_and_max_bound_moments_whatever_the_sessions_zone() {
        for zone in ["UTC", "America/New_York", "Asia/Tokyo"] {
            run(&format!("SET LOCAL timezone = '{zone}'"));
            rule(
                "date",
                "date",
                r#"{"min": "2026-01-01"}"#,
                &["'2026-01-01'"],
                &["'2025-12-31'"],
            );
            rule(
                "date",
                "date",
                r#"{"max": 1767225600000}"#,
                &["'2026-01-01'"],
                &["'2026-01-02'"],
            );
            rule(
                "timestamptz",
                "timestamp",
                r#"{"min": "2026-01-01", "max": "2026-01-02T00:00:00+01:00"}"#,
                &["'2026-01-01 00:00Z'", "'2026-01-01 23:00Z'"],
                &["'2025-12-31 23:59:59Z'", "'2026-01-01 23:00:01Z'"],
            );
            rule(
                "timestamp",
                "timestamp",
                r#"{"min": "2026-01-01T00:00:00Z"}"#,
                &["'2026-01-01 00:00'"],
                &["'2025-12-31 23:59'"],
            );
            rule(
                "timestamptz",
                "date",
                r#"{"max": "2026-01-01"}"#,
                &["'2026-01-01 23:59Z'"],
                &["'2026-01-02 00:00Z'"],
            );
            rule(
                "date",
                "timestamp",
                r#"{"min": "2026-01-01T00:00:00Z"}"#,
                &["'2026-01-01'"],
                &["'2025-12-31'"],
            );
        }
    }

    #[pg_test]
    fn max_length_counts_as_crms_do() {
        // An emoji is two, an umlaut one, and what a CRM trims does not count.
        rule(
            "text",
            "text",
            r#"{"max_length": 4}"#,
            &["'abcd'", "'äöüß'", "'😀😀'", "'  abcd '", "''", "NULL"],
            &["'abcde'", "'😀😀x'"],
        );
        rule(
            "varchar(99)",
            "text",
            r#"{"max_length": 4294967295}"#,
            &["'abc'"],
            &[],
        );
        rule("int", "text", r#"{"max_length": 2}"#, &["12"], &["123"]);
    }

    #[pg_test]
    fn nullable_false_refuses_all_that_is_null_for_a_crm() {
        rule(
            "text",
            "text",
            r#"{"nullable": false}"#,
            &["'x'", "' x '"],
            &["NULL", "''", "E' \\n\\t'"],
        );
        rule("int", "number", r#"{"nullable": false}"#, &["0"], &["NULL"]);
        rule(
            "boolean",
            "boolean",
            r#"{"nullable": false}"#,
            &["false"],
            &["NULL"],
        );
        rule(
            "text[]",
            "multi_choice",
            r#"{"nullable": false}"#,
            &["'{a}'"],
            &["NULL", "'{}'"],
        );
        rule(
            "jsonb",
            "json",
            r#"{"nullable": false}"#,
            &["'{}'"],
            &["NULL"],
        );
        rule(
            "text",
            "text",
            r#"{"nullable": true}"#,
            &["NULL", "''"],
            &[],
        );
    }

    /// NBSP, the ideographic space, control characters and line ends count in the rules as they do
    /// in what is sent.
    #[pg_test]
    fn what_is_blank_and_how_long_a_text_is_follows_what_is_sent() {
        let blank = [
            "U&'\\00a0\\3000'",
            "U&'\\2003\\2028\\0085'",
            "E'\\x01\\x1f \\r\\n'",
        ];
        for data_type in ["text", "choice", "reference"] {
            let good = ["U&'\\00a0x'", "U&'\\200b'", "'é'"];
            rule("text", data_type, r#"{"nullable": false}"#, &good, &blank);
        }
        rule(
            "text",
            "multi_choice",
            r#"{"nullable": false}"#,
            &["'a'"],
            &["U&';\\00a0; '"],
        );
        rule(
            "text[]",
            "multi_choice",
            r#"{"nullable": false}"#,
            &["'{a}'"],
            &["ARRAY[U&'\\00a0', '']"],
        );
        rule(
            "text",
            "text",
            r#"{"max_length": 5}"#,
            &[
                "U&'abcde\\00a0'",
                "E'ab\\r\\ncd'",
                "E'\\r\\nabcde\\r\\n'",
                blank[0],
            ],
            &["U&'abcd\\00a0e'", "E'ab\\r\\ncde'"],
        );
        rule(
            "text",
            "text",
            r#"{"pattern": "^a\\nb$"}"#,
            &["E'a\\r\\nb'", "E'a\\rb'", "U&'\\3000a\\000ab'", blank[1]],
            &["U&'a\\00a0b'"],
        );
        rule(
            "text",
            "choice",
            r#"{"choices": ["a", "b c"]}"#,
            &["U&'\\3000a\\00a0'", "'b c'", blank[0]],
            &["U&'b\\00a0c'"],
        );
        for column_type in ["text", "text[]"] {
            let words = |text: &str| match column_type {
                "text" => text.to_owned(),
                _ => format!("regexp_split_to_array({text}, ';')"),
            };
            let (good, bad) = (words("U&'\\00a0a ;b\\3000;'"), words("U&'a;\\00a0c'"));
            rule(
                column_type,
                "multi_choice",
                r#"{"choices": ["a", "b"]}"#,
                &[&good],
                &[&bad],
            );
        }
    }

    /// The triggers and the domain judge any text alike.
    #[pg_test]
    fn the_rules_agree_with_the_domain() {
        use crm_domain::validation::Rules;
        use crm_domain::{DataType, Value};
        let rules = r#"{"nullable": false, "max_length": 3, "pattern": "^[ab]", "choices": ["a", "ab", "a\nb", "bbbb"]}"#;
        run("CREATE TABLE t (id int PRIMARY KEY, c text)");
        let map = map("t", &[]);
        field(
            map,
            "c",
            &["data_type => 'text'", &format!("validation => '{rules}'")],
        );
        let json = serde_json::from_str(rules).unwrap();
        let rules = Rules::parse(&json, DataType::Text).unwrap();
        let parts = [
            "a", "b", "\r\n", "\n", " ", "\u{a0}", "\u{3000}", "\u{1}", "😀",
        ];
        let mut n = 0;
        for first in parts {
            for second in parts {
                for third in parts {
                    let text = format!("{first}{second}{third}");
                    let insert = format!("INSERT INTO t VALUES ({n}, '{text}')");
                    n += 1;
                    match rules.check(&Value::text(&text)) {
                        Ok(()) => accepts(&insert),
                        Err(_) => refuses(&insert, &["23514"]),
                    }
                }
            }
        }
    }

    #[pg_test]
    fn pattern_matches_anywhere_unless_anchored() {
        rule(
            "text",
            "text",
            r#"{"pattern": "[0-9]"}"#,
            &["'a1b'", "NULL", "''"],
            &["'ab'"],
        );
        rule(
            "text",
            "text",
            r#"{"pattern": "^[A-Z]{2}\\d+$"}"#,
            &["'AB1'", "' AB1 '"],
            &["'ab1'", "'AB'", "'xAB1'"],
        );
        rule(
            "text",
            "text",
            r#"{"pattern": "(?i)^o''hara$"}"#,
            &["'O''Hara'"],
            &["'Ohara'"],
        );
    }

    #[pg_test]
    fn choices_are_closed() {
        rule(
            "text",
            "choice",
            r#"{"choices": ["new", "it''s", "a,b{}\"c\\"]}"#,
            &["'new'", "'it''s'", "E'a,b{}\"c\\\\'", "NULL", "''"],
            &["'New'", "'x'"],
        );
        rule(
            "int",
            "number",
            r#"{"choices": [1, 2.0, "3"]}"#,
            &["1", "2", "3"],
            &["4"],
        );
        rule(
            "text[]",
            "multi_choice",
            r#"{"choices": ["a", "b"]}"#,
            &["'{b,a,a}'", "'{}'", "NULL"],
            &["'{a,c}'"],
        );
        rule(
            "text",
            "multi_choice",
            r#"{"choices": ["a", "b"]}"#,
            &["'a; b'", "'b'", "''"],
            &["'a;c'"],
        );
        run("CREATE TYPE mood AS ENUM ('ok', 'bad')");
        rule(
            "mood",
            "choice",
            r#"{"choices": ["ok"]}"#,
            &["'ok'::mood"],
            &["'bad'::mood"],
        );
        rule(
            "mood[]",
            "multi_choice",
            r#"{"choices": ["ok"]}"#,
            &["'{ok}'::mood[]"],
            &["'{ok,bad}'::mood[]"],
        );
    }

    #[pg_test]
    fn an_update_is_judged_by_the_cells_it_changes() {
        run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)");
        run("INSERT INTO t VALUES (1, 'far too long', 'x'), (2, 'ok', 'x')");
        let map = map("t", &[]);
        field(map, "a", &[r#"validation => '{"max_length": 3}'"#]);
        field(map, "b", &[r#"validation => '{"max_length": 3}'"#]);
        accepts("UPDATE t SET b = 'y'");
        accepts("UPDATE t SET a = a, b = 'z'");
        refuses(
            "UPDATE t SET a = a || '!'",
            &["23514", "column \"a\"", "record_key 1"],
        );
        accepts("UPDATE t SET a = 'now' WHERE id = 1");
    }

    #[pg_test]
    fn a_rule_breach_fails_the_whole_statement() {
        let map = mapped("t", &["a int"]);
        field(map, "a", &[r#"validation => '{"max": 10}'"#]);
        refuses(
            "INSERT INTO t SELECT i, i FROM generate_series(1, 100) i",
            &["23514", "record_key 11", "record_key 15", "…"],
        );
        assert_eq!(value("SELECT count(*) FROM t"), "0");
        assert!(captured(map).is_empty());
        let refusal = refusal("INSERT INTO t SELECT i, i FROM generate_series(1, 12) i");
        assert!(
            !refusal.contains('…') && refusal.contains("record_key 12"),
            "{refusal}"
        );
    }

    #[pg_test]
    fn inbound_fields_do_not_bind_local_edits() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int)");
        let map = map("t", &[]);
        field(map, "a", &["'inbound'", r#"validation => '{"max": 10}'"#]);
        accepts("INSERT INTO t VALUES (1, 11)");
        field(
            map,
            "a",
            &[
                "'outbound'",
                r#"validation => '{"max": 10}'"#,
                "materialize => false",
            ],
        );
        refuses("INSERT INTO t VALUES (2, 11)", &["23514"]);
    }
}
