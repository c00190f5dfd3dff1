//! A link is replaced while its record is being written.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

/// The response would set the old link again, and what was sent would be missing in the new record.
#[tokio::test]
async fn a_link_is_not_replaced_while_its_record_is_written() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    let ids = desk.link(2).await;
    desk.db.execute("DELETE FROM people WHERE id = 'p2'").await;
    desk.db.drain().await;
    let link = format!(
        "SELECT crm.link({}, 'p1', '{}', replace => true, write_key => false)",
        desk.map, ids[1]
    );
    let unlink = "SELECT crm_internal.unlink_record('', $1, 'p2')";
    desk.db.rows(unlink, &[&desk.map]).await;
    let flush = desk.under_way("UPDATE people SET phone = 'new'").await;
    let error = desk.db.error(&link).await;
    assert_eq!(error.code().code(), "55006", "{error:?}");
    assert!(flush.await.expect("the flush"));
    desk.db.execute(&link).await;
    // The former record still has the row's key, which a person is asked about.
    desk.db.execute("UPDATE people SET phone = 'newer'").await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.crm_id("p1").await.as_ref(), Some(&ids[1]));
    assert_eq!(desk.field("p1", "phone").await, "newer");
    desk.db.assert_checked().await;
}
