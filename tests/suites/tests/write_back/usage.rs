//! Request budgets: what the CRM told, what the admin allows, and what is kept for real time; the
//! circuit breaker.

use crm_suites::{Crm, Desk, Json, Live, Vendor, eventually, json};

use crate::CLUSTER;

async fn usage(desk: &Desk) -> Json {
    let sql = "SELECT usage FROM crm.connection_state JOIN crm.connection USING (connection_id) WHERE name = $1";
    desk.db.one(sql, &[&desk.crm.vendor.name()]).await
}

#[tokio::test]
async fn readers_see_how_connections_do() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3).await;
    let sim = desk.crm.sim();
    sim.post(
        "config",
        &json!({"vendor": "salesforce", "daily_limit": 5000, "daily_used": 17}),
    );
    let reader = format!("{}_reader", desk.db.name);
    desk.db
        .execute(&format!(
            "CREATE ROLE {reader}; SELECT crm.grant_access('{reader}', 'reader')"
        ))
        .await;
    let session = desk.db.session().await;
    session.execute(&format!("SET ROLE {reader}")).await;
    let connections = "SELECT connection, state, reason, circuit, maps, waiting, last_success IS NOT NULL AS succeeded,
                              error_class, last_error IS NOT NULL AS failed, budget, remaining
                       FROM crm.connections";
    let edit = "UPDATE people SET phone = phone || '1'";
    desk.db.execute(edit).await;
    desk.settle().await;
    let remaining: i64 = session
        .one("SELECT remaining FROM crm.rate_budget", &[])
        .await;
    assert_eq!(
        session.text(connections).await,
        format!("salesforce | ok | (null) | closed | 1 | 0 | t | (null) | f | day | {remaining}")
    );
    desk.db.execute("SELECT crm.pause('salesforce')").await;
    desk.db.execute(edit).await;
    assert_eq!(
        session
            .text("SELECT state, reason FROM crm.connections")
            .await,
        "paused | connection paused"
    );
    desk.crm.fault(json!({"status": 401, "times": "unlimited"}));
    desk.db.execute("SELECT crm.resume('salesforce')").await;
    assert!(!desk.db.flush().await);
    let stopped = eventually("the connection stops", async || {
        let stopped =
            "SELECT reason FROM crm.connections WHERE state = 'error' AND error_class = 'auth'";
        session.all::<String>(stopped, &[]).await.pop()
    })
    .await;
    assert!(stopped.starts_with("credentials rejected: "), "{stopped}");
    desk.db.assert_checked().await;
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
    // The last request of the day.
    sim.post(
        "config",
        &json!({"vendor": "salesforce", "daily_used": 4999}),
    );
    desk.db.execute("UPDATE people SET phone = 'last'").await;
    desk.settle().await;
    assert_eq!(usage(&desk).await["daily_remaining"], 0);
    // Nothing is asked any more: what may be left is for those who wait.
    desk.crm.forget(&desk.db).await;
    desk.db
        .execute("UPDATE people SET phone = 'reserved'")
        .await;
    assert!(
        !desk
            .db
            .one::<bool>("SELECT crm.flush(timeout => '1 s')", &[])
            .await
    );
    let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("reserved for real-time writes"), "{reason}");
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    let budget =
        "SELECT budget, \"limit\", used, remaining, reserved, per, waiting FROM crm.rate_budget";
    assert_eq!(
        desk.db.text(budget).await,
        "day | 5000 | 5000 | 0 | 1000 | 1 day | 3"
    );
    assert_eq!(
        desk.db
            .text("SELECT state, waiting, budget, remaining FROM crm.connections")
            .await,
        "ok | 3 | day | 0"
    );
    // An operator knows better, but another app of the org spends the rest: the refusal is what
    // tells.
    sim.post(
        "config",
        &json!({"vendor": "salesforce", "daily_limit": 6000, "daily_used": 6000}),
    );
    desk.db.execute("SELECT crm.resume('salesforce')").await;
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

/// Edits that somebody waits for go, while what nobody waits for leaves them the rest of the day.
#[tokio::test]
async fn the_rest_of_the_day_is_for_real_time() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    live.people(2).await;
    let sim = live.crm.sim();
    let spent =
        |used: u64| json!({"vendor": "salesforce", "daily_limit": 1000, "daily_used": used});
    sim.post("config", &spent(810));
    live.write("p1", json!({"phone": "first"}))
        .await
        .expect("committed");
    // It is known once the worker has written it down.
    let known = async |less_than: i64| {
        eventually("the budget is known", async || {
            let _: bool = live
                .db
                .one("SELECT crm.flush(timeout => '50 ms')", &[])
                .await;
            let left = "SELECT remaining FROM crm.rate_budget";
            let left: Option<i64> = live.db.all(left, &[]).await.pop();
            left.filter(|left| *left < less_than)
        })
        .await
    };
    let left = known(200).await;
    live.db
        .execute("UPDATE people SET phone = 'waits' WHERE id = 'p2'")
        .await;
    assert!(
        !live
            .db
            .one::<bool>("SELECT crm.flush(timeout => '1 s')", &[])
            .await
    );
    live.write("p1", json!({"phone": "second"}))
        .await
        .expect("committed");
    assert_ne!(live.field("p2", "phone").await, "waits");
    known(left).await;
    sim.post("config", &spent(0));
    live.db.execute("SELECT crm.resume('salesforce')").await;
    live.agree().await;
    live.assert_both("p2", "phone", "waits").await;
}

/// The admin's own bound holds, whatever the CRM would take.
#[tokio::test]
async fn a_rate_limit_is_kept() {
    let db = CLUSTER.database().await;
    let options = r#"{"rate_limit": {"requests": 4, "seconds": 2}, "realtime_reserve": 0}"#;
    let crm = Crm::connect_with(&db, Vendor::Pipedrive, options).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    desk.link(12).await;
    desk.settle().await;
    desk.crm.forget(&desk.db).await;
    // One request for each.
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let moments: Vec<i64> = desk
        .crm
        .sim()
        .requests("")
        .iter()
        .map(|r| r["at_ms"].as_i64().expect("a time"))
        .collect();
    assert!(moments.len() >= 12, "{moments:?}");
    // Twelve requests: four at once at most, and two a second.
    let (first, last) = (moments.iter().min(), moments.iter().max());
    let took = last.zip(first).map(|(last, first)| last - first);
    assert!(took.is_some_and(|ms| ms >= 3500), "{moments:?}");
}

/// Edits that wait for a share of a tight budget go before a batch that waited longer.
#[tokio::test]
async fn edits_go_before_batches() {
    let db = CLUSTER.database().await;
    let options = r#"{"rate_limit": {"requests": 2, "seconds": 1}, "realtime_reserve": 0, "max_in_flight": 1}"#;
    let crm = Crm::connect_with(&db, Vendor::Pipedrive, options).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    let field = desk.crm.vendor.field("title");
    let edited = format!(
        "SELECT crm.map_field({}, 'title', '{field}', direction => 'bidirectional')",
        desk.map
    );
    desk.db.execute(&edited).await;
    desk.link(10).await;
    desk.settle().await;
    desk.crm.forget(&desk.db).await;
    // One request for each, five seconds in all.
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    let session = desk.db.session().await;
    let batch = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the batch is under way", async || {
        (!desk.crm.asked(&desk.db).await.is_empty()).then_some(())
    })
    .await;
    desk.db
        .execute("UPDATE people SET title = 'edited' WHERE id = 'p1'")
        .await;
    eventually("the edit arrives", async || {
        (desk.field("p1", "title").await == "edited").then_some(())
    })
    .await;
    let waiting = "SELECT count(*) FROM crm.queue";
    let waiting: i64 = desk.db.one(waiting, &[]).await;
    assert!(waiting > 0, "the batch was done first");
    batch.await.expect("the flush");
    desk.settle().await;
}

/// A map with many records that wait for a tight budget does not keep one with few waiting.
#[tokio::test]
async fn maps_take_turns() {
    let db = CLUSTER.database().await;
    let options = r#"{"rate_limit": {"requests": 5, "seconds": 1}, "realtime_reserve": 0}"#;
    let crm = Crm::connect_with(&db, Vendor::HubSpot, options).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'create'").await;
    let db = &desk.db;
    db.execute("CREATE TABLE few (LIKE people INCLUDING ALL)")
        .await;
    let few = "SELECT map_id FROM crm.map_object('hubspot', 'few', 'companies', external_id_field => 'external_key', on_insert => 'create') AS map_id,
                      crm.map_field(map_id, 'last_name', 'name', direction => 'outbound')";
    let few: i32 = db.one(few, &[]).await;
    // Thirty requests, all of them waiting at once.
    db.execute("INSERT INTO people (id, last_name) SELECT 'm' || n, 'Many' FROM generate_series(1, 3000) n")
        .await;
    let session = db.session().await;
    let all = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the many are on their way", async || {
        (!desk.crm.asked(db).await.is_empty()).then_some(())
    })
    .await;
    for n in 1..=3 {
        db.execute(&format!(
            "INSERT INTO few (id, last_name) VALUES ('f{n}', 'Few')"
        ))
        .await;
        assert!(db.one::<bool>("SELECT crm.flush($1)", &[&few]).await);
    }
    let made = desk.crm.records(db, "contacts").await.len();
    assert!(made < 2000, "{made} were made meanwhile");
    assert!(all.await.expect("the flush"));
    db.drain().await;
    db.assert_checked().await;
}

/// After three failures in a row the CRM is left alone for a while, and then tried.
#[tokio::test]
async fn the_circuit_opens_and_closes() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.link(3).await;
    desk.settle().await;
    let circuit = async || {
        desk.db
            .one::<String>("SELECT circuit FROM crm.status_wide", &[])
            .await
    };
    assert_eq!(circuit().await, "closed");
    desk.crm.fault(json!({"status": 503, "times": "unlimited"}));
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    for _ in 0..3 {
        let _: bool = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
        let retry = "UPDATE crm.connection_state SET blocked_until = now()";
        desk.db.execute(retry).await;
        desk.db
            .execute("SELECT crm_internal.notify_worker(false)")
            .await;
    }
    eventually("it is open", async || {
        (circuit().await != "closed").then_some(())
    })
    .await;
    // Nothing is on its way that could still fail.
    desk.db.execute("SELECT crm.pause('hubspot')").await;
    eventually("nothing is on its way", async || {
        (desk.db.count("crm.claim").await == 0).then_some(())
    })
    .await;
    desk.crm.sim().end_faults();
    desk.db
        .execute("UPDATE crm.connection_state SET blocked_until = now()")
        .await;
    assert_eq!(circuit().await, "half-open");
    // crm.resume() would close it.
    desk.db
        .execute("SET ROLE crm_engine; UPDATE crm.connection SET paused = false; RESET ROLE")
        .await;
    desk.settle().await;
    assert_eq!(circuit().await, "closed");
}
