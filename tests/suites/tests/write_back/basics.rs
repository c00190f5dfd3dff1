//! The main job: a cell is edited, the CRM has it, the ledger and the audit say so.

use crm_suites::{Desk, Json, Vendor};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    edited_cells_arrive,
    nulls_clear_fields,
    cells_that_stay_the_same_are_not_sent,
    new_rows_are_created_and_their_ids_come_back,
    new_rows_are_ignored_unless_asked_for,
    deleted_rows_are_deleted_in_the_crm,
    deleted_rows_leave_their_record_when_unlinked,
);
crm_suites::with_more_crms!(
    edited_cells_arrive,
    nulls_clear_fields,
    cells_that_stay_the_same_are_not_sent,
    new_rows_are_created_and_their_ids_come_back,
    new_rows_are_ignored_unless_asked_for,
    deleted_rows_are_deleted_in_the_crm,
    deleted_rows_leave_their_record_when_unlinked,
);

async fn edited_cells_arrive(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3).await;
    desk.db
        .execute("UPDATE people SET first_name = 'Ada', phone = '+44 1' WHERE id <> 'p3'")
        .await;
    assert_eq!(desk.db.dirty().await, 4, "before the flush");
    assert!(desk.db.flush().await);
    assert_eq!(desk.db.dirty().await, 0, "after the flush");
    desk.settle().await;
    assert_eq!(desk.field("p2", "first_name").await, "Ada");
    assert_eq!(desk.field("p3", "first_name").await, "First 3");
    let keys = "SELECT DISTINCT record_key FROM crm.audit_log WHERE map_id = $1 ORDER BY 1";
    assert_eq!(
        desk.db.all::<String>(keys, &[&desk.map]).await,
        ["p1", "p2"]
    );
    assert_eq!(desk.state().await, "idle");
}

async fn nulls_clear_fields(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(2).await;
    desk.db
        .execute("UPDATE people SET phone = NULL, first_name = '' WHERE id = 'p1'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, Json::Null);
    assert_eq!(desk.field("p2", "phone").await, "+47 2");
}

async fn cells_that_stay_the_same_are_not_sent(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3).await;
    desk.settle().await;
    let before = desk.audit_rows().await;
    desk.db
        .execute("UPDATE people SET first_name = first_name, notes = 'only here'")
        .await;
    desk.db
        .execute("UPDATE people SET first_name = 'X' WHERE false")
        .await;
    assert_eq!(desk.db.dirty().await, 0);
    assert!(desk.db.flush().await);
    assert_eq!(desk.audit_rows().await, before);
}

async fn new_rows_are_created_and_their_ids_come_back(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    desk.db
        .execute(
            "INSERT INTO people (id, first_name, last_name, email)
             SELECT 'n' || n, 'New', 'Person ' || n, 'n' || n || '@example.com' FROM generate_series(1, 3) n",
        )
        .await;
    assert!(desk.db.flush().await);
    desk.settle().await;
    assert_eq!(desk.field("n2", "last_name").await, "Person 2");
    assert_eq!(desk.field("n2", "id").await, "n2", "the external id");
    // From here on they are updated, not created again.
    desk.db
        .execute("UPDATE people SET last_name = 'Renamed' WHERE id = 'n2'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("n2", "last_name").await, "Renamed");
}

async fn new_rows_are_ignored_unless_asked_for(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('n1', 'Nobody')")
        .await;
    assert!(desk.db.flush().await);
    assert!(desk.crm.records(&desk.db, vendor.people()).await.is_empty());
    desk.db.assert_checked().await;
}

async fn deleted_rows_are_deleted_in_the_crm(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_delete => 'delete'").await;
    let ids = desk.link(3).await;
    desk.db.execute("DELETE FROM people WHERE id = 'p2'").await;
    assert!(desk.db.flush().await);
    assert!(
        desk.crm
            .record(&desk.db, vendor.people(), &ids[1])
            .await
            .is_none()
    );
    desk.settle().await;
}

async fn deleted_rows_leave_their_record_when_unlinked(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_delete => 'unlink'").await;
    let ids = desk.link(2).await;
    desk.db.execute("DELETE FROM people WHERE id = 'p1'").await;
    assert!(desk.db.flush().await);
    assert!(
        desk.crm
            .record(&desk.db, vendor.people(), &ids[0])
            .await
            .is_some()
    );
    assert_eq!(desk.crm_id("p1").await, None);
    desk.db.assert_checked().await;
}
