//! `crm.link`: one row, one CRM record.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    #[pg_test]
    fn a_crm_record_goes_with_one_row() {
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1), (2)");
        run(&format!("SELECT crm.link({map}, '1', 'account-1')"));
        refuses(
            &format!("SELECT crm.link({map}, '2', 'account-1')"),
            &[
                "23505",
                "CRM record \"account-1\" is already linked to record \"1\"",
            ],
        );
        accepts(&format!("SELECT crm.link({map}, '1', 'account-1')"));
        refuses(
            &format!("SELECT crm.link({map}, '1', 'account-9')"),
            &[
                "23505",
                "record \"1\" is already linked to CRM record \"account-1\"",
                "replace => true",
            ],
        );
        accepts(&format!(
            "SELECT crm.link({map}, '1', 'account-9', replace => true)"
        ));
        accepts(&format!("SELECT crm.link({map}, '2', 'account-1')"));
        assert_eq!(
            rows(&format!(
                "SELECT format('%s %s', record_key, crm_id) FROM crm.ledger WHERE map_id = {map} ORDER BY 1"
            )),
            ["1 account-9", "2 account-1"]
        );
        // The records get the keys of their rows.
        assert_eq!(
            rows(&format!(
                "SELECT format('%s %s', record_key, op) FROM crm.queue WHERE map_id = {map} ORDER BY 1"
            )),
            ["1 k", "2 k"]
        );
    }

    #[pg_test]
    fn a_link_is_of_a_row_that_there_is_and_of_an_id_that_there_can_be() {
        let map = mapped("t", &["a text"]);
        refuses(
            &format!("SELECT crm.link({map}, '7', 'account-1')"),
            &["P0002", "has no row with record_key \"7\""],
        );
        run("INSERT INTO t VALUES (7)");
        refuses(
            &format!("SELECT crm.link({map}, '7', ' ')"),
            &["22023", "cannot be the id of a record in stub"],
        );
        accepts(&format!("SELECT crm.link({map}, '07', 'account-1')"));
        for (provider, id) in [
            ("salesforce", "003Hs0000000001IAA"),
            ("hubspot", "10000000001"),
            ("pipedrive", "7"),
            ("zoho", "5000000000001"),
            ("dynamics365", "0f0f0f0f-1234-abcd-abcd-0123456789ab"),
        ] {
            let trouble = |id: &str| {
                value(&format!(
                    "SELECT crm_internal.record_id_trouble('{provider}', '{id}') IS NULL"
                ))
            };
            assert_eq!(trouble(id), "true", "{provider}");
            assert_eq!(trouble("not an id"), "false", "{provider}");
        }
    }

    #[pg_test]
    fn a_link_names_both_sides() {
        let map = mapped("t", &["a text"]);
        for (key, id) in [
            ("''", "'x'"),
            ("'1'", "''"),
            ("NULL", "'x'"),
            ("'1'", "NULL"),
        ] {
            refuses(
                &format!("SELECT crm.link({map}, {key}, {id})"),
                &["22023", "record_key and a crm_id"],
            );
        }
        refuses("SELECT crm.link(-1, '1', 'x')", &["42704"]);
    }

    #[pg_test]
    fn a_record_goes_with_one_row_over_all_maps_of_its_object() {
        let first = mapped("t", &["a text"]);
        run("CREATE TABLE u (id int PRIMARY KEY, a text)");
        let second = map("u", &[]);
        run("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)");
        run(&format!("SELECT crm.link({first}, '1', 'account-1')"));
        let record = format!("record \"1\" of map {first}");
        refuses(
            &format!("SELECT crm.link({second}, '1', 'account-1')"),
            &["23505", &record],
        );
        run(&format!("SELECT crm.link({second}, '1', 'account-2')"));
    }
}
