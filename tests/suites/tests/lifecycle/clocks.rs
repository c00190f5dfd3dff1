//! A clock that was an hour ahead, and went back: what is left of that in the tables is no alarm,
//! then or later.

use crm_suites::{Crm, Desk, Vendor, with_remote_crms};

use crate::CLUSTER;

async fn at_a_desk(vendor: Vendor, direction: &str) -> Desk {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, vendor).await;
    let desk = Desk::furnish_as(db, crm, direction, "on_insert => 'create'", "").await;
    desk.link(2).await;
    desk.db.drain().await;
    desk
}

/// Makes edits at a time when the clock is ahead, while the worker looks away.
async fn edits_of_the_future(desk: &Desk, edits: &str) {
    let name = desk.crm.vendor.name();
    desk.db
        .execute(&format!("SELECT crm.pause('{name}')"))
        .await;
    desk.db.execute(edits).await;
    desk.db
        .execute(&format!(
            "UPDATE crm.change SET changed_at = now() + interval '1 hour';
             UPDATE crm.queue SET changed_at = ARRAY(SELECT at + interval '1 hour' FROM unnest(changed_at) AS at);
             UPDATE crm.pending_write SET changed_at = now() + interval '1 hour';
             SELECT crm.resume('{name}')"
        ))
        .await;
}

async fn what_was_edited_by_it_is_synced(vendor: Vendor) {
    for direction in ["outbound", "bidirectional"] {
        let desk = at_a_desk(vendor, direction).await;
        edits_of_the_future(&desk, "UPDATE people SET phone = 'of the future'").await;
        desk.settle().await;
        desk.db
            .execute("UPDATE people SET phone = 'of the present' WHERE id = 'p1'")
            .await;
        desk.settle().await;
        let phone = crm_suites::json!({"phone": "of the CRM"});
        let id = desk.crm_id("p2").await.expect("p2 is linked");
        desk.crm.edit(&desk.db, vendor.people(), &id, &phone).await;
        desk.ingest().await;
    }
}

async fn what_was_synced_by_it_is_edited(vendor: Vendor) {
    for direction in ["outbound", "bidirectional"] {
        let desk = at_a_desk(vendor, direction).await;
        desk.db
            .execute(
                "UPDATE crm.ledger SET changed_at = array_fill(now() + interval '1 hour', ARRAY[4]),
                                       synced_at = array_fill(now() + interval '61 minutes', ARRAY[4])",
            )
            .await;
        desk.db.assert_checked().await;
        desk.db
            .execute("UPDATE people SET phone = 'edited' WHERE id = 'p1'")
            .await;
        desk.settle().await;
        if direction == "bidirectional" {
            let write = "SELECT (crm.write('people', 'p2', '{\"phone\": \"written\"}')).outcome";
            assert_eq!(desk.db.one::<String>(write, &[]).await, "committed");
        }
        desk.ingest().await;
        desk.settle().await;
    }
}

with_remote_crms!(
    what_was_edited_by_it_is_synced,
    what_was_synced_by_it_is_edited
);
