//! `crm.hash`: equal values hash alike however they are spelt, others do not.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    fn hash(json: &str) -> String {
        value(&format!(
            "SELECT crm.hash({})",
            pgrx::spi::quote_literal(json)
        ))
    }

    #[pg_test]
    fn a_hash_does_not_depend_on_spelling() {
        for (a, b) in [
            (r#"{"a": 1, "b": 2}"#, r#"{ "b":2,"a":1 }"#),
            ("100", "1e2"),
            ("100", "100.00"),
            ("-0.0", "0"),
            (r#"[1.10]"#, "[11e-1]"),
            (r#""\u00e9""#, r#""é""#),
            ("12345678901234567890123", "1.2345678901234567890123e22"),
        ] {
            assert_eq!(hash(a), hash(b), "{a} {b}");
        }
    }

    #[pg_test]
    fn different_values_have_different_hashes() {
        let values = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "\"1\"",
            "\"\"",
            "[]",
            "{}",
            "[1]",
            "[[1]]",
            "[1, 2]",
            "[2, 1]",
            r#"{"a": 1}"#,
            r#"{"a": null}"#,
            r#"{"a": "1"}"#,
            r#"["a", 1]"#,
            "\"null\"",
            "1.0000000000000000001",
            r#""é""#,
            r#""e\u0301""#,
        ];
        let mut hashes: Vec<String> = values.iter().map(|v| hash(v)).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), values.len());
    }

    #[pg_test]
    fn a_hash_is_blake3_of_the_canonical_text() {
        // b3sum of: null
        assert_eq!(value("SELECT octet_length(crm.hash('null'))"), "32");
        let expected: String = crm_domain::canonical::hash(&serde_json::json!({"a": [1, "x"]}))
            .as_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hash(r#"{"a":[1.0,"x"]}"#), format!("\\x{expected}"));
        assert_eq!(value("SELECT crm.hash(NULL)"), "NULL");
    }
}
