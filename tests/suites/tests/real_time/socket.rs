//! The wait: private, cancellable, bounded, and in nobody's way.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crm_suites::eventually::promptly;
use crm_suites::live::write;
use crm_suites::process::signal;
use crm_suites::{Cluster, Crm, Desk, Live, Session, Vendor, eventually, json};
use nix::sys::signal::Signal;

use crate::CLUSTER;

const CALL: &str = "SELECT outcome FROM crm.write('people', 'p1', '{\"phone\": \"slow\"}')";

crm_suites::with_remote_crms!(a_wait_ends_at_a_timeout_and_at_a_cancel);

/// A CRM that takes its time with the next write of a record, before or after applying it.
fn hang(live: &Live, when: &str, ms: u64) {
    let mut fault = live.crm.matching("write");
    fault[when] = json!(ms);
    live.crm.fault(fault);
}

/// A session that is calling, once the CRM has its request.
async fn caller(live: &Live) -> (i32, tokio::task::JoinHandle<Result<String, String>>) {
    let session = live.db.session().await;
    let pid: i32 = session.one("SELECT pg_backend_pid()", &[]).await;
    let task = tokio::spawn(async move {
        let row = session.client().query_one(CALL, &[]).await;
        row.map(|row| row.get(0)).map_err(|error| {
            let error = error
                .as_db_error()
                .map(|e| format!("{} {}", e.code().code(), e.message()));
            error.unwrap_or_else(|| "cut off".to_owned())
        })
    });
    eventually("it is on its way", async || {
        let state = "crm.pending_writes WHERE state = 'sending'";
        (live.db.count(state).await == 1).then_some(())
    })
    .await;
    (pid, task)
}

#[tokio::test]
async fn the_socket_is_the_servers_own() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    let oid: u32 = live
        .db
        .one(
            "SELECT oid FROM pg_database WHERE datname = current_database()",
            &[],
        )
        .await;
    let path = CLUSTER
        .data()
        .join(format!("pg_stat_tmp/pg_crm.{oid}.sock"));
    let mode = std::fs::metadata(&path)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600, "{path:?}");
}

async fn a_wait_ends_at_a_timeout_and_at_a_cancel(vendor: Vendor) {
    for (when, how) in [
        ("delay_ms", "timeout"),
        ("delay_after_ms", "timeout"),
        ("delay_ms", "cancel"),
        ("delay_after_ms", "terminate"),
    ] {
        let live = Live::open(&CLUSTER, vendor).await;
        live.people(1).await;
        hang(&live, when, 1500);
        if how == "timeout" {
            let session = live.db.session().await;
            let call = format!("SET statement_timeout = '300ms'; {CALL}");
            let error = promptly(Duration::from_secs(3), "the timeout", session.error(&call)).await;
            assert_eq!(error.code().code(), "57014", "{error:?}");
        } else {
            let (pid, task) = caller(&live).await;
            let start = Instant::now();
            let sql = format!("SELECT pg_{how}_backend({pid})");
            let sent: bool = live.db.one(&sql, &[]).await;
            assert!(sent);
            let error = task.await.unwrap().expect_err("it was ended");
            assert!(error.starts_with("57") || error == "cut off", "{error}");
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{:?}",
                start.elapsed()
            );
        }
        let phone = live.cell("p1", "phone").await;
        assert_eq!(phone, "+1", "the caller's transaction came to nothing");
        // Whether the CRM took it after all: both sides agree in the end.
        live.agree().await;
        live.assert_both("p1", "phone", "slow").await;
        assert_eq!(
            live.audit("p1").await.last().map(String::as_str),
            Some("compensate superseded")
        );
    }
}

#[tokio::test]
async fn a_worker_that_dies_tells_its_callers() {
    for when in ["delay_ms", "delay_after_ms"] {
        let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
        live.people(1).await;
        hang(&live, when, 2500);
        let (_, task) = caller(&live).await;
        let worker = live.db.worker().await;
        signal(worker, Signal::SIGTERM);
        let error = task.await.unwrap().expect_err("nobody answers");
        assert!(error.starts_with("55000"), "{error}");
        live.db.worker_after(worker).await;
        live.agree().await;
        // Calls work again on the same session.
        live.write("p1", json!({"phone": "after"}))
            .await
            .expect("committed");
        live.agree().await;
    }
}

#[tokio::test]
async fn without_a_worker_there_is_an_error_at_once_and_plain_updates_wait() {
    let cluster = Cluster::with(&[("max_worker_processes", "3")]);
    cluster.provokes("found no free worker slot");
    let _first = cluster.database().await;
    let db = cluster.bare_database().await;
    db.execute("CREATE EXTENSION pg_crm").await;
    let crm = Crm::connect(&db, Vendor::Stub).await;
    let mut desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", "").await;
    desk.link(1).await;
    eventually("there is no slot", async || {
        let state: String = desk.db.one("SELECT crm.worker_state()", &[]).await;
        state.contains("slot").then_some(())
    })
    .await;
    let error = promptly(
        Duration::from_secs(2),
        "an error at once",
        desk.db.error(CALL),
    )
    .await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(
        error.hint().is_some_and(|h| h.contains("UPDATE")),
        "{error:?}"
    );
    assert!(
        error
            .detail()
            .is_some_and(|d| d.contains("max_worker_processes")),
        "{error:?}"
    );
    let kept: String = desk.db.one("SELECT phone FROM people", &[]).await;
    assert_eq!(kept, "+47 1");
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert_eq!(
        desk.db
            .count("crm.pending_writes WHERE state = 'captured'")
            .await,
        1
    );
    desk.db.assert_checked().await;
    cluster.configure(&[("max_worker_processes", "10")]);
    cluster.restart();
    desk.db.reconnect().await;
    desk.db.worker().await;
    eventually("the edit arrived", async || {
        (desk.field("p1", "phone").await == "waits").then_some(())
    })
    .await;
    eventually("it is settled", async || {
        (desk.db.count("crm.pending_writes").await == 0).then_some(())
    })
    .await;
    assert_eq!(desk.db.one::<String>(CALL, &[]).await, "committed");
    desk.db.assert_checked().await;
}

/// As with any session: the drop is refused while somebody works, and forced at once.
#[tokio::test]
async fn a_caller_who_waits_holds_up_no_drop_database() {
    let cluster = Cluster::start();
    let live = Live::open(&cluster, Vendor::HubSpot).await;
    live.people(1).await;
    hang(&live, "delay_ms", 20_000);
    let (_, task) = caller(&live).await;
    let admin = Session::open(cluster.path(), "postgres").await;
    let sql = format!("DROP DATABASE {} WITH (FORCE)", live.db.name);
    promptly(Duration::from_secs(10), "the drop", admin.execute(&sql)).await;
    task.await.unwrap().expect_err("its database is gone");
    drop(live);
}

/// More callers than fit: those beyond are told that their edit waits, and it arrives.
#[tokio::test]
async fn a_crowd_is_served_or_told_to_wait_but_never_refused() {
    let cluster = Cluster::with(&[("pg_crm.realtime_queue", "5")]);
    for vendor in [Vendor::HubSpot, Vendor::Stub] {
        let live = Live::open(&cluster, vendor).await;
        live.people(30).await;
        if vendor != Vendor::Stub {
            live.crm.sim().post("config", &json!({"latency_ms": 300}));
        }
        let mut callers = Vec::new();
        for n in 1..=30 {
            let session = live.db.session().await;
            callers.push(tokio::spawn(async move {
                write(&session, &format!("p{n}"), json!({"phone": "crowd"}), "").await
            }));
        }
        let mut pending = 0;
        for caller in callers {
            let written = caller.await.unwrap();
            if written.outcome == "pending" {
                pending += 1;
                assert!(
                    written
                        .error
                        .as_deref()
                        .is_some_and(|e| e.contains("too many")),
                    "{written:?}"
                );
            } else {
                written.expect("committed");
            }
        }
        if vendor != Vendor::Stub {
            assert!(
                (10..=28).contains(&pending),
                "{pending} of 30 were told to wait"
            );
            live.crm.sim().post("config", &json!({"latency_ms": 0}));
        }
        live.agree().await;
        assert_eq!(live.db.count("people WHERE phone = 'crowd'").await, 30);
    }
}
