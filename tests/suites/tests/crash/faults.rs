//! Whatever fails inside the worker, at whatever step: it is tried again with growing waits, costs
//! the record that causes it an attempt and nobody else one, and ends.

use std::time::{Duration, Instant};

use crm_suites::{Cluster, Desk, Vendor, eventually, json};

/// Every attempt at once, so that the last one is soon over.
const ATTEMPTS: i32 = 3;

async fn desk(vendor: Vendor) -> (Cluster, Desk) {
    let cluster = Cluster::with(&[("pg_crm.max_attempts", "3")]);
    let desk = Desk::open_with(
        &cluster,
        vendor,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    (cluster, desk)
}

/// Has these faults from now on.
pub async fn arm(desk: &Desk, faults: &str) {
    desk.db
        .execute(&format!("ALTER SYSTEM SET pg_crm.failpoints = '{faults}'"))
        .await;
    desk.db.execute("SELECT pg_reload_conf()").await;
    eventually("the setting is in force", async || {
        let seen: String = desk.db.one("SHOW pg_crm.failpoints", &[]).await;
        (seen == faults).then_some(())
    })
    .await;
}

/// Maps phone both ways.
async fn both_ways(desk: &Desk) {
    let (map, field) = (desk.map, desk.crm.vendor.field("phone"));
    let sql =
        format!("SELECT crm.alter_field({map}, 'phone', '{field}', direction => 'bidirectional')");
    rest(desk).await;
    desk.db.execute(&sql).await;
    rest(desk).await;
}

/// How often the fault happened.
fn times(cluster: &Cluster, point: &str) -> u64 {
    let name = format!("pg_crm.failpoint.{}", point.replace("::", "."));
    std::fs::metadata(cluster.data().join(name)).map_or(0, |m| m.len())
}

/// Has the round begin, without waiting for its end.
async fn begin(desk: &Desk) {
    desk.db.execute("SELECT crm.flush(NULL, '1 s')").await;
}

/// Flushes until everything went or is dead; retries wait for their time.
async fn rest(desk: &Desk) {
    eventually("everything came to an end", async || {
        desk.db.flush().await.then_some(())
    })
    .await;
}

/// Steps of the write-back, each of which fails three times and then works.
#[tokio::test]
async fn what_fails_for_a_while_is_done_in_the_end() {
    let (cluster, desk) = desk(Vendor::Stub).await;
    desk.link(20).await;
    rest(&desk).await;
    for point in [
        "fold::store",
        "read::store",
        "claim::store",
        "settle::store",
    ] {
        arm(&desk, &format!("{point}:error:3")).await;
        desk.crm.forget(&desk.db).await;
        desk.db
            .execute(&format!("UPDATE people SET phone = '{point}'"))
            .await;
        rest(&desk).await;
        // A round that was still open may have met it first.
        assert_eq!(times(&cluster, point), 3, "{point}");
        let asked = desk.crm.asked(&desk.db).await.len();
        assert!(asked < 30, "{asked} requests after {point}");
        assert_eq!(desk.db.count("crm.dead_letters").await, 0, "{point}");
        arm(&desk, "").await;
        desk.settle().await;
    }
}

/// The same for what goes on beside it.
#[tokio::test]
async fn what_goes_on_beside_write_back_is_done_in_the_end_too() {
    let (cluster, desk) = desk(Vendor::Stub).await;
    let ids = desk.link(20).await;
    both_ways(&desk).await;
    desk.ingest().await;
    let people = desk.crm.vendor.people();
    for point in [
        "round::begin",
        "round::end",
        "ingest::store",
        "ingest::before_commit",
        "reconcile_read::store",
        "reconcile_settle::store",
        "recapture::store",
    ] {
        arm(&desk, &format!("{point}:error:3")).await;
        desk.crm.forget(&desk.db).await;
        match point {
            "ingest::store" | "ingest::before_commit" => {
                for id in &ids {
                    let edit = json!({"phone": point});
                    desk.crm.edit(&desk.db, people, id, &edit).await;
                }
            }
            "recapture::store" => {
                desk.db
                    .execute(&format!(
                        "ALTER TABLE people ALTER COLUMN phone TYPE text USING '{point}'"
                    ))
                    .await;
            }
            _ => {
                desk.db
                    .execute(&format!(
                        "UPDATE people SET phone = '{point}', first_name = '{point}'"
                    ))
                    .await;
            }
        }
        eventually("the edit is on both sides", async || {
            let sql = "SELECT crm.ingest_now(timeout => '2 s')";
            let _: bool = desk.db.one(sql, &[]).await;
            desk.db.flush().await;
            let rows = format!("people WHERE phone = '{point}'");
            let arrived = desk.db.count(&rows).await == 20
                && desk.field("p7", "phone").await == point
                && times(&cluster, point) == 3;
            arrived.then_some(())
        })
        .await;
        assert_eq!(times(&cluster, point), 3, "{point}");
        let asked = desk.crm.asked(&desk.db).await.len();
        assert!(asked < 100, "{asked} requests after {point}");
        assert_eq!(desk.db.count("crm.dead_letters").await, 0, "{point}");
        arm(&desk, "").await;
        desk.settle().await;
    }
}

/// A fault of pg_crm's own tables, which no record causes, for longer than its attempts take.
#[tokio::test]
async fn a_general_fault_is_nobodys() {
    for (table, event, edit) in [
        ("ingest_state", "UPDATE", "crm"),
        ("ledger", "UPDATE", "crm"),
        ("audit_log", "INSERT", "crm"),
        ("queue", "INSERT", "rows"),
        ("change", "DELETE", "rows"),
        ("audit_log", "INSERT", "rows"),
        ("queue", "DELETE", "rows"),
        ("pending_write", "DELETE", "titles"),
    ] {
        let (cluster, desk) = desk(Vendor::Stub).await;
        cluster.provokes(": a general fault ");
        let ids = desk.link(20).await;
        rest(&desk).await;
        let sql = format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'bidirectional')",
            desk.map,
            desk.crm.vendor.field("title")
        );
        desk.db.execute(&sql).await;
        rest(&desk).await;
        desk.ingest().await;
        desk.db
            .execute(&format!(
                "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN RAISE internal_error USING MESSAGE = 'a general fault'; END $$;
                 CREATE TRIGGER fault AFTER {event} ON crm.{table} FOR EACH ROW WHEN (current_query() IS NULL) EXECUTE FUNCTION fault()"
            ))
            .await;
        desk.crm.forget(&desk.db).await;
        match edit {
            "crm" => {
                for id in &ids {
                    let edit = json!({"title": "new"});
                    desk.crm
                        .edit(&desk.db, desk.crm.vendor.people(), id, &edit)
                        .await;
                }
            }
            "titles" => desk.db.execute("UPDATE people SET title = 'new'").await,
            _ => desk.db.execute("UPDATE people SET last_name = 'new'").await,
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let _: bool = desk
                .db
                .one("SELECT crm.ingest_now(timeout => '1 s')", &[])
                .await;
            begin(&desk).await;
        }
        let asked = desk.crm.asked(&desk.db).await.len();
        assert!(
            asked < 60,
            "{asked} requests while {table} cannot be written"
        );
        assert_eq!(desk.db.count("crm.dead_letters").await, 0, "{table} {edit}");
        for charged in ["refetch", "queue", "pending_write"] {
            let sql = format!("crm.{charged} WHERE attempts > 0");
            assert_eq!(desk.db.count(&sql).await, 0, "{table} {edit}: {charged}");
        }
        desk.db
            .execute(&format!("DROP TRIGGER fault ON crm.{table}"))
            .await;
        eventually("everything came to an end", async || {
            let _: bool = desk
                .db
                .one("SELECT crm.ingest_now(timeout => '2 s')", &[])
                .await;
            desk.db.flush().await;
            let rows = match edit {
                "crm" | "titles" => "people WHERE title = 'new'",
                _ => "people WHERE last_name = 'new'",
            };
            let waits = desk.db.count("crm.queue").await + desk.db.count("crm.pending_write").await;
            (desk.db.count(rows).await == 20 && waits == 0).then_some(())
        })
        .await;
        assert_eq!(desk.db.count("crm.dead_letters").await, 0, "{table} {edit}");
        desk.settle().await;
    }
}

/// One record fails whenever it is touched: it alone ends as a dead letter, after as many attempts
/// as there may be.
#[tokio::test]
async fn one_record_at_fault_is_the_only_one_that_dies() {
    for point in ["read::store", "claim::store", "settle::store"] {
        let (cluster, desk) = desk(Vendor::Stub).await;
        desk.link(40).await;
        rest(&desk).await;
        arm(&desk, &format!("{point}:error@p7")).await;
        desk.crm.forget(&desk.db).await;
        desk.db.execute("UPDATE people SET phone = 'new'").await;
        begin(&desk).await;
        let start = Instant::now();
        eventually("the others arrived", async || {
            (desk.field("p8", "phone").await == "new" && desk.field("p40", "phone").await == "new")
                .then_some(())
        })
        .await;
        eventually("the one is dead or waits long", async || {
            let states = "crm.queue WHERE record_key = 'p7' AND (state = 'dead' OR attempts >= 3)";
            (desk.db.count(states).await == 1).then_some(())
        })
        .await;
        let others = "crm.queue WHERE record_key <> 'p7'";
        assert_eq!(desk.db.count(others).await, 0, "{point}");
        let asked = desk.crm.asked(&desk.db).await.len();
        assert!(asked < 40, "{asked} requests with {point}");
        // Halving forty records takes six steps; each attempt takes as many, and the steps to write
        // it down.
        let happened = times(&cluster, point);
        assert!(
            happened < 30 * ATTEMPTS as u64,
            "{point} {happened} times in {:?}",
            start.elapsed()
        );
        arm(&desk, "").await;
        desk.db
            .execute("UPDATE people SET phone = 'mended' WHERE id = 'p7'")
            .await;
        rest(&desk).await;
        desk.settle().await;
    }
}

/// A panic of a thread while it has a slice: the record that causes it is found, and the worker
/// goes on.
#[tokio::test]
async fn a_panic_is_a_failure_of_its_record() {
    let (_cluster, desk) = desk(Vendor::Stub).await;
    let ids = desk.link(40).await;
    rest(&desk).await;
    let worker = desk.db.worker().await;
    arm(&desk, &format!("send::batch:panic@{}", ids[6])).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    begin(&desk).await;
    eventually("the record that panics is dead", async || {
        let dead = "crm.dead_letters WHERE record_key = 'p7' AND error_class = 'internal' AND error LIKE 'panicked: %'";
        (desk.db.count(dead).await == 1).then_some(())
    })
    .await;
    // Records that were in the same batch may be in flight once more.
    rest(&desk).await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 1);
    for id in (1..=40).filter(|&n| n != 7).map(|n| format!("p{n}")) {
        assert_eq!(desk.field(&id, "phone").await, "new", "{id}");
    }
    let told = "crm.audit_log WHERE record_key = 'p7' AND error LIKE 'panicked: %'";
    assert_eq!(
        desk.db.count(told).await,
        i64::from(ATTEMPTS),
        "each attempt is audited"
    );
    assert_eq!(desk.db.worker().await, worker, "the worker goes on");
    assert_eq!(desk.db.count("crm.claim").await, 0);
    desk.db.assert_checked().await;
    arm(&desk, "").await;
    desk.db.execute("SELECT crm.replay_all()").await;
    rest(&desk).await;
    desk.settle().await;
}

/// A panic of the whole task, of a call and of a look for changes.
#[tokio::test]
async fn a_task_that_panics_is_not_waited_for() {
    let (_cluster, desk) = desk(Vendor::Stub).await;
    desk.link(3).await;
    both_ways(&desk).await;
    arm(
        &desk,
        "send::task:panic:1,call::task:panic:1,ingest::task:panic:1",
    )
    .await;
    desk.db
        .execute("UPDATE people SET first_name = 'new'")
        .await;
    rest(&desk).await;
    assert_eq!(desk.field("p1", "first_name").await, "new");
    let start = Instant::now();
    desk.db.execute("SELECT crm.ingest_now()").await;
    assert!(start.elapsed() < Duration::from_secs(60));
    let sql = "SELECT (crm.write('people', 'p1', '{\"phone\": \"called\"}')).outcome";
    let outcome: String = desk.db.one(sql, &[]).await;
    assert_eq!(outcome, "pending", "the caller hears at once");
    arm(&desk, "").await;
    rest(&desk).await;
    desk.settle().await;
}

/// What one call leaves cannot be recorded: its caller hears so and the edit waits, and the calls
/// that share its transaction are answered as if it were not there.
#[tokio::test]
async fn a_call_at_fault_is_the_only_one_that_waits() {
    let (_cluster, desk) = desk(Vendor::Stub).await;
    desk.link(8).await;
    both_ways(&desk).await;
    for point in ["intent::store", "outcome::store"] {
        arm(&desk, &format!("{point}:error@p7")).await;
        let mut calls = Vec::new();
        for n in 1..=8 {
            let session = desk.db.session().await;
            let sql = format!(
                "SELECT w.outcome || coalesce(' ' || w.error, '')
                 FROM crm.write('people', 'p{n}', '{{\"phone\": \"{point}\"}}') w"
            );
            calls.push(tokio::spawn(async move {
                session.one::<String>(&sql, &[]).await
            }));
        }
        for (n, call) in (1..=8).zip(calls) {
            let outcome = call.await.expect("an outcome");
            let expected = match n {
                7 => format!("pending the worker cannot record the edit: injected at {point}"),
                _ => "committed".to_owned(),
            };
            assert!(outcome.starts_with(&expected), "p{n}: {outcome}");
        }
        arm(&desk, "").await;
        rest(&desk).await;
        assert_eq!(desk.field("p7", "phone").await, point);
        desk.settle().await;
    }
}

/// Pending writes: errors while they are read and settled, and a panic, of one record.
#[tokio::test]
async fn an_edit_at_fault_is_the_only_one_that_dies() {
    for point in [
        "reconcile_read::store:error",
        "reconcile_settle::store:error",
        "reconcile::batch:panic",
    ] {
        let (cluster, desk) = desk(Vendor::Stub).await;
        let ids = desk.link(20).await;
        both_ways(&desk).await;
        let key = if point.ends_with("panic") {
            &ids[6]
        } else {
            "p7"
        };
        arm(&desk, &format!("{point}@{key}")).await;
        desk.crm.forget(&desk.db).await;
        desk.db.execute("UPDATE people SET phone = 'new'").await;
        eventually("the one is dead or waits long", async || {
            let at_fault =
                "crm.pending_write WHERE record_key = 'p7' AND (state = 'dead' OR attempts >= 3)";
            (desk.db.count(at_fault).await == 1).then_some(())
        })
        .await;
        eventually("the others arrived", async || {
            (desk.db.count("crm.pending_write").await == 1).then_some(())
        })
        .await;
        assert_eq!(desk.field("p20", "phone").await, "new");
        let asked = desk.crm.asked(&desk.db).await.len();
        assert!(asked < 60, "{asked} requests with {point}");
        assert_eq!(desk.db.count("crm.claim").await, 0);
        arm(&desk, "").await;
        desk.db
            .execute("UPDATE people SET phone = 'mended' WHERE id = 'p7'")
            .await;
        rest(&desk).await;
        desk.settle().await;
        drop(cluster);
    }
}

/// What comes in: one record cannot be settled, the rest of its page is.
#[tokio::test]
async fn a_record_that_cannot_be_taken_in_is_put_aside() {
    let (cluster, desk) = desk(Vendor::Stub).await;
    let ids = desk.link(20).await;
    both_ways(&desk).await;
    desk.ingest().await;
    arm(&desk, &format!("ingest::store:error@{}", ids[6])).await;
    for id in &ids {
        desk.crm
            .edit(
                &desk.db,
                desk.crm.vendor.people(),
                id,
                &json!({"phone": "theirs"}),
            )
            .await;
    }
    let _: bool = desk.db.one("SELECT crm.ingest_now()", &[]).await;
    eventually("the others are taken in", async || {
        (desk.db.count("people WHERE phone = 'theirs'").await == 19).then_some(())
    })
    .await;
    let aside = "crm.dead_letters WHERE path = 'ingest' AND error LIKE '%injected%'";
    eventually("the one is put aside", async || {
        (desk.db.count(aside).await == 1).then_some(())
    })
    .await;
    assert!(times(&cluster, "ingest::store") < 40);
    desk.db.assert_checked().await;
    arm(&desk, "").await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.ingest().await;
    desk.settle().await;
}

/// A row of changes that cannot be folded: its record alone is put aside, and the others are
/// folded.
#[tokio::test]
async fn a_change_that_cannot_be_folded_is_put_aside() {
    let (_cluster, desk) = desk(Vendor::Stub).await;
    desk.link(12).await;
    both_ways(&desk).await;
    desk.db.execute("SELECT crm.pause('stub')").await;
    desk.db
        .execute("UPDATE people SET phone = 'new', first_name = 'new'")
        .await;
    // As a bug of ours might leave it.
    desk.db
        .execute("UPDATE crm.change SET base = '{\"x\": {\"v\": 1}}' WHERE record_keys = '{p7}'")
        .await;
    desk.db.execute("SELECT crm.resume('stub')").await;
    rest(&desk).await;
    let at_fault = "crm.dead_letters WHERE record_key = 'p7' AND error LIKE '%integer%'";
    assert!(desk.db.count(at_fault).await > 0);
    assert_eq!(
        desk.db
            .count("crm.dead_letters WHERE record_key <> 'p7'")
            .await,
        0
    );
    for key in ["p1", "p6", "p8", "p12"] {
        assert_eq!(desk.field(key, "phone").await, "new", "{key}");
        assert_eq!(desk.field(key, "first_name").await, "new", "{key}");
    }
    assert_eq!(desk.db.count("crm.change").await, 0);
    desk.db.assert_checked().await;
    desk.db.execute("SELECT crm.replay_all()").await;
    rest(&desk).await;
    assert_eq!(desk.field("p7", "phone").await, "new");
    desk.settle().await;
}

/// A row that left the filter of its map, or was deleted, and the change cannot be folded: what
/// becomes of its record is what the map says.
#[tokio::test]
async fn a_change_of_a_row_that_is_gone_is_put_aside() {
    const LEAVES: &str = "UPDATE people SET notes = 'out'";
    for (goes, on_filter_out, linked, kept) in [
        (LEAVES, "delete", 0, 0),
        (LEAVES, "unlink", 0, 1),
        (LEAVES, "ignore", 1, 1),
        ("DELETE FROM people", "delete", 0, 1),
    ] {
        let cluster = Cluster::with(&[("pg_crm.max_attempts", "3")]);
        let arguments = format!(
            "on_insert => 'create', on_delete => 'unlink', filter => 'notes IS NULL', on_filter_out => '{on_filter_out}'"
        );
        let desk = Desk::open_with(&cluster, Vendor::Stub, &arguments).await;
        desk.link(1).await;
        rest(&desk).await;
        desk.db.execute("SELECT crm.pause('stub')").await;
        desk.db.execute(goes).await;
        // As a bug of ours might.
        desk.db
            .execute(
                "UPDATE crm.change SET write_id = gen_random_uuid();
                 CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE data_exception USING MESSAGE = 'no audit'; END $$;
                 CREATE TRIGGER fail BEFORE INSERT ON crm.audit_log FOR EACH ROW WHEN (NEW.result = 'superseded')
                 EXECUTE FUNCTION fail()",
            )
            .await;
        desk.db.execute("SELECT crm.resume('stub')").await;
        rest(&desk).await;
        desk.db.execute("SELECT crm.replay_all()").await;
        rest(&desk).await;
        desk.db.assert_checked().await;
        assert_eq!(
            desk.db.count("crm.ledger").await,
            linked,
            "{goes}: {on_filter_out}"
        );
        let records = "crm_stub.records WHERE NOT deleted";
        assert_eq!(
            desk.db.count(records).await,
            kept,
            "{goes}: {on_filter_out}"
        );
    }
}

/// A claim that nobody works on is told, and released by the worker, who knows what it has in hand.
#[tokio::test]
async fn a_claim_of_nobody_is_released() {
    let (_cluster, desk) = desk(Vendor::Stub).await;
    desk.link(3).await;
    rest(&desk).await;
    let sql = "INSERT INTO crm.claim (map_id, worker_pid, claimed_at, leased_until, shard_keys, record_keys)
               SELECT map_id, 1, now() - interval '5 minutes', now() + interval '1 hour', ARRAY[''], ARRAY['p1'] FROM crm.object_map";
    desk.db.execute(sql).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    begin(&desk).await;
    let told = "SELECT detail FROM crm.check() WHERE rule = 'claims are released'";
    let told: Vec<String> = desk.db.all(told, &[]).await;
    assert_eq!(told.len(), 1, "{told:?}");
    // The worker looks after its claims when it maintains the audit, which another map has it do.
    desk.db
        .execute(
            "CREATE TABLE others (id text PRIMARY KEY);
             SELECT crm.map_object('stub', 'others', 'account', on_insert => 'ignore')",
        )
        .await;
    rest(&desk).await;
    assert_eq!(desk.db.count("crm.claim").await, 0);
    desk.settle().await;
}
