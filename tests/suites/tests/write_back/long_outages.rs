//! An outage of each kind, with edits going on: it ends by itself, everything arrives, and no
//! attempt was charged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_suites::{Cluster, Crm, Desk, Gate, Json, Sim, Vendor, json, within};

/// Kinds of outage, and the fault that makes each.
fn kinds() -> Vec<(&'static str, Option<Json>)> {
    let slow_down = json!([{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentRequests Limit exceeded."}]);
    vec![
        ("connection refused", None),
        ("connection dropped", Some(json!({"drop": "before"}))),
        // Held for longer than a request may take, and then dropped: it must not be applied when
        // nobody waits any more.
        ("hang", Some(json!({"delay_ms": 5000, "drop": "before"}))),
        ("503", Some(json!({"status": 503}))),
        (
            "429 with Retry-After",
            Some(json!({"status": 429, "headers": {"Retry-After": "1"}})),
        ),
        ("429 without", Some(json!({"status": 429}))),
        // Tokens expire meanwhile: that a new one cannot be had is no refusal.
        (
            "no tokens",
            Some(json!({"path": "/oauth2/token", "status": 503})),
        ),
        (
            "too many requests at once",
            Some(json!({"status": 403, "body": slow_down})),
        ),
    ]
}

/// What an outage cost.
#[derive(Debug)]
#[expect(dead_code, reason = "it is printed")]
struct Toll {
    edits: usize,
    requests: usize,
    attempts_audited: i64,
    /// From the end of the outage until the CRM had everything.
    recovery: Duration,
}

async fn outage(cluster: &Cluster, kind: &str, fault: Option<Json>, length: Duration) -> Toll {
    let db = cluster.database().await;
    let sim = Arc::new(Sim::start());
    let mut gate = Gate::before(&sim.salesforce);
    let crm = Crm::connect_through(&db, Vendor::Salesforce, &gate, sim.clone()).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'create', on_delete => 'delete'").await;
    desk.link(20).await;
    let credentials =
        json!({"client_id": "sf-client", "client_secret": "sf-secret", "login_url": gate.url()});
    desk.db
        .execute(&format!(
            "SELECT crm.set_credentials('salesforce', '{credentials}')"
        ))
        .await;
    // Sent as soon as they commit: nobody calls crm.flush() in this scenario.
    let (map, field) = (desk.map, Vendor::Salesforce.field("phone"));
    desk.db
        .execute(&format!(
            "SELECT crm.alter_field({map}, 'phone', '{field}', direction => 'bidirectional')"
        ))
        .await;
    desk.db.execute("UPDATE people SET phone = 'before'").await;
    let arrived = async || {
        let waiting = "SELECT dirty_cells FROM crm.status";
        (desk.db.one::<i64>(waiting, &[]).await == 0 && desk.db.dirty().await == 0).then_some(())
    };
    within(
        Duration::from_secs(20),
        "it arrives before the outage",
        arrived,
    )
    .await;
    match fault {
        None => gate.shut(),
        Some(mut fault) => {
            fault["times"] = "unlimited".into();
            desk.crm.fault(fault);
        }
    }
    if kind == "no tokens" {
        sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    }
    sim.forget_requests();
    let start = Instant::now();
    let mut edits = 0;
    while start.elapsed() < length {
        edits += 1;
        let n = edits % 20 + 1;
        desk.db
            .execute(&format!(
                "UPDATE people SET phone = 'edit {edits}' WHERE id = 'p{n}';
                 INSERT INTO people (id, last_name) VALUES ('n{edits}', 'New')"
            ))
            .await;
        if edits % 10 == 0 {
            desk.db
                .execute(&format!("DELETE FROM people WHERE id = 'n{}'", edits - 5))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let charged = "SELECT coalesce(max(attempts), 0)::int FROM crm.cell_status";
    let attempts: i32 = desk.db.one(charged, &[]).await;
    let why =
        "SELECT DISTINCT operation, attempt, error_class, vendor_code, error FROM crm.audit_log
               WHERE result <> 'applied' ORDER BY attempt LIMIT 9";
    assert_eq!(attempts, 0, "{kind}: attempts\n{}", desk.db.text(why).await);
    let reason = desk
        .db
        .text("SELECT state, reason, last_error FROM crm.status_wide")
        .await;
    assert!(
        reason.contains("waiting for the CRM") || reason.starts_with("syncing"),
        "{kind}: {reason}"
    );
    desk.db.assert_checked().await;
    let requests = sim.requests("").len();
    sim.end_faults();
    if kind == "connection refused" {
        gate.open();
    }
    let end = Instant::now();
    within(
        Duration::from_secs(60),
        "everything arrives by itself",
        arrived,
    )
    .await;
    let recovery = end.elapsed();
    desk.assert_same().await;
    desk.db.assert_checked().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0, "{kind}");
    let again = "crm.audit_log WHERE attempt > 1";
    assert_eq!(desk.db.count(again).await, 0, "{kind}: attempts charged");
    let retries = "crm.audit_log WHERE result = 'retry'";
    Toll {
        edits,
        requests,
        attempts_audited: desk.db.count(retries).await,
        recovery,
    }
}

async fn outages(length: Duration) {
    let cluster = Cluster::with(&[("pg_crm.request_timeout", "1s")]);
    let each = kinds().into_iter().map(|(kind, fault)| {
        let cluster = &cluster;
        async move {
            let toll = outage(cluster, kind, fault, length).await;
            println!("{kind}, {length:?}: {toll:?}");
        }
    });
    // All at once: each has a database, a worker and a CRM of its own.
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn of_seconds() {
    outages(Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "takes minutes; make soak"]
async fn of_a_minute() {
    outages(Duration::from_secs(60)).await;
}
