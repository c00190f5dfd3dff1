//! The mapping changes while edits are on their way: nothing is lost, and both sides agree by the
//! new mapping.

use crm_suites::{Desk, Json, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    a_field_remapped_between_claim_and_settlement,
    a_field_unmapped_between_claim_and_settlement,
    a_field_mapped_between_claim_and_settlement,
    the_mapping_changes_between_fold_and_claim,
    the_mapping_changes_between_edit_and_fold,
);

async fn remap(desk: &Desk, column: &str, field: &str) {
    let (map, field) = (desk.map, desk.crm.vendor.field(field));
    let mapped = "SELECT EXISTS (SELECT FROM crm.field_map WHERE map_id = $1 AND column_name = $2::text::name)";
    let verb = match desk.db.one::<bool>(mapped, &[&map, &column]).await {
        true => "alter_field",
        false => "map_field",
    };
    desk.db
        .execute(&format!(
            "SELECT crm.{verb}({map}, '{column}', '{field}', direction => 'outbound')"
        ))
        .await;
}

async fn unmap(desk: &Desk, column: &str) {
    desk.db
        .execute(&format!("SELECT crm.unmap_field({}, '{column}')", desk.map))
        .await;
}

/// Nothing waits, nothing is dead, nothing is wrong.
async fn settled(desk: &Desk) {
    desk.db.drain().await;
    desk.db.assert_checked().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

async fn a_field_remapped_between_claim_and_settlement(vendor: Vendor) {
    for people in [1, 5] {
        let desk = Desk::open(&CLUSTER, vendor).await;
        desk.link(people).await;
        let flush = desk
            .under_way("UPDATE people SET phone = 'new', email = id || '@x.test'")
            .await;
        remap(&desk, "phone", "title").await;
        assert!(flush.await.expect("the flush"));
        settled(&desk).await;
        for n in 1..=people {
            let key = format!("p{n}");
            assert_eq!(
                desk.field(&key, "title").await,
                "new",
                "{key} by the new mapping"
            );
            assert_eq!(
                desk.field(&key, "email").await,
                format!("{key}@x.test"),
                "{key}"
            );
        }
    }
}

async fn a_field_unmapped_between_claim_and_settlement(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(3).await;
    let flush = desk
        .under_way("UPDATE people SET phone = 'new', email = id || '@x.test'")
        .await;
    unmap(&desk, "phone").await;
    desk.db
        .execute("UPDATE people SET first_name = 'Meanwhile' WHERE id = 'p2'")
        .await;
    assert!(flush.await.expect("the flush"));
    settled(&desk).await;
    assert_eq!(desk.field("p1", "email").await, "p1@x.test");
    assert_eq!(desk.field("p2", "first_name").await, "Meanwhile");
    // Mapped again, it is a new field.
    remap(&desk, "phone", "phone").await;
    desk.db.execute("UPDATE people SET phone = 'newer'").await;
    desk.settle().await;
}

/// A record that is being created takes the field too.
async fn a_field_mapped_between_claim_and_settlement(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    desk.link(1).await;
    let edits = "INSERT INTO people (id, last_name, title) SELECT 'n' || n, 'New', 'Dr.' FROM generate_series(1, 3) n";
    let flush = desk.under_way(edits).await;
    remap(&desk, "title", "title").await;
    desk.db
        .execute("UPDATE people SET title = 'Prof.' WHERE id IN ('p1', 'n1')")
        .await;
    assert!(flush.await.expect("the flush"));
    settled(&desk).await;
    for (key, title) in [
        ("p1", "Prof."),
        ("n1", "Prof."),
        ("n2", "Dr."),
        ("n3", "Dr."),
    ] {
        assert_eq!(desk.field(key, "title").await, title, "{key}");
    }
    desk.assert_same().await;
}

/// Edits that are folded and cannot be claimed, because the CRM asks to wait.
async fn held_after_the_fold(desk: &Desk, edits: &str) {
    desk.crm
        .fault(json!({"status": 429, "headers": {"Retry-After": "100"}, "times": 1}));
    desk.db
        .execute("UPDATE people SET first_name = 'Knock' WHERE id = 'p1'")
        .await;
    let _: bool = desk.db.one("SELECT crm.flush(timeout => '2 s')", &[]).await;
    desk.db.execute(edits).await;
    eventually("the edits are folded", async || {
        let _: bool = desk
            .db
            .one("SELECT crm.flush(timeout => '100 ms')", &[])
            .await;
        let unfolded = "crm.cell_status WHERE state = 'changed'";
        (desk.db.count(unfolded).await == 0).then_some(())
    })
    .await;
}

async fn the_mapping_changes_between_fold_and_claim(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    desk.link(3).await;
    held_after_the_fold(
        &desk,
        "UPDATE people SET phone = 'new', email = id || '@x.test', title = 'Dr.';
         INSERT INTO people (id, last_name, title, score, phone) VALUES ('n1', 'New', 'Dr.', 5, '1')",
    )
    .await;
    unmap(&desk, "email").await;
    remap(&desk, "phone", "title").await;
    // The record that is still to be created takes it.
    remap(&desk, "score", "score").await;
    desk.db
        .execute(&format!("SELECT crm.resume('{}')", vendor.name()))
        .await;
    settled(&desk).await;
    assert_eq!(desk.field("p2", "title").await, "new");
    assert_eq!(
        desk.field("p2", "phone").await,
        "+47 2",
        "its old field is left alone"
    );
    assert_eq!(desk.field("p2", "email").await, "p2@example.com", "dropped");
    assert_eq!(desk.field("n1", "title").await, "1");
    assert_ne!(desk.field("n1", "score").await, Json::Null);
    desk.db
        .execute("UPDATE people SET phone = phone || '!', score = NULL")
        .await;
    settled(&desk).await;
    assert_eq!(desk.field("p2", "title").await, "new!");
    assert_eq!(desk.field("n1", "score").await, Json::Null);
}

async fn the_mapping_changes_between_edit_and_fold(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    desk.link(3).await;
    desk.settle().await;
    desk.db.at_rest().await;
    desk.db
        .execute(
            "UPDATE people SET phone = 'new', email = id || '@x.test';
             INSERT INTO people (id, last_name, title, phone) VALUES ('n1', 'New', 'Dr.', '1')",
        )
        .await;
    let unfolded = "crm.cell_status WHERE state = 'changed'";
    assert!(desk.db.count(unfolded).await > 0);
    unmap(&desk, "email").await;
    remap(&desk, "phone", "title").await;
    settled(&desk).await;
    assert_eq!(desk.field("p2", "title").await, "new");
    assert_eq!(desk.field("p2", "phone").await, "+47 2");
    assert_eq!(desk.field("p2", "email").await, "p2@example.com");
    assert_eq!(desk.field("n1", "title").await, "1");
}
