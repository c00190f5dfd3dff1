//! `crm.snapshot` and `crm.snapshot_hash`: a CRM object in its vendor's form, as canonical values.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    /// One table mapped to an object of a vendor, a column for each type.
    fn mapped_to(provider: &str, url: &str) -> i32 {
        run(&format!(
            "SELECT crm.create_connection('{provider}-{pid}', '{provider}', {url});
             CREATE TABLE t_{provider} (id int PRIMARY KEY, t text, n numeric, b bool, d date, ts timestamptz, m text[], c text)",
            pid = std::process::id(),
        ));
        let map = value(&format!(
            "SELECT crm.map_object('{provider}-{}', 't_{provider}', 'thing')",
            std::process::id()
        ))
        .parse()
        .unwrap();
        for column in ["t", "n", "b", "d", "ts", "m"] {
            field(map, column, &[]);
        }
        field(map, "c", &["data_type => 'choice'"]);
        map
    }

    fn snapshot(map: i32, object: &str) -> String {
        value(&format!(
            "SELECT crm.snapshot({map}, {})",
            pgrx::spi::quote_literal(object)
        ))
    }

    fn hash(map: i32, object: &str) -> String {
        value(&format!(
            "SELECT crm.snapshot_hash({map}, {})",
            pgrx::spi::quote_literal(object)
        ))
    }

    const SALESFORCE: &str = r#"{"attributes": {"type": "thing"}, "Id": "001", "x_t": "Ann", "x_n": 100.0, "x_b": true,
        "x_d": "2026-01-02", "x_ts": "2026-01-02T03:04:05.678+0000", "x_m": "b;a", "x_c": "new", "other": 1}"#;
    const HUBSPOT: &str = r#"{"hs_object_id": "1", "x_t": "Ann", "x_n": "100", "x_b": "true",
        "x_d": "2026-01-02", "x_ts": "2026-01-02T03:04:05.678Z", "x_m": "a;b", "x_c": "new"}"#;

    #[pg_test]
    fn vendors_forms_of_one_record_have_one_snapshot() {
        let salesforce = mapped_to("salesforce", "'https://acme.my.salesforce.com'");
        let hubspot = mapped_to("hubspot", "NULL");
        assert_eq!(
            snapshot(salesforce, SALESFORCE),
            r#"{"x_b": true, "x_c": "new", "x_d": "2026-01-02", "x_m": ["a", "b"], "x_n": 100, "x_t": "Ann", "x_ts": "2026-01-02T03:04:05.678Z"}"#
        );
        assert_eq!(snapshot(hubspot, HUBSPOT), snapshot(salesforce, SALESFORCE));
        assert_eq!(hash(hubspot, HUBSPOT), hash(salesforce, SALESFORCE));
        assert_eq!(
            hash(hubspot, HUBSPOT),
            value(&format!(
                "SELECT crm.hash(crm.snapshot({hubspot}, '{HUBSPOT}'))"
            ))
        );
    }

    #[pg_test]
    fn null_missing_and_empty_are_one() {
        let map = mapped_to("hubspot", "NULL");
        assert_eq!(snapshot(map, "{}"), "{}");
        assert_eq!(
            snapshot(map, r#"{"x_t": "", "x_n": null, "x_m": "", "x_c": " "}"#),
            "{}"
        );
        assert_eq!(
            hash(map, "{}"),
            hash(map, r#"{"x_t": null, "unmapped": 5}"#)
        );
        assert_ne!(hash(map, "{}"), hash(map, r#"{"x_t": "x"}"#));
    }

    #[pg_test]
    fn a_field_of_another_type_is_an_error_that_names_it() {
        let map = mapped_to("hubspot", "NULL");
        refuses(
            &format!(r#"SELECT crm.snapshot({map}, '{{"x_n": "many"}}')"#),
            &["22023", "field \"x_n\" does not hold a number", "many"],
        );
        refuses(
            &format!("SELECT crm.snapshot({map}, '[]')"),
            &["22023", "JSON object"],
        );
        refuses(
            "SELECT crm.snapshot(-1, '{}')",
            &["42704", "map -1 does not exist"],
        );
    }
}
