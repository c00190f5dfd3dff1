//! Many records at once: all arrive, each as its own row, in as few requests as the vendor allows,
//! and the worker's memory is not a matter of their number.

use std::sync::LazyLock;

use crm_suites::{Cluster, Contestant, Crm, Desk};

crm_suites::with_every_contestant!(ten_thousand_records_are_created_and_updated);

/// Without the fuse, which would hold what empties so many records.
static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::shared_with(&[("pg_crm.fuse_records", "-1")]));

/// What the worker may take for a slice of them, shared memory that it touches included.
const ROOM_KB: u64 = 300_000;

async fn ten_thousand_records_are_created_and_updated(contestant: Contestant) {
    let volume = &contestant.vendor.facts().volume;
    let db = CLUSTER.database().await;
    let crm = Crm::connect_with(&db, contestant, volume.options).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'create'").await;
    let insert = format!(
        "INSERT INTO people (id, first_name, last_name, phone)
         SELECT 'n' || n, E'O''Neil \"' || n || '\", Jr\nnext', 'Last ' || n, nullif(n % 3, 0)
         FROM generate_series(1, {}) n",
        volume.records
    );
    let cleared = "UPDATE people SET phone = NULL, first_name = NULL";
    let before = desk.db.vitals().await.memory_kb;
    for (statement, requests) in [insert.as_str(), cleared].into_iter().zip(volume.requests) {
        desk.crm.forget(&desk.db).await;
        desk.db.execute(statement).await;
        desk.settle().await;
        let asked = desk.crm.request_count(&desk.db).await;
        // Rows are read for a second at a time: a busy machine cuts slices short.
        let most = contestant.requests(volume.records, requests) * 3 / 2;
        assert!(asked <= most, "{asked} requests, not {most}");
    }
    let taken = desk.db.vitals().await.peak_kb - before;
    assert!(taken < ROOM_KB, "{taken} kB more than at rest");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    let records = desk.crm.records(&desk.db, contestant.vendor.people()).await;
    assert_eq!(records.len(), volume.records);
}
