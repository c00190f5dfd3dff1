//! What an application says it is doing is found in the audit, dead letters and events, whichever
//! way an edit takes; and so is the round or pass that an attempt was a part of.

use std::sync::{Arc, Mutex};

use crm_suites::{Desk, Json, Live, Vendor, eventually, json};

use crate::CLUSTER;

/// `correlation_id actor operation` of each audited attempt on a record, oldest first.
async fn audited(desk: &Desk, key: &str) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', correlation_id, substr(actor, strpos(actor, '/')), path, operation, result)
               FROM crm.audit_log WHERE map_id = $1 AND record_key = $2 ORDER BY at, audit_id";
    desk.db.all(sql, &[&desk.map, &key]).await
}

fn within(correlation: &str, statement: &str) -> String {
    format!(
        "BEGIN; SET LOCAL pg_crm.correlation_id = '{correlation}'; SET LOCAL pg_crm.actor = 'dana'; {statement}; COMMIT"
    )
}

#[tokio::test]
async fn batches_keep_what_their_edits_were_for() {
    let arguments = "on_insert => 'create', on_delete => 'delete'";
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, arguments).await;
    let one = "INSERT INTO people (id, last_name) VALUES ('one', 'One')";
    let many =
        "INSERT INTO people (id, last_name) SELECT 'n' || n, 'N' FROM generate_series(1, 3) n";
    desk.db.execute(&within("insert-1", one)).await;
    desk.db.execute(&within("insert-2", many)).await;
    desk.settle().await;
    let update = "UPDATE people SET phone = '1' WHERE id = 'one'";
    desk.db.execute(&within("first", update)).await;
    let update = "UPDATE people SET phone = 'one' WHERE id = 'one'";
    desk.db.execute(&within("a-later", update)).await;
    // An edit of which nobody said what it is for leaves it to the others.
    let phone = "UPDATE people SET email = 'e@x.example' WHERE id = 'one'";
    desk.db.execute(phone).await;
    let every = "UPDATE people SET phone = '2' WHERE id <> 'one'";
    desk.db.execute(&within("every", every)).await;
    desk.settle().await;
    let delete = "DELETE FROM people WHERE id = 'n1'";
    desk.db.execute(&within("delete", delete)).await;
    desk.settle().await;
    assert_eq!(
        audited(&desk, "one").await,
        [
            "insert-1 /dana batch create applied",
            "a-later /dana batch update applied"
        ]
    );
    assert_eq!(
        audited(&desk, "n1").await,
        [
            "insert-2 /dana batch create applied",
            "every /dana batch update applied",
            "delete /dana batch delete applied"
        ]
    );
    // A round is one operation.
    let rounds = "SELECT count(DISTINCT operation_id) || ' ' || count(*) FROM crm.audit_log WHERE correlation_id = 'every'";
    assert_eq!(desk.db.one::<String>(rounds, &[]).await, "1 3");
    let without = "crm.audit_log WHERE path = 'batch' AND operation_id IS NULL";
    assert_eq!(desk.db.count(without).await, 0);

    let id = desk.crm_id("one").await.expect("linked");
    desk.crm.refuse(&desk.db, &id, "validation", "no").await;
    let update = "UPDATE people SET phone = '3' WHERE id = 'one'";
    desk.db.execute(&within("in-vain", update)).await;
    eventually("a dead letter", async || {
        desk.db.flush().await;
        (desk.db.count("crm.dead_letters").await == 1).then_some(())
    })
    .await;
    let letter = "crm.dead_letters d JOIN crm.audit_log a USING (operation_id)
                  WHERE d.correlation_id = 'in-vain' AND a.correlation_id = 'in-vain' AND a.result = 'dead'";
    assert_eq!(desk.db.count(letter).await, 1);
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
    let last = audited(&desk, "one").await.pop();
    assert_eq!(last.as_deref(), Some("in-vain /dana batch update applied"));
    desk.db.assert_checked().await;
}

/// Edits that are compared first, and those of `crm.write()`, as plain statements and in events.
#[tokio::test]
async fn edits_that_are_sent_at_once_keep_it_too() {
    let live = Live::open(&CLUSTER, Vendor::HubSpot).await;
    live.people(2).await;
    live.map_as("title", "outbound").await;
    let heard: Arc<Mutex<Vec<Json>>> = Arc::default();
    let _listener = live.db.listen("crm", heard.clone()).await;
    // A cell of either kind in one statement.
    let update = "UPDATE people SET phone = '+2', title = 'Head' WHERE id = 'p1'";
    live.db.execute(&within("both", update)).await;
    live.agree().await;
    assert!(live.db.flush().await);
    let mut found = audited(&live, "p1").await;
    found.retain(|row| row.starts_with("both"));
    found.sort();
    assert_eq!(
        found,
        [
            "both /dana batch update applied",
            "both /dana reconcile update applied"
        ]
    );
    live.write_with("p2", json!({"phone": "+3"}), "correlation_id => 'call'")
        .await
        .expect("committed");
    let last = audited(&live, "p2").await.pop().unwrap_or_default();
    assert!(last.starts_with("call "), "{last}");
    eventually("both are heard of", async || {
        let heard = heard.lock().unwrap();
        let is = |id| heard.iter().any(|e| e["correlation_id"] == id);
        (is("both") && is("call")).then_some(())
    })
    .await;
    live.db.assert_checked().await;
}

/// Edits that wait for a CRM record, and are compared with it once there is one.
#[tokio::test]
async fn edits_that_wait_for_a_link_keep_it() {
    let live = Live::with(&CLUSTER, Vendor::Stub, "on_insert => 'create'", "").await;
    live.crm.fail(&live.db, "create", "validation", 1).await;
    let insert = "INSERT INTO people (id, last_name, phone) VALUES ('p1', 'One', '+2')";
    live.db.execute(&within("made", insert)).await;
    live.db.flush().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 1);
    let record = json!({"last_name": "One", "phone": "+1"});
    let record = record.as_object().cloned().unwrap_or_default();
    let people = live.crm.vendor.people();
    let ids = live.crm.create(&live.db, people, &[record]).await;
    let link = format!("SELECT crm.link({}, 'p1', '{}')", live.map, ids[0]);
    live.db.execute(&link).await;
    live.agree().await;
    let last = audited(&live, "p1").await.pop().unwrap_or_default();
    assert!(last.starts_with("made /dana reconcile"), "{last}");
    live.db.assert_checked().await;
}

/// The events of rounds and passes have the id that the audit has.
#[tokio::test]
async fn rounds_and_passes_are_operations() {
    let live = Live::open(&CLUSTER, Vendor::HubSpot).await;
    live.people(3).await;
    live.map_as("title", "outbound").await;
    live.ingest().await;
    let heard: Arc<Mutex<Vec<Json>>> = Arc::default();
    let _listener = live.db.listen("crm", heard.clone()).await;
    live.db.execute("UPDATE people SET title = 'Head'").await;
    live.db.drain().await;
    for key in ["p1", "p2"] {
        live.edit_in_crm(key, json!({"phone": "+9"})).await;
    }
    live.ingest().await;
    for (path, records) in [("batch", 3), ("ingest", 2)] {
        let sql = "SELECT operation_id::text FROM crm.audit_log WHERE path = $1
                   GROUP BY operation_id HAVING count(*) = $2::bigint ORDER BY max(at) DESC LIMIT 1";
        let id: String = live.db.one(sql, &[&path, &i64::from(records)]).await;
        eventually("its events are heard", async || {
            let heard = heard.lock().unwrap();
            let of = |name: &str| {
                let event = format!("integration.crm.{name}");
                let is_it = |e: &&Json| e["event"] == event.as_str() && e["operation_id"] == id;
                heard.iter().filter(is_it).count()
            };
            (of("sync_started") == 1 && of("sync_completed") == 1).then_some(())
        })
        .await;
    }
    live.edit_in_crm("p1", json!({"phone": "+10"})).await;
    live.ingest().await;
    let passes = "SELECT count(DISTINCT operation_id) FROM crm.audit_log WHERE path = 'ingest' AND record_key = 'p1'
                  AND at > now() - interval '10 minutes' AND fields::text LIKE '%+%'";
    assert!(live.db.one::<i64>(passes, &[]).await >= 2);
    live.db.assert_checked().await;
}

/// The audit is found by time, correlation id and actor without being scanned.
#[tokio::test]
async fn the_audit_has_indexes_for_what_is_looked_up() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "INSERT INTO crm.audit_log (at, map_id, connection, provider, path, operation, result, correlation_id, actor)
             SELECT now() - (20000 - n) * interval '1 min', 1, 's', 'stub', 'batch', 'update', 'applied',
                    CASE WHEN n % 100 = 0 THEN 'c' || n END, 'app/u' || n % 500 FROM generate_series(1, 20000) n;
             ANALYZE crm.audit_log",
        )
        .await;
    for (condition, index) in [
        (
            "at BETWEEN now() - interval '30 min' AND now() - interval '20 min'",
            "_at_idx",
        ),
        ("correlation_id = 'c5000'", "_correlation_id_idx"),
        ("actor = 'app/u77'", "_actor_idx"),
    ] {
        let plan = format!("EXPLAIN SELECT * FROM crm.audit_log WHERE {condition}");
        let plan = desk.db.text(&plan).await;
        let name = index.trim_end_matches("_idx").trim_end_matches("_id");
        assert!(
            plan.contains(index) || plan.contains(&format!("audit_log_default{name}")),
            "{plan}"
        );
    }
    desk.db.assert_checked().await;
}
