//! Names that need quoting, names in other alphabets, names that pg_crm's own code uses.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    /// Maps a column of that name in a table of that name, and exercises capture and validation.
    fn works(table: &str, column: &str) {
        let (t, c) = (
            pgrx::spi::quote_identifier(table),
            pgrx::spi::quote_identifier(column),
        );
        run(&format!("CREATE TABLE {t} (id int PRIMARY KEY, {c} text)"));
        let map = map(&t, &[CREATE[0], CREATE[1], "on_delete => 'delete'"]);
        field(map, column, &[r#"validation => '{"max_length": 3}'"#]);
        accepts(&format!("INSERT INTO {t} VALUES (1, 'a')"));
        accepts(&format!("UPDATE {t} SET {c} = 'b'"));
        refuses(
            &format!("INSERT INTO {t} VALUES (2, 'abcd')"),
            &["23514", column],
        );
        refuses(&format!("UPDATE {t} SET {c} = 'abcd'"), &["23514", column]);
        accepts(&format!("DELETE FROM {t}"));
        assert_eq!(
            captured(map),
            [
                format!("i 1 {column}"),
                format!("u 1 {column}"),
                "d 1".to_owned()
            ]
        );
        run(&format!("SELECT crm.unmap_object({map})"));
        run(&format!("DROP TABLE {t}"));
    }

    #[pg_test]
    fn names_in_quotes_and_in_any_alphabet_are_mapped() {
        for (table, column) in [
            ("Order", "select"),
            ("tbl \"quoted\"", "it's"),
            ("Größe", "名前"),
            ("a.b", "c.d"),
            ("percent %s %I", "%1$s %L"),
            ("back\\slash", "dollar $$ $f$"),
            ("semi;colon", "dash -- dash"),
        ] {
            works(table, column);
        }
    }

    #[pg_test]
    fn names_of_the_capture_functions_own_are_free_to_use() {
        for column in [
            "actor",
            "violations",
            "ord",
            "at",
            "cells",
            "record_key",
            "n",
            "o",
            "c",
            "tg_op",
        ] {
            works(column, column);
        }
        works("new_rows", "old_rows");
        works("numbered", "broken");
    }

    #[pg_test]
    fn a_name_with_line_ends_is_a_name_and_not_code() {
        works("x\nBEGIN RAISE 'run as a superuser'; END --", "y\nRAISE");
        works("x\rBEGIN RAISE 'run as a superuser'; END --", "y");
    }
}
