//! Edits that meet others which wait already, or are just on their way.

use std::time::Duration;

use crm_suites::process;
use crm_suites::{Cluster, Live, Session, Vendor, eventually, json};

use nix::sys::signal::Signal;

use super::{bidirectional, desk, quiet};

async fn write(session: &Session, phone: &str, base: &str) -> String {
    let sql = "SELECT (crm.write('people', 'p1', jsonb_build_object('phone', $1::text), base => jsonb_build_object('phone', $2::text))).outcome";
    session.one(sql, &[&phone, &base]).await
}

#[tokio::test]
async fn an_edit_that_waits_is_not_overwritten_by_who_has_not_seen_it() {
    let desk = desk(Vendor::Stub, &["phone"]).await;
    desk.link(1).await;
    desk.db.execute("SELECT crm.pause('stub')").await;
    assert_eq!(write(&desk.db, "first", "+47 1").await, "pending");
    assert_eq!(write(&desk.db, "second", "+47 1").await, "conflict");
    assert_eq!(write(&desk.db, "second", "first").await, "pending");
    desk.db.execute("UPDATE people SET phone = 'third'").await;
    assert_eq!(write(&desk.db, "fourth", "second").await, "conflict");
    desk.db.execute("SELECT crm.resume('stub')").await;
    quiet(&desk).await;
    assert_eq!(desk.field("p1", "phone").await, "third");
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn an_update_and_a_call_do_not_wait_for_each_other() {
    let desk = desk(Vendor::Stub, &["phone"]).await;
    desk.link(1).await;
    let (first, second) = (desk.db.session().await, desk.db.session().await);
    first
        .execute("BEGIN; UPDATE people SET notes = 'mine' WHERE id = 'p1'")
        .await;
    let call = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let outcome: String = first
            .one(
                "SELECT (crm.write('people', 'p1', '{\"phone\": \"1\"}')).outcome",
                &[],
            )
            .await;
        first.execute("COMMIT").await;
        outcome
    };
    let other = async {
        second
            .one::<String>(
                "SELECT (crm.write('people', 'p1', '{\"phone\": \"2\"}')).outcome",
                &[],
            )
            .await
    };
    let (first, second) = tokio::join!(call, other);
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("committed", "committed")
    );
    quiet(&desk).await;
    assert_eq!(desk.field("p1", "phone").await, "2");
    desk.db.assert_checked().await;
}

/// While the reconciler's request is under way a person decides or gives up: that is not forgotten.
async fn a_decision_during_a_write_stands(vendor: Vendor) {
    let desk = desk(vendor, &[]).await;
    bidirectional(&desk, "phone", ", on_conflict => 'manual_review'").await;
    bidirectional(&desk, "first_name", "").await;
    let ids = desk.link(1).await;
    // Both sides change the phone: a conflict.
    desk.db
        .execute("SELECT crm.pause(name) FROM crm.connection")
        .await;
    desk.db.execute("UPDATE people SET phone = 'ours'").await;
    let (object, field) = (vendor.people(), vendor.field("phone"));
    let path = format!("objects/{}/{object}/{}", vendor.name(), ids[0]);
    desk.crm
        .sim()
        .patch(&path, &json!({"fields": {field: "theirs"}}));
    desk.db
        .execute("SELECT crm.resume(name) FROM crm.connection")
        .await;
    quiet(&desk).await;
    assert_eq!(desk.db.count("crm.conflicts").await, 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Another cell is on its way while the person decides.
    desk.crm.fault(json!({"delay_after_ms": 700, "times": 2}));
    desk.db
        .execute("UPDATE people SET first_name = 'Another'")
        .await;
    eventually("it is on its way", async || {
        (desk.db.count("crm.claim").await == 1).then_some(())
    })
    .await;
    desk.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'crm') FROM crm.conflicts")
        .await;
    quiet(&desk).await;
    let row: String = desk.db.one("SELECT phone FROM people", &[]).await;
    assert_eq!(row, "theirs");
    assert_eq!(desk.field("p1", "first_name").await, "Another");
    // An edit is given up while it is being sent: both sides hold what the CRM made of it.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    desk.crm.fault(json!({"delay_after_ms": 700, "times": 2}));
    desk.db
        .execute("UPDATE people SET first_name = 'Given up'")
        .await;
    eventually("it is on its way", async || {
        (desk.db.count("crm.claim").await == 1).then_some(())
    })
    .await;
    desk.db
        .execute("SELECT crm.cancel_write(write_id) FROM crm.pending_writes")
        .await;
    quiet(&desk).await;
    let row: String = desk.db.one("SELECT first_name FROM people", &[]).await;
    assert_eq!(desk.field("p1", "first_name").await, row);
    desk.db.assert_checked().await;
}

crm_suites::with_remote_crms!(a_decision_during_a_write_stands);

/// What the CRM holds comes in; its ledger row is locked, and its row not yet.
#[tokio::test]
async fn an_edit_that_slips_between_two_locks_is_not_lost() {
    let cluster = Cluster::with(&[("pg_crm.failpoints", "ingest_records::locked:stop")]);
    let live = Live::with(
        &cluster,
        Vendor::Stub,
        "on_insert => 'ignore'",
        "on_conflict => 'local_wins'",
    )
    .await;
    live.people(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    let session = live.db.session().await;
    let look = tokio::spawn(async move {
        let _: bool = session.one("SELECT crm.ingest_now()", &[]).await;
    });
    let worker = live.db.worker().await;
    eventually("the worker stands still", async || {
        cluster
            .log()
            .contains("reached fail point ingest_records::locked")
            .then_some(())
    })
    .await;
    live.db
        .execute("UPDATE people SET phone = 'ours' WHERE id = 'p1'")
        .await;
    process::signal(worker, Signal::SIGCONT);
    look.await.expect("the look ends");
    live.agree().await;
    live.assert_both("p1", "phone", "ours").await;
}

#[tokio::test]
async fn what_is_forgotten_is_noticed() {
    let desk = desk(Vendor::Stub, &["phone"]).await;
    desk.link(1).await;
    quiet(&desk).await;
    // Each in a transaction that is rolled back, so that nobody mends it.
    let row = "(shard_key, map_id, record_key, state, cells, backend_pid, created_at, changed_at)";
    let then = "now() - interval '6 minutes'";
    let (map, cells) = (desk.map, "decode('0000000000000008', 'hex')");
    for (what, rule) in [
        (
            format!(
                "INSERT INTO crm.pending_write {row} VALUES ('', {map}, 'p1', 'landed', {cells}, 1, {then}, {then})"
            ),
            "intents are finished",
        ),
        (
            format!(
                "INSERT INTO crm.pending_write {row} VALUES ('', {map}, 'p1', 'landed', {cells}, pg_backend_pid(), {then}, {then})"
            ),
            "intents are finished",
        ),
        (
            format!(
                "INSERT INTO crm.pending_write {row} VALUES ('', {map}, 'p1', 'queued', {cells}, 1, {then}, {then})"
            ),
            "edits are written promptly",
        ),
        (
            format!(
                "INSERT INTO crm.change (map_id, record_keys, op, cells, base, changed_at, actor) VALUES ({map}, '{{p1}}', 'u', {cells}, '{{}}', {then}, 'x')"
            ),
            "edits are written promptly",
        ),
        (
            format!(
                "INSERT INTO crm.pending_write {row} VALUES ('', {map}, 'p1', 'dead', {cells}, 1, {then}, {then})"
            ),
            "no edit is lost",
        ),
        (
            format!(
                "INSERT INTO crm.pending_write {row} VALUES ('', {map}, 'none', 'queued', {cells}, 1, now(), now())"
            ),
            "no edit is lost",
        ),
    ] {
        desk.db.execute(&format!("BEGIN; {what}")).await;
        let found: Vec<String> = desk
            .db
            .all("SELECT DISTINCT rule FROM crm.check()", &[])
            .await;
        desk.db.execute("ROLLBACK").await;
        assert_eq!(found, [rule], "{what}");
    }
    desk.db.assert_checked().await;
}
