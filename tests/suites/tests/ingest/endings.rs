//! Rows and CRM records that end while something is on its way between them.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    a_row_that_was_deleted_before_its_record_was_heard_of_stays_deleted,
    a_row_that_goes_while_a_page_is_on_its_way_stays_deleted,
    conflicts_end_with_their_row,
    a_row_that_is_replaced_takes_what_its_record_holds,
    an_edit_of_a_row_whose_record_was_made_unheard_is_not_lost,
);

/// Inserts p1; the CRM makes its record, but nobody hears of it.
async fn made_unheard(live: &Live) {
    let vendor = live.crm.vendor;
    if vendor == Vendor::Stub {
        live.crm
            .fail(&live.db, "write", "drop_after_apply", 1)
            .await;
    } else {
        let lost = json!({"body_contains": "Short-lived", "drop": "after", "times": "unlimited"});
        live.crm.fault(lost);
    }
    live.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'Short-lived')")
        .await;
    let _: bool = live.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
    let people = vendor.people();
    eventually("the CRM has the record", async || {
        (live.crm.records(&live.db, people).await.len() == 1).then_some(())
    })
    .await;
}

/// The CRM made the record, but nobody heard; then the row goes.
async fn a_row_that_was_deleted_before_its_record_was_heard_of_stays_deleted(vendor: Vendor) {
    for on_delete in ["ignore", "delete"] {
        let arguments =
            format!("on_insert => 'create', on_crm_insert => 'insert', on_delete => '{on_delete}'");
        let live = Live::with(&CLUSTER, vendor, &arguments, "").await;
        made_unheard(&live).await;
        live.db.execute("DELETE FROM people").await;
        live.mend().await;
        live.ingest().await;
        assert!(live.db.flush().await);
        live.ingest().await;
        assert_eq!(live.db.count("people").await, 0, "{on_delete}");
        let left = usize::from(on_delete == "ignore");
        let records = live.crm.records(&live.db, vendor.people()).await;
        assert_eq!(records.len(), left);
        live.nothing_goes_out().await;
        live.db.assert_checked().await;
    }
}

/// The page still holds the record that went with its row.
async fn a_row_that_goes_while_a_page_is_on_its_way_stays_deleted(vendor: Vendor) {
    if vendor == Vendor::Stub {
        return;
    }
    let arguments = "on_insert => 'create', on_crm_insert => 'insert', on_delete => 'delete'";
    let live = Live::with(&CLUSTER, vendor, arguments, "").await;
    live.people(2).await;
    live.ingest().await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    let page = live.page_on_its_way().await;
    live.db.execute("DELETE FROM people WHERE id = 'p1'").await;
    assert!(live.db.flush().await);
    page.await.expect("the look");
    live.ingest().await;
    assert_eq!(live.db.count("people").await, 1);
    live.nothing_goes_out().await;
    live.agree().await;
}

/// The conflict is about a record that the CRM deletes; an outbound column is the first to hear of
/// it.
async fn conflicts_end_with_their_row(vendor: Vendor) {
    let live = Live::with(
        &CLUSTER,
        vendor,
        "on_crm_delete => 'delete'",
        "on_conflict => 'immutable_after_bind'",
    )
    .await;
    let sql = format!(
        "SELECT crm.map_field({}, 'title', '{}', direction => 'outbound')",
        live.map,
        vendor.field("title")
    );
    live.db.execute(&sql).await;
    let ids = live.people(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.conflicts").await, 1);
    live.crm.delete(&live.db, vendor.people(), &ids[0]).await;
    live.db.execute("UPDATE people SET title = 'ours'").await;
    assert!(live.db.flush().await);
    assert_eq!(live.db.count("people").await, 0);
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    live.db.assert_checked().await;
}

async fn a_row_that_is_replaced_takes_what_its_record_holds(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let sql = format!(
        "SELECT crm.map_field({}, 'title', '{}', direction => 'inbound')",
        live.map,
        vendor.field("title")
    );
    live.db.execute(&sql).await;
    live.people(1).await;
    live.edit_in_crm("p1", json!({"title": "theirs"})).await;
    live.ingest().await;
    live.db
        .execute(
            "BEGIN;
             DELETE FROM people;
             INSERT INTO people (id, first_name, last_name, email, phone) VALUES ('p1', 'New', 'New', 'p1@c.example', '+9');
             UPDATE people SET phone = '+10';
             COMMIT",
        )
        .await;
    live.quiet().await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "title", "theirs").await;
    live.assert_both("p1", "phone", "+10").await;
}

async fn an_edit_of_a_row_whose_record_was_made_unheard_is_not_lost(vendor: Vendor) {
    let live = Live::with(&CLUSTER, vendor, "on_insert => 'create'", "").await;
    made_unheard(&live).await;
    live.db
        .execute("UPDATE people SET last_name = 'Edited', phone = '+1'")
        .await;
    live.mend().await;
    live.ingest().await;
    assert!(live.db.flush().await);
    live.agree().await;
    live.assert_both("p1", "last_name", "Edited").await;
    live.assert_both("p1", "phone", "+1").await;
}
