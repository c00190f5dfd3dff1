//! Salesforce's ids have a short spelling and a long one.

use crm_suites::{Live, Vendor, json};

use crate::CLUSTER;

#[tokio::test]
async fn a_record_that_was_linked_by_its_short_id_is_found() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    let ids = live.link(2).await;
    let sql = "SELECT crm.link($1, 'p1', $2)";
    live.db.rows(sql, &[&live.map, &&ids[0][..15]]).await;
    let taken = live
        .db
        .error(&format!(
            "SELECT crm.link({}, 'p2', '{}')",
            live.map,
            &ids[0][..15]
        ))
        .await;
    assert_eq!(taken.code().code(), "23505");
    live.edit_in_crm("p1", json!({"phone": "by its long id"}))
        .await;
    live.ingest().await;
    live.assert_both("p1", "phone", "by its long id").await;
    live.agree().await;
}
