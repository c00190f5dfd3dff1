//! `crm.alter_connection()`: a connection is led to another org, and rows are linked anew.

use crm_suites::{Crm, Desk, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(a_connection_moves_to_another_org);

async fn a_connection_moves_to_another_org(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    let (name, map) = (vendor.name(), desk.map);
    desk.db
        .execute(&format!(
            "SELECT crm.alter_field({map}, 'phone', direction => 'bidirectional')"
        ))
        .await;
    desk.link(3).await;
    desk.settle().await;
    // The same people under other ids, and one who is nobody's.
    let beside = CLUSTER.database().await;
    let elsewhere = Crm::connect(&beside, vendor).await;
    let people: Vec<_> = (0..=3)
        .rev()
        .map(|n| {
            let person = json!({"id": format!("p{n}"), "last_name": format!("Last {n}"), "first_name": format!("First {n}"),
                                "email": format!("p{n}@example.com"), "phone": format!("+47 {n}")});
            person.as_object().expect("an object").clone()
        })
        .collect();
    let mut ids = elsewhere.create(&beside, vendor.people(), &people).await;
    ids.reverse();
    // Edits wait while the connection moves.
    desk.db
        .execute(&format!(
            "SELECT crm.pause('{name}');
             UPDATE people SET phone = 'both ways' WHERE id = 'p1'; UPDATE people SET email = 'x@x.test' WHERE id = 'p2'"
        ))
        .await;
    let there = elsewhere.url().expect("it is remote");
    let error = desk
        .db
        .error(&format!(
            "SELECT crm.alter_connection('{name}', base_url => '{there}')"
        ))
        .await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(
        error.hint().unwrap_or_default().contains("relink => true"),
        "{error:?}"
    );
    let said = eventually("nothing is in flight", async || {
        let sql =
            format!("SELECT crm.alter_connection('{name}', base_url => '{there}', relink => true)");
        (desk.db.count("crm.claim").await == 0).then_some(sql)
    })
    .await;
    let said = desk.db.notices(&said).await;
    assert!(said.contains("3 links of 1 maps were dropped"), "{said}");
    desk.crm.forget(&desk.db).await;
    desk.db
        .execute(&format!("SELECT crm.resume('{name}')"))
        .await;
    let read: i64 = desk.db.one("SELECT crm.backfill($1)", &[&map]).await;
    assert_eq!(read, 4);
    desk.db.drain().await;
    desk.db.assert_checked().await;
    for (n, id) in ids.iter().enumerate().skip(1) {
        assert_eq!(desk.crm_id(&format!("p{n}")).await.as_ref(), Some(id));
    }
    let held = async |n: usize, column: &str| {
        let record = elsewhere.record(&beside, vendor.people(), &ids[n]).await;
        record.expect("a record")[vendor.field(column)].clone()
    };
    assert_eq!(held(1, "phone").await, "both ways");
    assert_eq!(held(2, "email").await, "x@x.test");
    // Nothing more reaches the old org.
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    let audited = "SELECT fields #>> '{relink,new}' FROM crm.audit_log WHERE operation = 'alter'";
    assert_eq!(desk.db.text(audited).await, "true");
}

/// Who may set up connections does not see their secrets, nor has them sent to a host of theirs.
#[tokio::test]
async fn secrets_are_not_sent_to_another_address() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    let admin = format!("{}_admin", desk.db.name);
    desk.db
        .execute(&format!(
            "CREATE ROLE {admin}; SELECT crm.grant_access('{admin}', 'admin'); SET ROLE {admin}"
        ))
        .await;
    let there = "SELECT crm.alter_connection('salesforce', base_url => 'https://evil.example'";
    let error = desk.db.error(&format!("{there})")).await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    desk.db
        .execute(&format!(
            r#"{there}, credentials => '{{"access_token": "of their own"}}');
               SELECT crm.alter_connection('salesforce', options => '{{"max_in_flight": 2}}');
               RESET ROLE"#
        ))
        .await;
    let now = "SELECT base_url, options FROM crm.connection";
    assert_eq!(
        desk.db.text(now).await,
        r#"https://evil.example | {"max_in_flight": 2}"#
    );
    desk.db
        .execute(&format!("DROP OWNED BY {admin}; DROP ROLE {admin}"))
        .await;
}

/// An option can name the org, too.
#[tokio::test]
async fn an_option_that_names_another_org_drops_no_links_in_silence() {
    let desk = Desk::open(&CLUSTER, Vendor::Zoho).await;
    desk.link(1).await;
    let alter = "SELECT crm.alter_connection('zoho', options => '{\"org_id\": \"222\"}')";
    let error = desk.db.error(alter).await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    // One that does not is altered as it is.
    let alter = "SELECT crm.alter_connection('zoho', options => '{\"max_in_flight\": 5}')";
    desk.db.execute(alter).await;
    assert!(desk.crm_id("p1").await.is_some());
}
