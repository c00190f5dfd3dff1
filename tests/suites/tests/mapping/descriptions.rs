//! `crm.describe()`: asked live, in pg_crm's words, with an answer or a clear error.

use crm_suites::{Crm, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    fields_are_told_in_our_words,
    an_object_that_is_none_is_said_to_be_none,
);
crm_suites::with_more_crms!(
    fields_are_told_in_our_words,
    an_object_that_is_none_is_said_to_be_none,
);

async fn fields_are_told_in_our_words(vendor: Vendor) {
    let db = CLUSTER.database().await;
    let _crm = Crm::connect(&db, vendor).await;
    let sql = "SELECT count(*) FROM crm.describe($1, $2)
               WHERE name = $3 AND data_type = 'text' AND NOT read_only AND createable AND updateable AND label <> ''";
    let args = (vendor.name(), vendor.people(), vendor.field("last_name"));
    let found: i64 = db.one(sql, &[&args.0, &args.1, &args.2]).await;
    assert_eq!(found, 1, "{args:?}");
    let sql = "SELECT is_key FROM crm.describe($1, $2) WHERE name = $3";
    let key: bool = db.one(sql, &[&args.0, &args.1, &vendor.field("id")]).await;
    assert!(key, "the external key finds a record");
    // What our own tests map fits.
    let columns = ["first_name", "last_name", "email", "phone"];
    for column in columns {
        let sql = "SELECT count(*) FROM crm.describe($1, $2) WHERE name = $3";
        let field = vendor.field(column);
        let found: i64 = db.one(sql, &[&args.0, &args.1, &field]).await;
        assert_eq!(found, 1, "{field}");
    }
}

async fn an_object_that_is_none_is_said_to_be_none(vendor: Vendor) {
    let db = CLUSTER.database().await;
    let _crm = Crm::connect(&db, vendor).await;
    let sql = format!("SELECT crm.describe('{}', 'Nonsense')", vendor.name());
    let error = db.error(&sql).await;
    assert_eq!(error.code().code(), "42704", "{error:?}");
    assert!(error.message().contains("Nonsense"), "{error:?}");
    assert!(error.detail().is_some() && error.hint().is_some());
}

#[tokio::test]
async fn choices_and_rights_of_salesforce() {
    let db = CLUSTER.database().await;
    let _crm = Crm::connect(&db, Vendor::Salesforce).await;
    let rows = db
        .text(
            "SELECT name || ' ' || data_type || ' ' || read_only || ' ' || required || ' ' || coalesce(max_length::text, '-') || ' '
                    || coalesce(choices[1], '-')
             FROM crm.describe('salesforce', 'Contact')
             WHERE name IN ('Salutation', 'CreatedDate', 'LastName', 'Interests__c') ORDER BY name",
        )
        .await;
    for expected in [
        "CreatedDate timestamp true false - -",
        "Interests__c multi_choice false false - Cloud",
        "LastName text false true 80 -",
        "Salutation choice false false - Mr.",
    ] {
        assert!(rows.contains(expected), "{expected}: {rows}");
    }
}

#[tokio::test]
async fn a_crm_that_refuses_is_quoted_and_its_connection_goes_on() {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    crm.fault(json!({"path": "/crm/v3/properties", "status": 401, "times": 1}));
    let error = db.error("SELECT crm.describe('hubspot', 'contacts')").await;
    assert_eq!(error.code().code(), "08006", "{error:?}");
    let state = "SELECT count(*) FROM crm.connection_state WHERE state = 'error'";
    assert_eq!(db.one::<i64>(state, &[]).await, 0, "nobody's work failed");
    let sql = "SELECT count(*) > 0 FROM crm.describe('hubspot', 'contacts')";
    assert!(db.one::<bool>(sql, &[]).await);
}
