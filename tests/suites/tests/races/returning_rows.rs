//! Rows that are deleted and inserted again, while their records are still to be deleted.

use crm_suites::{Live, Vendor, eventually, json};

use super::CLUSTER;

const BOTH: &str = "on_insert => 'create', on_delete => 'delete'";

/// One row that is linked, all of whose columns flow both ways.
async fn linked(vendor: Vendor) -> (Live, String) {
    let live = Live::with(&CLUSTER, vendor, BOTH, "").await;
    insert(&live).await;
    live.db.drain().await;
    live.agree().await;
    let id = live.crm_id("p1").await.expect("it is linked");
    (live, id)
}

async fn insert(live: &Live) {
    let sql =
        "INSERT INTO people (id, first_name, last_name, phone) VALUES ('p1', 'Ada', 'Byron', '+1')";
    live.db.execute(sql).await;
}

#[tokio::test]
async fn a_row_that_returns_in_time_keeps_its_record() {
    let (live, id) = linked(Vendor::Stub).await;
    live.crm.fail(&live.db, "write", "auth", 1).await;
    live.db.execute("DELETE FROM people").await;
    live.db.execute("SELECT crm.flush(timeout => '0 s')").await;
    eventually("the deletion is refused", async || {
        (live.state().await == "error").then_some(())
    })
    .await;
    assert_eq!(live.db.count("crm.queue WHERE op = 'd'").await, 1);
    insert(&live).await;
    live.mend().await;
    live.db.drain().await;
    live.agree().await;
    assert_eq!(live.crm_id("p1").await, Some(id));
    live.write("p1", json!({"phone": "+2"}))
        .await
        .expect("committed");
    live.assert_both("p1", "phone", "+2").await;
}

#[tokio::test]
async fn a_row_that_returns_too_late_gets_a_record_of_its_own() {
    let (live, id) = linked(Vendor::Salesforce).await;
    live.crm
        .fault(json!({"method": "DELETE", "times": 1, "delay_after_ms": 1500}));
    live.db.execute("DELETE FROM people").await;
    let session = live.db.session().await;
    let flush = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the deletion is on its way", async || {
        (live.crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    insert(&live).await;
    eventually("the row is taken up", async || {
        (live.db.count("crm.change").await == 0).then_some(())
    })
    .await;
    assert!(flush.await.expect("no panic"));
    live.db.drain().await;
    live.agree().await;
    let new = live.crm_id("p1").await;
    assert!(new.is_some_and(|new| new != id), "a record of its own");
}
