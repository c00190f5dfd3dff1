//! Records are read by themselves only if that can tell something, and together.

use crm_suites::{Desk, Live, Vendor, eventually, json};

use crate::CLUSTER;

/// Requests that read records by their ids.
fn reads(desk: &Desk) -> usize {
    let requests = desk.crm.sim().requests("");
    let query = |n: usize| requests[n]["query"].as_str().unwrap_or_default();
    (0..requests.len())
        .filter(|n| query(*n).contains("ids="))
        .count()
}

#[tokio::test]
async fn what_is_on_its_way_is_not_read_meanwhile() {
    let desk = Desk::open(&CLUSTER, Vendor::Pipedrive).await;
    desk.link(100).await;
    desk.ingest().await;
    desk.crm.forget(&desk.db).await;
    // One record keeps the others waiting, which the CRM shows as changed already.
    let flush = desk.under_way("UPDATE people SET phone = 'new'").await;
    eventually("others are written", async || {
        (desk.crm.request_count(&desk.db).await >= 75).then_some(())
    })
    .await;
    desk.ingest().await;
    assert!(flush.await.expect("it does not panic"));
    let waited = "SELECT echoes FROM crm.status_wide";
    assert!(desk.db.one::<i64>(waited, &[]).await >= 75);
    assert_eq!(reads(&desk), 1, "once, when it had arrived");
    desk.settle().await;
}

/// Dynamics 365 tells no deletions of before a pass through all records: what it does not show may
/// be gone.
#[tokio::test]
async fn what_a_pass_has_shown_is_not_read_once_more() {
    let arguments = "on_crm_delete => 'delete'";
    let live = Live::with(&CLUSTER, Vendor::Dynamics365, arguments, "").await;
    let ids = live.link(30).await;
    live.crm.delete(&live.db, "contacts", &ids[6]).await;
    live.crm.forget(&live.db).await;
    live.ingest().await;
    let asked = live.crm.asked(&live.db).await;
    let one = format!("GET /api/data/v9.2/contacts({})", ids[6]);
    assert_eq!(asked.last(), Some(&one), "{asked:?}");
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(live.db.count("people").await, 29);
    assert_eq!(live.db.count("people WHERE id = 'p7'").await, 0);
    assert_eq!(live.db.count("crm.refetch").await, 0);
    // The same in every pass that reads all.
    live.crm.forget(&live.db).await;
    live.edit_in_crm("p3", json!({"phone": "theirs"})).await;
    live.crm.delete(&live.db, "contacts", &ids[7]).await;
    let read: i64 = live.db.one("SELECT crm.backfill(1)", &[]).await;
    assert_eq!(read, 28);
    live.assert_both("p3", "phone", "theirs").await;
    assert_eq!(live.db.count("people").await, 28);
    live.agree().await;
}
