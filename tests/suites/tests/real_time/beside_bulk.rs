//! Callers do not wait for bulk work: whatever drains meanwhile, it goes in small steps while they
//! are about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crm_suites::{Live, Vendor, eventually, json, live, process};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::CLUSTER;

/// Records that wait.
const MANY: usize = 1500;
/// More of them would need more time than a step may take while callers are about, on any machine.
const STEP: i64 = 1000;

/// People of whom every transaction of the worker is noted: what it did, to how many records.
async fn watched() -> (Live, Vec<String>) {
    let live = Live::with(
        &CLUSTER,
        Vendor::Salesforce,
        "on_insert => 'ignore', write_interval => '24 hours', ingest_interval => '24 hours'",
        "",
    )
    .await;
    let ids = live.link(MANY).await;
    live.db
        .execute(&format!(
            "SELECT crm.alter_field({}, 'first_name', direction => 'outbound')",
            live.map
        ))
        .await;
    live.agree().await;
    live.db
        .execute(
            "CREATE TABLE step (id bigint GENERATED ALWAYS AS IDENTITY, kind text, records bigint);
             CREATE FUNCTION note_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$BEGIN
                 INSERT INTO step (kind, records) SELECT TG_ARGV[0], count(*) FROM new_rows HAVING count(*) > 0;
                 RETURN NULL;
             END$$;
             CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$BEGIN
                 INSERT INTO step (kind, records) SELECT 'claim', sum(cardinality(record_keys)) FROM new_rows;
                 RETURN NULL;
             END$$;
             CREATE FUNCTION note_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$BEGIN
                 INSERT INTO step (kind, records) SELECT path, count(*) FROM new_rows GROUP BY path;
                 RETURN NULL;
             END$$;
             CREATE TRIGGER watch AFTER INSERT ON crm.queue REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION note_step('fold');
             CREATE TRIGGER watch AFTER INSERT ON crm.claim REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION note_claim();
             CREATE TRIGGER watch AFTER INSERT ON crm.audit_log REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION note_audit()",
        )
        .await;
    (live, ids)
}

/// Calls without pause until `over`.
async fn call_until(live: &Live, over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (session, over) = (live.db.session().await, over.clone());
    tokio::spawn(async move {
        let mut calls = 0;
        while !over.load(Ordering::SeqCst) {
            calls += 1;
            let changes = json!({"phone": format!("+49 {calls}")});
            let written = live::write(&session, "p1", changes, "force => true").await;
            written.expect("committed");
        }
    })
}

/// Does something in bulk while somebody calls, until these records of it are audited. The first
/// call is there when it begins.
async fn beside_calls(live: &Live, bulk: &'static str, (path, records): (&str, usize)) {
    let worker = live.db.worker().await;
    process::signal(worker, Signal::SIGSTOP);
    let over = Arc::new(AtomicBool::new(false));
    let calls = call_until(live, &over).await;
    let session = live.db.session().await;
    let done = tokio::spawn(async move { session.one::<bool>(bulk, &[]).await });
    eventually("both wait for the worker", async || {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'Extension' AND backend_type = 'client backend'";
        (live.db.count(waiting).await == 2).then_some(())
    })
    .await;
    process::signal(worker, Signal::SIGCONT);
    eventually("all of it is done", async || {
        let audited = "SELECT count(*) FROM crm.audit_log WHERE path = $1";
        let audited: i64 = live.db.one(audited, &[&path]).await;
        (audited == records as i64).then_some(())
    })
    .await;
    over.store(true, Ordering::SeqCst);
    calls.await.expect("all calls are committed");
    let status = "SELECT to_jsonb(s)::text FROM crm.status_wide s";
    assert!(
        done.await.expect("it ends"),
        "{bulk}: {}",
        live.db.text(status).await
    );
}

/// Between the first and the last answer, steps of these kinds were small, and were all of it.
async fn went_in_small_steps(live: &Live, records: usize, kinds: &[&str]) {
    let steps = live
        .db
        .text("SELECT kind || ' ' || records FROM step ORDER BY id")
        .await;
    for kind in kinds {
        let sql = "SELECT coalesce(sum(records), 0)::bigint FROM step WHERE kind = $1";
        assert_eq!(
            live.db.one::<i64>(sql, &[kind]).await,
            records as i64,
            "{kind}: {steps}"
        );
        let sql = "SELECT coalesce(max(records), 0) FROM step
                   WHERE kind = $1 AND id < (SELECT max(id) FROM step WHERE kind = 'realtime')";
        let most: i64 = live.db.one(sql, &[kind]).await;
        assert!((1..=STEP).contains(&most), "{kind}: {most}: {steps}");
    }
}

#[tokio::test]
async fn edits_drain_in_small_steps_beside_calls() {
    let (live, _) = watched().await;
    live.db
        .execute("UPDATE people SET first_name = 'new ' || id WHERE id <> 'p1'")
        .await;
    beside_calls(
        &live,
        "SELECT crm.flush(timeout => '10 minutes')",
        ("batch", MANY - 1),
    )
    .await;
    went_in_small_steps(&live, MANY - 1, &["fold", "claim", "batch"]).await;
    // However many steps, the CRM was asked as if there was one.
    let rows = "SELECT count(DISTINCT split_part(request_id, '.', 1)) FROM crm.audit_log WHERE path = 'batch'";
    assert_eq!(live.db.one::<i64>(rows, &[]).await, 1);
    live.settle().await;
}

#[tokio::test]
async fn changes_come_in_in_small_steps_beside_calls() {
    let (live, ids) = watched().await;
    let people = live.crm.vendor.people();
    let fields = json!({"last_name": "Theirs"});
    live.crm
        .edit_all(&live.db, people, &ids[1..], &fields)
        .await;
    beside_calls(
        &live,
        "SELECT crm.ingest_now(timeout => '10 minutes')",
        ("ingest", MANY - 1),
    )
    .await;
    went_in_small_steps(&live, MANY - 1, &["ingest"]).await;
    live.settle().await;
}
