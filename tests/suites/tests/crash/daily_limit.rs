//! A day's count of requests is the connection's, not the worker's.

use crm_suites::{Cluster, Crm, Live, Vendor, eventually, json};

async fn left(live: &Live) -> i64 {
    let sql = "SELECT remaining FROM crm.rate_budget WHERE budget = 'daily_limit'";
    live.db.one(sql, &[]).await
}

async fn kill_worker(live: &mut Live) {
    live.db.kill_worker().await;
    live.reconnect().await;
    live.db.worker().await;
}

/// A day's count for a CRM that tells none: the rest is for real time, a restart does not forget
/// it, and once it is spent the CRM is left alone.
#[tokio::test]
async fn a_daily_limit_is_kept_over_restarts() {
    let cluster = Cluster::start();
    let db = cluster.database().await;
    let options = r#"{"daily_limit": 60, "realtime_reserve": 0.5}"#;
    let crm = Crm::connect_with(&db, Vendor::Dynamics365, options).await;
    let mut live = Live::furnish(
        db,
        crm,
        "on_insert => 'ignore', ingest_interval => '1 day'",
        "",
    )
    .await;
    live.link(2).await;
    let mut n = 0;
    while left(&live).await > 30 {
        n += 1;
        live.db
            .execute(&format!("UPDATE people SET phone = '{n}' WHERE id = 'p1'"))
            .await;
        live.db.flush().await;
        assert!(n < 60, "nothing is counted");
    }
    live.db
        .execute("UPDATE people SET email = 'waits@x.example' WHERE id = 'p2'")
        .await;
    kill_worker(&mut live).await;
    assert!(
        !live
            .db
            .one::<bool>("SELECT crm.flush(timeout => '1 s')", &[])
            .await
    );
    let reason: String = live.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("reserved for real-time writes"), "{reason}");
    assert!((25..=30).contains(&left(&live).await));
    let written = loop {
        n += 1;
        let written = live.write("p1", json!({"phone": n.to_string()})).await;
        if written.outcome != "committed" {
            break written;
        }
        assert!(n < 60, "nothing is counted");
    };
    written.expect_pending("rate_limited");
    eventually("all is spent", async || {
        (left(&live).await == 0).then_some(())
    })
    .await;
    let asked = live.crm.asked(&live.db).await.len();
    assert_eq!(asked, 60, "requests, of which 60 were allowed");
    // Tomorrow.
    live.db
        .execute("UPDATE crm.connection_state SET usage = usage || '{\"day\": 1}', blocked_until = '-infinity'")
        .await;
    assert_eq!(left(&live).await, 60);
    kill_worker(&mut live).await;
    live.agree().await;
    assert_eq!(live.field("p2", "email").await, "waits@x.example");
}
