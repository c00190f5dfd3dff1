//! The request budget as the CRM last told it.

use crm_suites::{Desk, Json, Vendor, eventually, json};

use crate::CLUSTER;

async fn usage(desk: &Desk) -> Json {
    let sql = "SELECT usage FROM crm.connection_state JOIN crm.connection USING (connection_id) WHERE name = $1";
    desk.db.one(sql, &[&desk.crm.vendor.name()]).await
}

#[tokio::test]
async fn salesforce_tells_the_daily_budget() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3).await;
    let sim = desk.crm.sim();
    sim.post(
        "config",
        &json!({"vendor": "salesforce", "daily_limit": 5000, "daily_used": 17}),
    );
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let told = usage(&desk).await;
    assert_eq!(
        (&told["daily_limit"], &told["daily_remaining"]),
        (&json!(5000), &json!(5000 - 18)),
        "{told}"
    );
    // The last request of the day, and the first that is refused.
    sim.post(
        "config",
        &json!({"vendor": "salesforce", "daily_used": 4999}),
    );
    desk.db.execute("UPDATE people SET phone = 'last'").await;
    desk.settle().await;
    assert_eq!(usage(&desk).await["daily_remaining"], 0);
    // Another app of the org spends the rest: the refusal is what tells.
    sim.post(
        "config",
        &json!({"vendor": "salesforce", "daily_limit": 6000, "daily_used": 6000}),
    );
    desk.db.execute("UPDATE people SET phone = 'refused'").await;
    let _: bool = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
    let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("waiting for the CRM"), "{reason}");
    let told = usage(&desk).await;
    assert_eq!(
        (&told["daily_limit"], &told["daily_remaining"]),
        (&json!(6000), &json!(0)),
        "{told}"
    );
    sim.post("config", &json!({"vendor": "salesforce", "daily_used": 0}));
    desk.db.execute("SELECT crm.resume('salesforce')").await;
    desk.settle().await;
}

#[tokio::test]
async fn hubspot_tells_the_day_and_the_window() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.link(3).await;
    let sim = desk.crm.sim();
    sim.post(
        "config",
        &json!({"vendor": "hubspot", "daily_limit": 250_000, "daily_used": 0, "interval_limit": 190,
                "interval_ms": 10_000}),
    );
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let told = usage(&desk).await;
    assert_eq!(told["daily_limit"], 250_000, "{told}");
    assert_eq!(told["daily_remaining"], 249_999, "{told}");
    assert_eq!(told["window_seconds"], 10, "{told}");
    let left = told["window_remaining"].as_u64();
    assert!(left.is_some_and(|left| left < 190), "{told}");
    // The window is spent: it waits for the next one, and says so.
    sim.post(
        "config",
        &json!({"vendor": "hubspot", "interval_limit": 1, "interval_ms": 1500}),
    );
    for n in 0..3 {
        desk.db
            .execute(&format!("UPDATE people SET phone = 'round {n}'"))
            .await;
        eventually("it arrives in a later window", async || {
            let done: bool = desk.db.one("SELECT crm.flush(timeout => '5 s')", &[]).await;
            done.then_some(())
        })
        .await;
    }
    desk.settle().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}
