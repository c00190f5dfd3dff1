//! The CRM deleted a record that a row still has.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    its_row_goes_too,
    the_row_stays_unlinked,
    the_edit_is_a_dead_letter
);

/// Three people, with nothing on its way.
async fn linked(desk: &Desk) -> Vec<String> {
    let ids = desk.link(3).await;
    desk.db.drain().await;
    ids
}

async fn rows(desk: &Desk) -> String {
    desk.db
        .text("SELECT string_agg(id, ' ' ORDER BY id) FROM people")
        .await
}

/// What the audit says became of the row's last edit.
async fn audited(desk: &Desk, key: &str) -> String {
    desk.db
        .text(&format!(
            "SELECT result, error_class FROM crm.audit_log WHERE map_id = {} AND record_key = '{key}'
             ORDER BY audit_id DESC LIMIT 1",
            desk.map
        ))
        .await
}

async fn its_row_goes_too(vendor: Vendor) {
    for on_delete in ["ignore", "unlink", "delete"] {
        let desk = Desk::open_with(
            &CLUSTER,
            vendor,
            &format!(
                "on_insert => 'create', on_crm_delete => 'delete', on_delete => '{on_delete}'"
            ),
        )
        .await;
        let ids = linked(&desk).await;
        desk.crm.delete(&desk.db, vendor.people(), &ids[1]).await;
        desk.db.execute("UPDATE people SET phone = 'new'").await;
        desk.settle().await;
        assert_eq!(rows(&desk).await, "p1 p3", "{on_delete}");
        assert_eq!(audited(&desk, "p2").await, "superseded | not_found");
        let known = "crm.cell_status WHERE record_key = 'p2'";
        assert_eq!(
            desk.db.count(known).await,
            0,
            "{on_delete}: nothing is kept of it"
        );
        // A row that comes under the same key later is a new one.
        desk.db
            .execute("INSERT INTO people (id, last_name) VALUES ('p2', 'Another')")
            .await;
        desk.settle().await;
        assert_eq!(desk.field("p2", "last_name").await, "Another");
    }
}

async fn the_row_stays_unlinked(vendor: Vendor) {
    let desk = Desk::open_with(
        &CLUSTER,
        vendor,
        "on_insert => 'create', on_crm_delete => 'unlink'",
    )
    .await;
    let ids = linked(&desk).await;
    desk.crm.delete(&desk.db, vendor.people(), &ids[1]).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.drain_but_for_the_dead().await;
    assert_eq!(rows(&desk).await, "p1 p2 p3");
    assert_eq!(audited(&desk, "p2").await, "superseded | not_found");
    let detached = "crm.cell_status WHERE record_key = 'p2' AND state = 'detached'";
    assert!(desk.db.count(detached).await > 0);
    desk.db
        .execute("UPDATE people SET phone = 'newer' WHERE id = 'p2'")
        .await;
    assert!(desk.db.flush().await);
    let unlinked = "SELECT unlinked FROM crm.status_wide";
    assert_eq!(
        desk.db.one::<i64>(unlinked, &[]).await,
        1,
        "it is not revived"
    );
    assert_eq!(desk.crm.records(&desk.db, vendor.people()).await.len(), 2);
    desk.db.assert_checked().await;
}

async fn the_edit_is_a_dead_letter(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_crm_delete => 'ignore'").await;
    let ids = linked(&desk).await;
    desk.crm.delete(&desk.db, vendor.people(), &ids[1]).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.drain_but_for_the_dead().await;
    assert_eq!(rows(&desk).await, "p1 p2 p3");
    assert_eq!(audited(&desk, "p2").await, "dead | not_found");
    assert_eq!(
        desk.db
            .count("crm.dead_letters WHERE record_key = 'p2'")
            .await,
        1
    );
    assert_eq!(
        desk.crm_id("p2").await.as_ref(),
        Some(&ids[1]),
        "the link stays"
    );
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_row_that_others_refer_to_stays_and_the_status_says_why() {
    for deferred in ["", "DEFERRABLE INITIALLY DEFERRED"] {
        let desk = Desk::open_with(
            &CLUSTER,
            Vendor::Stub,
            "on_crm_delete => 'delete', on_delete => 'delete'",
        )
        .await;
        let ids = desk.link(3).await;
        desk.db
            .execute(&format!(
                "CREATE TABLE orders (person text CONSTRAINT orders_person REFERENCES people {deferred});
                 INSERT INTO orders VALUES ('p2')"
            ))
            .await;
        for id in &ids[..2] {
            desk.crm.delete(&desk.db, "contact", id).await;
        }
        desk.db.execute("UPDATE people SET phone = 'new'").await;
        desk.db.drain_but_for_the_dead().await;
        assert_eq!(rows(&desk).await, "p2 p3");
        let error: String = desk
            .db
            .one("SELECT last_error FROM crm.status_wide", &[])
            .await;
        assert!(error.contains("cannot be deleted"), "{error}");
        assert!(error.contains("p2") && error.contains("orders"), "{error}");
        assert!(
            CLUSTER.log().contains(&format!("public.people: {error}")),
            "{error}"
        );
        assert_eq!(audited(&desk, "p2").await, "superseded | not_found");
        assert_eq!(desk.field("p3", "phone").await, "new");
        desk.db.assert_checked().await;
    }
}

/// Somebody holds the row for longer than the worker waits for locks.
#[tokio::test]
async fn a_row_that_is_held_goes_when_it_is_let_go() {
    let desk = Desk::open_with(
        &CLUSTER,
        Vendor::Stub,
        "on_crm_delete => 'delete', on_delete => 'delete'",
    )
    .await;
    let ids = desk.link(3).await;
    desk.crm.delete(&desk.db, "contact", &ids[1]).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    let session = desk.db.session().await;
    session
        .execute("BEGIN; SELECT FROM people WHERE id = 'p2' FOR UPDATE")
        .await;
    assert!(
        !desk
            .db
            .one::<bool>("SELECT crm.flush(timeout => '2 s')", &[])
            .await,
        "p2 is not settled"
    );
    assert_eq!(desk.field("p3", "phone").await, "new", "its neighbours are");
    assert_eq!(rows(&desk).await, "p1 p2 p3");
    session.execute("COMMIT").await;
    desk.settle().await;
    assert_eq!(rows(&desk).await, "p1 p3");
}

/// The row is deleted while the edit that finds the record gone is on its way.
#[tokio::test]
async fn a_record_deleted_on_both_sides_at_once_leaves_nothing_behind() {
    for on_delete in ["unlink", "delete"] {
        let desk = Desk::open_with(
            &CLUSTER,
            Vendor::Salesforce,
            &format!("on_insert => 'create', on_delete => '{on_delete}'"),
        )
        .await;
        let ids = desk.link(3).await;
        desk.crm.delete(&desk.db, "Contact", &ids[1]).await;
        let flush = desk.under_way("UPDATE people SET phone = 'new'").await;
        desk.db.execute("DELETE FROM people WHERE id = 'p2'").await;
        flush.await.expect("the flush");
        desk.settle().await;
        let unlinked = "SELECT unlinked FROM crm.status_wide";
        assert_eq!(desk.db.one::<i64>(unlinked, &[]).await, 0, "{on_delete}");
        desk.db
            .execute("INSERT INTO people (id, last_name) VALUES ('p2', 'Another')")
            .await;
        desk.settle().await;
        assert_eq!(desk.field("p2", "last_name").await, "Another");
    }
}

/// The row is edited while an edit that finds the record gone is on its way: it goes all the same.
#[tokio::test]
async fn a_row_that_is_edited_meanwhile_goes_too() {
    for on_delete in ["ignore", "unlink", "delete"] {
        let desk = Desk::open_with(
            &CLUSTER,
            Vendor::Salesforce,
            &format!(
                "on_insert => 'create', on_crm_delete => 'delete', on_delete => '{on_delete}'"
            ),
        )
        .await;
        let ids = linked(&desk).await;
        desk.crm.delete(&desk.db, "Contact", &ids[1]).await;
        let flush = desk.under_way("UPDATE people SET phone = 'new'").await;
        desk.db.execute("UPDATE people SET phone = 'newer'").await;
        flush.await.expect("the flush");
        desk.settle().await;
        assert_eq!(rows(&desk).await, "p1 p3", "{on_delete}");
        let known = "crm.cell_status WHERE record_key = 'p2'";
        assert_eq!(desk.db.count(known).await, 0, "{on_delete}");
    }
}
