//! Deletions of which the CRM does not tell, because its delta link has lapsed.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

#[tokio::test]
async fn what_was_deleted_unheard_is_found_record_by_record() {
    let arguments = "on_crm_delete => 'delete'";
    let live = Live::with(&CLUSTER, Vendor::Dynamics365, arguments, "").await;
    let ids = live.people(4).await;
    live.ingest().await;
    live.pause().await;
    live.crm.delete(&live.db, "contacts", &ids[1]).await;
    live.edit_in_crm("p3", json!({"phone": "theirs"})).await;
    // Eight days later.
    live.crm
        .sim()
        .post("clock", &json!({"skew_s": 8 * 24 * 3600}));
    live.resume().await;
    live.ingest().await;
    live.assert_both("p3", "phone", "theirs").await;
    eventually("the row follows its record", async || {
        (live.db.count("people").await == 3).then_some(())
    })
    .await;
    assert_eq!(live.db.count("people WHERE id = 'p2'").await, 0);
    eventually("everything was read", async || {
        (live.db.count("crm.refetch").await == 0).then_some(())
    })
    .await;
    live.agree().await;
}
