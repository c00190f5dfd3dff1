//! `crm.link`: one row, one CRM record.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    #[pg_test]
    fn a_crm_record_goes_with_one_row() {
        let map = mapped("t", &["a text"]);
        run(&format!("SELECT crm.link({map}, '1', 'account-1')"));
        refuses(
            &format!("SELECT crm.link({map}, '2', 'account-1')"),
            &[
                "23505",
                "CRM record \"account-1\" is already linked to record \"1\"",
            ],
        );
        accepts(&format!("SELECT crm.link({map}, '1', 'account-1')"));
        accepts(&format!("SELECT crm.link({map}, '1', 'account-9')"));
        accepts(&format!("SELECT crm.link({map}, '2', 'account-1')"));
        assert_eq!(
            rows(&format!(
                "SELECT format('%s %s', record_key, crm_id) FROM crm.ledger WHERE map_id = {map} ORDER BY 1"
            )),
            ["1 account-9", "2 account-1"]
        );
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
        run(&format!("SELECT crm.link({first}, '1', 'account-1')"));
        let record = format!("record \"1\" of map {first}");
        refuses(
            &format!("SELECT crm.link({second}, '1', 'account-1')"),
            &["23505", &record],
        );
        run(&format!("SELECT crm.link({second}, '1', 'account-2')"));
    }
}
