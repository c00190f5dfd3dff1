//! Changes of records that are linked to rows.

use crm_suites::{Desk, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    a_change_in_the_crm_comes_in,
    our_own_writes_coming_back_are_nothing,
    an_outbound_field_is_written_over,
    a_field_that_was_unknown_is_filled_and_not_wiped_out,
    what_the_crm_empties_is_emptied,
);
crm_suites::with_more_crms!(
    a_change_in_the_crm_comes_in,
    our_own_writes_coming_back_are_nothing,
    an_outbound_field_is_written_over,
    a_field_that_was_unknown_is_filled_and_not_wiped_out,
    what_the_crm_empties_is_emptied,
);

async fn a_change_in_the_crm_comes_in(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(3).await;
    live.edit_in_crm(
        "p2",
        json!({"phone": "from the CRM", "first_name": "Augusta"}),
    )
    .await;
    live.ingest().await;
    live.assert_both("p2", "phone", "from the CRM").await;
    live.assert_both("p2", "first_name", "Augusta").await;
    assert_eq!(live.cell("p1", "phone").await, "+1");
    assert_eq!(live.audit("p2").await.last().unwrap(), "ingest applied");
    let told = format!(
        "SELECT fields -> '{}' FROM crm.audit_log WHERE path = 'ingest' AND result = 'applied'",
        vendor.field("phone")
    );
    let told: serde_json::Value = live.db.one(&told, &[]).await;
    assert_eq!(told, json!({"new": "from the CRM", "old": "+1"}));
    let who = "SELECT actor FROM crm.audit_log WHERE path = 'ingest' AND result = 'applied'";
    // The lists of Pipedrive and Zoho do not tell.
    if !matches!(vendor, Vendor::Pipedrive | Vendor::Zoho) {
        assert!(live.db.text(who).await.starts_with(vendor.name()));
    }
    // It is no edit of ours, and once is enough.
    live.nothing_goes_out().await;
    let rows = live.audit_rows().await;
    live.ingest().await;
    assert_eq!(live.audit_rows().await, rows);
    live.agree().await;
}

async fn our_own_writes_coming_back_are_nothing(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(5).await;
    live.ingest().await;
    live.db
        .execute("UPDATE people SET phone = 'ours ' || id")
        .await;
    live.agree().await;
    let rows = live.audit_rows().await;
    let echoes = "SELECT echoes FROM crm.status";
    let before: i64 = live.db.one(echoes, &[]).await;
    live.ingest().await;
    assert_eq!(live.audit_rows().await, rows);
    assert!(live.db.one::<i64>(echoes, &[]).await >= before + 5);
    assert_eq!(
        live.db
            .one::<i64>("SELECT ingested FROM crm.status", &[])
            .await,
        0
    );
    live.nothing_goes_out().await;
    live.agree().await;
}

async fn an_outbound_field_is_written_over(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = 'ours'").await;
    desk.settle().await;
    desk.ingest().await;
    let id = desk.crm_id("p1").await.unwrap();
    let people = vendor.people();
    desk.crm
        .edit(&desk.db, people, &id, &json!({"phone": "theirs"}))
        .await;
    desk.ingest().await;
    let overwritten = "SELECT overwritten FROM crm.status";
    assert_eq!(desk.db.one::<i64>(overwritten, &[]).await, 1);
    let lost = "SELECT fields::text FROM crm.audit_log WHERE result = 'overwritten'";
    assert!(desk.db.text(lost).await.contains("theirs"));
    // Seen once more before it is written, it counts once.
    desk.ingest().await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, "ours");
    desk.ingest().await;
    assert_eq!(desk.db.one::<i64>(overwritten, &[]).await, 1);
    desk.settle().await;
}

/// Both sides hold something when the map is made.
async fn a_field_that_was_unknown_is_filled_and_not_wiped_out(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.link(3).await;
    // Without an edit of ours: as if it had been so when the map was made.
    live.db
        .execute(
            "ALTER TABLE people DISABLE TRIGGER ALL;
             UPDATE people SET phone = 'ours alone' WHERE id = 'p1';
             UPDATE people SET phone = NULL WHERE id = 'p2';
             UPDATE people SET phone = 'ours' WHERE id = 'p3';
             ALTER TABLE people ENABLE TRIGGER ALL",
        )
        .await;
    live.edit_in_crm("p1", json!({"phone": null})).await;
    live.edit_in_crm("p3", json!({"phone": "theirs"})).await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "ours alone").await;
    live.assert_both("p2", "phone", "+47 2").await;
    live.assert_both("p3", "phone", "theirs").await;
}

async fn what_the_crm_empties_is_emptied(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    live.edit_in_crm("p1", json!({"phone": null})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "phone").await, json!(null));
    live.nothing_goes_out().await;
    live.agree().await;
}
