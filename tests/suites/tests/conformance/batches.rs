//! Batches: each record gets its own result, and none pays for another.

use crm_suites::crm::facts::Situation;
use crm_suites::{Contestant, Desk, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    a_batch_partial_success_is_not_dropped_silently,
    one_conflict_does_not_fail_the_whole_batch,
    each_record_has_its_own_error,
    results_are_tied_to_their_rows_in_any_order,
    an_update_of_a_record_that_was_deleted_there_is_not_lost_silently,
    a_batch_refused_as_a_whole_is_split,
    at_no_share_of_bad_records_does_a_batch_cost_more_than_its_records,
);

/// The dead letters, once there are so many: `key class`.
async fn dead(desk: &Desk, count: usize) -> Vec<String> {
    let sql = "SELECT record_key || ' ' || error_class FROM crm.dead_letters ORDER BY 1";
    eventually("dead letters", async || {
        let found: Vec<String> = desk.db.all(sql, &[]).await;
        (found.len() >= count).then_some(found)
    })
    .await
}

async fn a_batch_partial_success_is_not_dropped_silently(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    let ids = desk.link(30).await;
    let reason = "the phone is not to our liking, as injected";
    for id in [&ids[6], &ids[22]] {
        desk.crm.refuse(&desk.db, id, "validation", reason).await;
    }
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    assert_eq!(dead(&desk, 2).await, ["p23 validation", "p7 validation"]);
    let applied = "SELECT count(DISTINCT record_key) FROM crm.audit_log WHERE result = 'applied'";
    assert_eq!(desk.db.one::<i64>(applied, &[]).await, 28);
    assert_eq!(desk.field("p7", "phone").await, "+47 7");
    assert_eq!(desk.field("p8", "phone").await, "new");
    desk.db.assert_checked().await;
    let shown = desk.db.text("SELECT error FROM crm.dead_letters").await;
    assert!(shown.contains("as injected"), "the reason: {shown}");
    desk.crm.relent(&desk.db).await;
    assert_eq!(desk.db.one::<i64>("SELECT crm.replay_all()", &[]).await, 2);
    desk.settle().await;
}

async fn one_conflict_does_not_fail_the_whole_batch(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    let ids = desk.link(10).await;
    let message = "duplicate value found";
    desk.crm
        .refuse(&desk.db, &ids[3], "conflict", message)
        .await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    for n in [1, 3, 5, 10] {
        assert_eq!(desk.field(&format!("p{n}"), "phone").await, "new", "p{n}");
    }
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
}

async fn each_record_has_its_own_error(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    let ids = desk.link(12).await;
    let classes = ["validation", "mapping", "conflict", "transient"];
    for (class, id) in classes.iter().zip(&ids[1..]) {
        desk.crm.refuse(&desk.db, id, class, "as injected").await;
    }
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    let _: bool = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
    let terminal = ["p2 validation", "p3 mapping", "p4 conflict"];
    assert_eq!(dead(&desk, 3).await, terminal);
    // What passes by itself is no dead letter: it waits for the next attempt, of which this one is
    // told.
    let retry = "SELECT count(*) FROM crm.audit_log
                 WHERE record_key = 'p5' AND result = 'retry' AND error_class = 'transient' AND attempt = 1";
    assert_eq!(desk.db.one::<i64>(retry, &[]).await, 1);
    let status = "SELECT dead, dirty_cells FROM crm.status";
    assert_eq!(desk.db.text(status).await, "3 | 1");
    for n in [1, 6, 12] {
        assert_eq!(desk.field(&format!("p{n}"), "phone").await, "new", "p{n}");
    }
    desk.db.assert_checked().await;
    desk.crm.relent(&desk.db).await;
    assert_eq!(desk.db.one::<i64>("SELECT crm.replay_all()", &[]).await, 3);
    desk.settle().await;
}

async fn results_are_tied_to_their_rows_in_any_order(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    // Two of them exist already, under ids of their own; one is refused.
    let existing = ["n5", "n2"].map(|key| {
        let cells = json!({"id": key, "last_name": "Old", "email": format!("{key}@example.com")});
        cells.as_object().cloned().unwrap_or_default()
    });
    desk.crm.create(&desk.db, vendor.people(), &existing).await;
    desk.crm.refuse_key(&desk.db, "n6").await;
    desk.db
        .execute(
            "INSERT INTO people (id, last_name, email)
             SELECT 'n' || n, 'Last ' || n, 'n' || n || '@example.com' FROM generate_series(1, 9) n",
        )
        .await;
    desk.db.flush().await;
    assert_eq!(dead(&desk, 1).await, ["n6 validation"]);
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    // Every id was tied to its row, or names would differ.
    desk.settle().await;
    let records = desk.crm.records(&desk.db, vendor.people()).await;
    assert_eq!(records.len(), 9, "no twins");
}

async fn an_update_of_a_record_that_was_deleted_there_is_not_lost_silently(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    let ids = desk.link(3).await;
    let people = contestant.vendor.people();
    desk.crm.delete(&desk.db, people, &ids[1]).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.db.flush().await;
    assert_eq!(desk.field("p1", "phone").await, "new");
    assert_eq!(desk.field("p3", "phone").await, "new");
    // on_crm_delete is unlink: the pair is forgotten, and the audit says so.
    assert_eq!(desk.crm_id("p2").await, None);
    let told = "crm.audit_log WHERE record_key = 'p2' AND error_class = 'not_found'";
    assert!(desk.db.count(told).await >= 1);
    desk.db.assert_checked().await;
}

/// The others of the batch must not wait for ever, nor each be sent by itself.
async fn a_batch_refused_as_a_whole_is_split(contestant: Contestant) {
    if contestant.lacks(Situation::WholeBatches) {
        return;
    }
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(16).await;
    desk.crm.reject("spoiled");
    desk.crm.forget(&desk.db).await;
    desk.db
        .execute("UPDATE people SET phone = CASE id WHEN 'p4' THEN 'spoiled' ELSE 'new' END")
        .await;
    desk.db.flush().await;
    assert_eq!(dead(&desk, 1).await, ["p4 validation"]);
    // 16, four times 4, four times 1.
    let asked = desk.crm.asked(&desk.db).await;
    assert_eq!(asked.len(), 9, "{asked:?}");
    for n in [1, 3, 5, 16] {
        assert_eq!(desk.field(&format!("p{n}"), "phone").await, "new", "p{n}");
    }
    desk.db.assert_checked().await;
    let mended = "UPDATE people SET phone = 'mended' WHERE id = 'p4'";
    desk.db.execute(mended).await;
    desk.settle().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

/// Nothing is said of which records are bad, or of what.
async fn at_no_share_of_bad_records_does_a_batch_cost_more_than_its_records(
    contestant: Contestant,
) {
    if contestant.lacks(Situation::WholeBatches) {
        return;
    }
    const RECORDS: usize = 100;
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    desk.crm.reject("spoiled");
    let mut created = 0;
    // With few, as many requests as quarters take; with many, one for each record, and a few more
    // until it is known that they are many.
    for (bad, most) in [
        (0, 1),
        (1, 15),
        (10, 77),
        (50, RECORDS + 6),
        (RECORDS, RECORDS + 6),
    ] {
        let phone =
            format!("CASE WHEN n * {bad} % {RECORDS} < {bad} THEN 'spoiled' ELSE 'new {bad}' END");
        let insert = format!(
            "INSERT INTO people (id, last_name, phone)
             SELECT 'k{bad}x' || n, 'Last', {phone} FROM generate_series(1, {RECORDS}) n"
        );
        let update = format!(
            "UPDATE people SET phone = {phone} FROM generate_series(1, {RECORDS}) n WHERE id = 'k0x' || n"
        );
        for statement in [insert, update] {
            desk.crm.forget(&desk.db).await;
            desk.db.execute(&statement).await;
            desk.db.drain_but_for_the_dead().await;
            let requests = desk.crm.request_count(&desk.db).await;
            assert!(
                requests <= most,
                "{bad} bad of {RECORDS}: {requests} requests: {statement}"
            );
            assert_eq!(dead(&desk, bad).await.len(), bad);
            let spoiled = "UPDATE people SET phone = NULL WHERE phone = 'spoiled'";
            desk.db.execute(spoiled).await;
            desk.db.drain().await;
        }
        created += RECORDS;
        desk.settle().await;
        let records = desk.crm.records(&desk.db, contestant.vendor.people()).await;
        assert_eq!(records.len(), created);
    }
}

/// A value that the portal itself finds wrong, and for which it refuses the whole batch.
#[tokio::test]
async fn an_option_that_hubspot_does_not_know_is_found_among_a_hundred() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.map_field("source", "data_type => 'choice'").await;
    desk.link(100).await;
    desk.db
        .execute("UPDATE people SET source = CASE id WHEN 'p42' THEN 'NONSENSE' ELSE 'NEW' END")
        .await;
    desk.db.flush().await;
    assert_eq!(dead(&desk, 1).await, ["p42 validation"]);
    assert_eq!(desk.field("p41", "source").await, "NEW");
    assert_eq!(desk.field("p100", "source").await, "NEW");
    desk.db
        .execute("UPDATE people SET source = 'OPEN' WHERE id = 'p42'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p42", "source").await, "OPEN");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}
