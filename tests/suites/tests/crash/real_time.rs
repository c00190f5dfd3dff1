//! Edits of bidirectional cells, cut off at every step of their way: the process that gets there,
//! or the whole server, is killed. Afterwards both sides agree, and an edit that was committed is
//! not undone.

use std::time::Duration;

use crm_suites::{Cluster, Desk, Vendor, eventually, json, within};

/// What is under way when it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Edit {
    /// `crm.write()` and COMMIT.
    Write,
    /// A plain UPDATE.
    Update,
    /// `crm.write()` and ROLLBACK; it happens afterwards.
    Undone,
    /// `crm.write()` that is cancelled while the CRM answers; it happens afterwards.
    Cancelled,
}

const WORKER: [&str; 7] = [
    "intent::before_commit",
    "intent::after_commit",
    "request::before",
    "request::between",
    "request::after",
    "outcome::before_commit",
    "outcome::after_commit",
];
const BACKEND: [&str; 3] = ["caller::asks", "caller::answered", "caller::settled"];
const FOLD: [&str; 2] = ["fold::before_commit", "fold::after_commit"];
const ADOPT: [&str; 2] = ["adopt::before_commit", "adopt::after_commit"];
const RECONCILER: [&str; 7] = [
    "reconcile_claim::before_commit",
    "reconcile_claim::after_commit",
    "request::before",
    "request::between",
    "request::after",
    "reconcile_settle::before_commit",
    "reconcile_settle::after_commit",
];
const VICTIMS: [&str; 3] = ["", ":postmaster", ":terminate"];

/// Every edit with every point that it passes.
fn cases() -> Vec<(Edit, &'static str)> {
    // A compensation writes nothing.
    let compensates = || RECONCILER.into_iter().filter(|p| *p != "request::between");
    let of = |edit| move |point| (edit, point);
    let written = WORKER.into_iter().chain(BACKEND).map(of(Edit::Write));
    let updated = FOLD.into_iter().chain(RECONCILER).map(of(Edit::Update));
    let undone = ADOPT.into_iter().chain(compensates()).map(of(Edit::Undone));
    let cancelled = [
        "request::after",
        "outcome::before_commit",
        "outcome::after_commit",
    ];
    let cancelled = cancelled.into_iter().chain(ADOPT).map(of(Edit::Cancelled));
    written
        .chain(updated)
        .chain(undone)
        .chain(cancelled)
        .collect()
}

/// Each case once, with one of the CRMs and one of the victims.
async fn sample(vendor: Vendor) {
    let whose = |n: usize, edit| match Vendor::ALL[n % Vendor::ALL.len()] {
        Vendor::Stub if edit == Edit::Cancelled => Vendor::HubSpot,
        vendor => vendor,
    };
    let all = cases().into_iter().enumerate();
    let share = all.filter(|(n, (edit, _))| whose(*n, *edit) == vendor);
    let share = share.map(|(n, (edit, point))| (edit, point, VICTIMS[n / 3 % 3]));
    cut_off(vendor, share.collect()).await;
}

async fn whole(vendor: Vendor) {
    // The stub answers before anybody could cancel.
    let possible = |(edit, _): &(Edit, _)| vendor != Vendor::Stub || *edit != Edit::Cancelled;
    let with_all = |(edit, point)| VICTIMS.map(|victim| (edit, point, victim));
    let all = cases().into_iter().filter(possible).flat_map(with_all);
    cut_off(vendor, all.collect()).await;
}

crm_suites::with_every_crm!(sample);

#[tokio::test]
#[ignore = "several minutes"]
async fn every_step_and_every_victim() {
    for vendor in Vendor::ALL {
        whole(vendor).await;
    }
}

async fn cut_off(vendor: Vendor, cases: Vec<(Edit, &'static str, &'static str)>) {
    let cluster = Cluster::start();
    let mut desk = Desk::open(&cluster, vendor).await;
    for column in ["phone", "first_name"] {
        let field = vendor.field(column);
        let sql = format!(
            "SELECT crm.alter_field({}, '{column}', '{field}', direction => 'bidirectional')",
            desk.map
        );
        desk.db.execute(&sql).await;
    }
    desk.link(cases.len()).await;
    for (n, (edit, point, victim)) in cases.into_iter().enumerate() {
        let case = format!("{edit:?} cut off at {point}{victim}, {vendor:?}");
        eprintln!("-- {case}");
        let key = format!("p{}", n + 1);
        let marker = marker(&cluster, point);
        // By now nobody takes the point for armed any more.
        let _ = std::fs::remove_file(&marker);
        let worker = desk.db.worker().await;
        let committed = run(&desk, edit, &key, &format!("{point}{victim}")).await;
        eventually(&format!("{case}: it is reached"), async || {
            marker.exists().then_some(())
        })
        .await;
        if victim == ":postmaster" {
            cluster.recover();
        }
        if victim != ":terminate" {
            desk.db.reconnect().await;
        } else if !point.starts_with("caller") {
            desk.db.worker_after(worker).await;
        }
        arm(&desk, "").await;
        desk.db.worker().await;
        agree(&desk, &case).await;
        let phone: String = desk
            .db
            .one("SELECT phone FROM people WHERE id = $1", &[&key])
            .await;
        assert_eq!(desk.field(&key, "phone").await, phone, "{case}");
        match edit {
            // The answer may get lost, but not what it spoke of.
            Edit::Write if committed => assert_eq!(phone, "new", "{case}"),
            Edit::Update => assert_eq!(phone, "new", "{case}"),
            _ => {}
        }
        let others = "people WHERE phone NOT IN ('new', '+47 ' || substr(id, 2))";
        assert_eq!(desk.db.count(others).await, 0, "{case}: nothing is made up");
    }
}

fn marker(cluster: &Cluster, point: &str) -> std::path::PathBuf {
    let name = format!("pg_crm.failpoint.{}", point.replace("::", "."));
    cluster.data().join(name)
}

/// Makes the edit with the point armed; whether its COMMIT was confirmed.
async fn run(desk: &Desk, edit: Edit, key: &str, armed: &str) -> bool {
    let session = desk.db.session().await;
    let write = format!("SELECT (crm.write('people', '{key}', '{{\"phone\": \"new\"}}')).outcome");
    let run = async |sql: &str| session.client().batch_execute(sql).await.is_ok();
    match edit {
        Edit::Write => {
            arm(desk, armed).await;
            let outcome = session.client().query_one(&write, &[]).await;
            outcome.is_ok_and(|row| ["committed", "pending"].contains(&row.get(0)))
        }
        Edit::Update => {
            arm(desk, armed).await;
            let _ = run(&format!(
                "UPDATE people SET phone = 'new' WHERE id = '{key}'"
            ))
            .await;
            true
        }
        Edit::Undone => {
            session.execute("BEGIN").await;
            let outcome: String = session.one(&write, &[]).await;
            assert_eq!(outcome, "committed");
            arm(desk, armed).await;
            run("ROLLBACK").await;
            false
        }
        Edit::Cancelled => {
            let pid: i32 = session.one("SELECT pg_backend_pid()", &[]).await;
            desk.crm
                .fault(json!({"method": "PATCH", "delay_after_ms": 500}));
            desk.crm
                .fault(json!({"path": "/batch/update", "delay_after_ms": 500}));
            arm(desk, armed).await;
            let (write, canceller) = (
                session.client().query_one(&write, &[]),
                desk.db.session().await,
            );
            let cancel = async {
                tokio::time::sleep(Duration::from_millis(250)).await;
                let _ = canceller
                    .client()
                    .query("SELECT pg_cancel_backend($1)", &[&pid])
                    .await;
            };
            let (outcome, ()) = tokio::join!(write, cancel);
            outcome.is_ok()
        }
    }
}

/// Has the points killed from now on.
async fn arm(desk: &Desk, points: &str) {
    within(
        Duration::from_secs(30),
        "the setting is in force",
        async || {
            let session = desk.db.session().await;
            let set = format!("ALTER SYSTEM SET pg_crm.failpoints = '{points}'");
            session.client().batch_execute(&set).await.ok()?;
            session
                .client()
                .batch_execute("SELECT pg_reload_conf()")
                .await
                .ok()?;
            for _ in 0..50 {
                let row = session
                    .client()
                    .query_one("SHOW pg_crm.failpoints", &[])
                    .await
                    .ok()?;
                if row.get::<_, String>(0) == points {
                    return Some(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            None
        },
    )
    .await;
    // The worker hears of it at the same time, and wakes up for it.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Waits until nothing is under way any more, and looks at what it came to.
async fn agree(desk: &Desk, case: &str) {
    let db = &desk.db;
    eventually(&format!("{case}: it comes to an end"), async || {
        let rows = db.client().query(
            "SELECT (SELECT count(*) FROM crm.pending_writes) + (SELECT count(*) FROM crm.change) + (SELECT count(*) FROM crm.claim)", &[]).await.ok()?;
        (rows[0].get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    assert_eq!(db.count("crm.conflicts").await, 0, "{case}");
    assert_eq!(db.count("crm.dead_letters").await, 0, "{case}");
    db.assert_checked().await;
}
