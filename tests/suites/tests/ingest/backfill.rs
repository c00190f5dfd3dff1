//! Every record, once: links, values, progress; interrupted, it goes on where it was.

use crm_suites::{Cluster, Live, Vendor, eventually, json};
use serde_json::{Map, Value};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    rows_and_records_find_each_other,
    it_goes_on_after_a_kill,
    whoever_waits_may_go,
);

/// People who are in the CRM with the keys of rows, and whose names only the CRM knows.
async fn known_by_key(live: &Live, count: usize) {
    let people: Vec<Map<String, Value>> = (0..count)
        .map(|n| {
            let fields =
                json!({"id": format!("k{n}"), "last_name": format!("Last {n}"), "phone": "+2"});
            fields.as_object().unwrap().clone()
        })
        .collect();
    let object = live.crm.vendor.people();
    live.crm.create(&live.db, object, &people).await;
    let sql = format!(
        "ALTER TABLE people DISABLE TRIGGER ALL;
         INSERT INTO people (id, last_name) SELECT 'k' || n, 'Last ' || n FROM generate_series(0, {count} - 1) n;
         ALTER TABLE people ENABLE TRIGGER ALL"
    );
    live.db.execute(&sql).await;
}

async fn rows_and_records_find_each_other(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    // More than a page, all of one second.
    known_by_key(&live, 450).await;
    let backfill = format!("SELECT crm.backfill({})", live.map);
    let read: i64 = live.db.one(&backfill, &[]).await;
    assert!(read >= 450, "{read}");
    let total = live.db.one("SELECT total FROM crm.ingest_state", &[]);
    let total: Option<i64> = total.await;
    // Pipedrive counts nothing.
    assert_eq!(total, (vendor != Vendor::Pipedrive).then_some(450));
    let linked = "crm.ledger WHERE crm_id IS NOT NULL";
    assert_eq!(live.db.count(linked).await, 450);
    assert_eq!(live.db.count("people WHERE phone = '+2'").await, 450);
    assert_eq!(live.db.count("crm.progress").await, 0);
    live.nothing_goes_out().await;
    live.agree().await;
    // Again, it brings nothing.
    let rows = live.audit_rows().await;
    let again: i64 = live.db.one(&backfill, &[]).await;
    assert!(again >= 450, "{again}");
    assert_eq!(live.audit_rows().await, rows);
    let missing = live.db.error("SELECT crm.backfill(999)").await;
    assert_eq!(missing.code().code(), "42704");
}

async fn it_goes_on_after_a_kill(vendor: Vendor) {
    let cluster = Cluster::start();
    let mut live = Live::open(&cluster, vendor).await;
    known_by_key(&live, 450).await;
    for point in [
        "ingest::before_request",
        "ingest::after_request",
        "ingest::before_commit",
        "ingest::after_commit",
    ] {
        live.db
            .execute(&format!("ALTER SYSTEM SET pg_crm.failpoints = '{point}'"))
            .await;
        live.db.execute("SELECT pg_reload_conf()").await;
        let name = format!("pg_crm.failpoint.{}", point.replace("::", "."));
        let marker = cluster.data().join(name);
        let backfill = format!("SELECT crm.backfill({})", live.map);
        eventually(point, async || {
            let _ = live.db.client().batch_execute(&backfill).await;
            marker.exists().then_some(())
        })
        .await;
        live.reconnect().await;
        live.db.worker().await;
    }
    // Nobody asks again.
    eventually("the backfill is over", async || {
        (live
            .db
            .count("crm.ingest_state WHERE backfill IS NOT NULL")
            .await
            == 0)
            .then_some(())
    })
    .await;
    live.ingest().await;
    assert_eq!(
        live.db.count("crm.ledger WHERE crm_id IS NOT NULL").await,
        450
    );
    assert_eq!(live.db.count("people WHERE phone = '+2'").await, 450);
    let twice = "SELECT count(*) FROM (SELECT record_key FROM crm.audit_log WHERE operation = 'link' GROUP BY 1 HAVING count(*) > 1) t";
    assert_eq!(live.db.one::<i64>(twice, &[]).await, 0);
    live.agree().await;
}

async fn whoever_waits_may_go(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    known_by_key(&live, 3).await;
    let name = vendor.name();
    live.db
        .execute(&format!("SELECT crm.pause('{name}')"))
        .await;
    let backfill = format!("SELECT crm.backfill({})", live.map);
    let still = live.db.error(&backfill).await;
    assert_eq!(still.code().code(), "55000");
    assert!(still.detail().unwrap().contains("paused"), "{still:?}");
    let phase = "SELECT phase FROM crm.progress";
    assert_eq!(live.db.text(phase).await, "backfill");
    assert!(
        !live
            .db
            .one::<bool>("SELECT crm.ingest_now(timeout => '1 s')", &[])
            .await
    );
    live.db
        .execute(&format!("SELECT crm.resume('{name}')"))
        .await;
    eventually("it goes on by itself", async || {
        (live.db.count("people WHERE phone = '+2'").await == 3).then_some(())
    })
    .await;
    live.agree().await;
}
