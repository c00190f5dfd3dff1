//! Short timeouts, few attempts, small slices: what takes hours at the usual settings, in seconds.

use std::time::{Duration, Instant};

use crm_suites::{Cluster, Desk, Vendor, eventually, json};

async fn desk(vendor: Vendor, settings: &[(&str, &str)]) -> (Cluster, Desk) {
    let cluster = Cluster::with(settings);
    let desk = Desk::open_with(&cluster, vendor, "on_insert => 'create'").await;
    (cluster, desk)
}

#[tokio::test]
async fn a_crm_that_does_not_answer_is_asked_again() {
    let (_cluster, desk) = desk(Vendor::Salesforce, &[("pg_crm.request_timeout", "500ms")]).await;
    desk.link(5).await;
    desk.crm.fault(json!({"delay_ms": 5000, "times": 2}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    let start = Instant::now();
    desk.settle().await;
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

#[tokio::test]
async fn attempts_of_a_record_are_bounded_and_outages_cost_none() {
    let (_cluster, desk) = desk(Vendor::Salesforce, &[("pg_crm.max_attempts", "2")]).await;
    desk.link(5).await;
    desk.crm.fault(json!({"status": 503, "times": 4}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let locked = json!({"keys": ["p3"], "code": "UNABLE_TO_LOCK_ROW", "message": "unable to obtain exclusive access"});
    desk.crm
        .fault(json!({"times": "unlimited", "fail_records": locked}));
    desk.db.execute("UPDATE people SET phone = 'newer'").await;
    eventually("p3 is a dead letter", async || {
        let _: Option<bool> = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
        (desk
            .db
            .count("crm.dead_letters WHERE record_key = 'p3'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    let tried = "crm.audit_log WHERE record_key = 'p3' AND vendor_code = 'UNABLE_TO_LOCK_ROW'";
    assert_eq!(desk.db.count(tried).await, 2);
    desk.crm.sim().end_faults();
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
}

#[tokio::test]
async fn slices_are_small_and_all_of_them_go() {
    let settings = [("pg_crm.batch_rows", "7"), ("pg_crm.batch_bytes", "64kB")];
    for vendor in Vendor::ALL {
        let (_cluster, desk) = desk(vendor, &settings).await;
        desk.db
            .execute(
                "INSERT INTO people (id, last_name, first_name)
                 SELECT 'n' || n, 'Last ' || n, 'First ' || n FROM generate_series(1, 100) n",
            )
            .await;
        desk.settle().await;
        desk.db.execute("UPDATE people SET phone = id").await;
        desk.settle().await;
    }
}

#[tokio::test]
async fn base_urls_lead_only_to_allowed_hosts() {
    let (_cluster, desk) = desk(
        Vendor::Stub,
        &[("pg_crm.allowed_hosts", "*.salesforce.com")],
    )
    .await;
    let connect = |name: &str, url: &str| {
        format!("SELECT crm.create_connection('{name}', 'salesforce', base_url => '{url}')")
    };
    desk.db
        .execute(&connect("good", "https://acme.my.salesforce.com"))
        .await;
    for bad in [
        "https://evil.example",
        "https://salesforce.com.evil.example",
        "https://x@evil.example/salesforce.com",
    ] {
        let error = desk.db.error(&connect("bad", bad)).await;
        assert!(error.hint().is_some(), "{bad}: {error:?}");
    }
}
