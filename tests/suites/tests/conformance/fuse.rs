//! Too many deletions and emptied fields, on either side, wait for a person.

use std::sync::LazyLock;

use crm_suites::{Cluster, Contestant, Desk, Live, eventually, json};

crm_suites::with_every_contestant!(
    deleted_rows_are_held,
    emptied_cells_are_held,
    what_vanishes_from_the_crm_is_held,
    what_is_emptied_in_the_crm_is_held,
);

/// A fuse that a handful of records trips.
static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::shared_with(&[("pg_crm.fuse_records", "2")]));

async fn held(desk: &Desk, call: &str) -> String {
    eventually("the map is held", async || {
        let done = format!("SELECT crm.{call}(timeout => '10 s')");
        let done: bool = desk.db.one(&done, &[]).await;
        (!done && desk.state().await == "held").then_some(())
    })
    .await;
    desk.db.one("SELECT reason FROM crm.status", &[]).await
}

async fn approve(desk: &Desk) {
    let approve = "SELECT crm.approve($1)";
    assert!(desk.db.one::<bool>(approve, &[&desk.map]).await);
}

async fn deleted_rows_are_held(contestant: Contestant) {
    let arguments = "on_insert => 'ignore', on_delete => 'delete'";
    let desk = Desk::open_with(&CLUSTER, contestant, arguments).await;
    desk.link(6).await;
    desk.settle().await;
    desk.db
        .execute("DELETE FROM people WHERE id IN ('p1', 'p2', 'p3', 'p4')")
        .await;
    let reason = held(&desk, "flush").await;
    assert!(reason.starts_with("held: 4 CRM records"), "{reason}");
    let people = desk.crm.vendor.people();
    assert_eq!(desk.crm.records(&desk.db, people).await.len(), 6);
    approve(&desk).await;
    desk.settle().await;
    assert_eq!(desk.crm.records(&desk.db, people).await.len(), 2);
}

/// Edits that are compared with the CRM first; those of `crm.write()` are not held.
async fn emptied_cells_are_held(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(5).await;
    live.db
        .execute("UPDATE people SET phone = NULL WHERE id <> 'p5'")
        .await;
    let reason = held(&live, "flush").await;
    assert!(reason.contains(", 4 cleared and "), "{reason}");
    assert_eq!(live.field("p1", "phone").await, "+1");
    live.write("p5", json!({"phone": null}))
        .await
        .expect("committed");
    approve(&live).await;
    live.agree().await;
    assert_eq!(live.cell("p1", "phone").await, json!(null));
}

async fn what_vanishes_from_the_crm_is_held(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    let ids = live.people(6).await;
    live.ingest().await;
    for id in &ids[1..] {
        live.crm.delete(&live.db, vendor.people(), id).await;
    }
    let reason = held(&live, "ingest_now").await;
    assert!(reason.starts_with("ingestion held: "), "{reason}");
    let linked = "crm.ledger WHERE crm_id IS NOT NULL";
    assert!(live.db.count(linked).await >= 4, "most are linked still");
    approve(&live).await;
    live.ingest().await;
    assert_eq!(live.db.count(linked).await, 1);
    assert_eq!(live.db.count("people").await, 6);
}

async fn what_is_emptied_in_the_crm_is_held(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    let ids = live.people(6).await;
    live.ingest().await;
    let nothing = json!({"phone": ""});
    live.crm
        .edit_all(&live.db, vendor.people(), &ids, &nothing)
        .await;
    let reason = held(&live, "ingest_now").await;
    assert!(reason.contains(" cleared, and "), "{reason}");
    assert_eq!(live.db.count("people WHERE phone = '+1'").await, 6);
    approve(&live).await;
    live.ingest().await;
    assert_eq!(live.db.count("people WHERE phone IS NULL").await, 6);
    live.db.assert_checked().await;
}
