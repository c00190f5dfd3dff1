//! The worker is killed while Zoho works on a job of its: the job goes on without it.

use crm_suites::{Cluster, Desk, Vendor, eventually, json};

const RECORDS: usize = 2500;

#[tokio::test]
async fn a_job_in_the_middle_of_which_the_worker_dies_loses_and_doubles_nothing() {
    let cluster = Cluster::start();
    let mut desk = Desk::open_with(&cluster, Vendor::Zoho, "on_insert => 'create'").await;
    desk.crm.sim().post(
        "config",
        &json!({"vendor": "zoho", "bulk_latency_ms": 1000}),
    );
    let edits = [
        format!(
            "INSERT INTO people (id, last_name, phone) SELECT 'n' || n, 'Last ' || n, n FROM generate_series(1, {RECORDS}) n"
        ),
        "UPDATE people SET phone = 'new ' || id".to_owned(),
    ];
    for edit in edits {
        desk.crm.forget(&desk.db).await;
        desk.db.execute(&edit).await;
        let session = desk.db.session().await;
        let flush =
            tokio::spawn(async move { session.client().batch_execute("SELECT crm.flush()").await });
        eventually("a job is on", async || {
            let looks = desk.crm.sim().requests("/bulk/v8/write/");
            (!looks.is_empty()).then_some(())
        })
        .await;
        desk.db.kill_worker().await;
        let _ = flush.await;
        desk.db.reconnect().await;
        desk.db.worker().await;
        desk.settle().await;
        let records = desk.crm.records(&desk.db, Vendor::Zoho.people()).await;
        assert_eq!(records.len(), RECORDS);
        assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    }
}
