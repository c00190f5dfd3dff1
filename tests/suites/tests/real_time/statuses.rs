//! Every id that `crm.write()` returns says for ever what became of its call, whatever it was
//! folded into.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    calls_that_fold_into_one_edit_end_with_it,
    calls_wait_for_the_same_person,
    a_call_on_a_row_that_is_to_be_created_ends_with_the_creation,
    calls_end_with_their_row,
    a_refusal_without_the_crm_is_remembered,
    a_failed_call_that_is_rolled_back_is_over,
    an_edit_beside_a_compensation_goes_by_its_own_name,
);

async fn assert_states(live: &Live, calls: &[String], state: &str) {
    for (n, call) in calls.iter().enumerate() {
        assert_eq!(live.state_of(call).await, state, "call {n}");
    }
}

/// Two calls while nothing is sent, and two more into what became of them, with a plain UPDATE
/// before or not: all of them end in one dead letter.
async fn four_calls(live: &Live, key: &str, plain_first: bool) -> Vec<String> {
    live.crm.fail(&live.db, "write", "validation", 1000).await;
    live.pause().await;
    if plain_first {
        let plain = format!("UPDATE people SET last_name = 'Plain' WHERE id = '{key}'");
        live.db.execute(&plain).await;
    }
    let mut calls = Vec::new();
    for n in 0..4 {
        let changes = [json!({"phone": "ours"}), json!({"first_name": "Ours"})];
        let written = live.write(key, changes[n % 2].clone()).await;
        calls.push(written.expect("pending").write_id);
        if n == 1 {
            assert_states(live, &calls, "captured").await;
            live.resume().await;
        }
        if n > 0 {
            eventually("all are dead", async || {
                let dead = "crm.dead_letters WHERE record_key = ";
                let unfolded = live.db.count("crm.change").await;
                let letters = live.db.count(&format!("{dead}'{key}'")).await;
                (unfolded == 0 && letters == 1).then_some(())
            })
            .await;
            assert_states(live, &calls, "dead").await;
        }
    }
    live.crm.relent(&live.db).await;
    calls
}

async fn replay(live: &Live) {
    live.db.execute("SELECT crm.replay_all()").await;
}

async fn calls_that_fold_into_one_edit_end_with_it(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(3).await;
    let first = four_calls(&live, "p1", false).await;
    let plain = four_calls(&live, "p2", true).await;
    let lost = four_calls(&live, "p3", false).await;
    live.edit_in_crm("p3", json!({"phone": "theirs", "first_name": "Theirs"}))
        .await;
    replay(&live).await;
    live.agree().await;
    assert_states(&live, &first, "committed").await;
    assert_states(&live, &plain, "committed").await;
    assert_states(&live, &lost, "superseded").await;
}

async fn calls_wait_for_the_same_person(vendor: Vendor) {
    let policy = "on_conflict => 'manual_review'";
    let live = Live::with(&CLUSTER, vendor, "conflict_scope => 'fields'", policy).await;
    live.people(2).await;
    for (key, winner, state) in [("p1", "local", "committed"), ("p2", "crm", "superseded")] {
        let calls = four_calls(&live, key, false).await;
        live.edit_in_crm(key, json!({"phone": "theirs"})).await;
        replay(&live).await;
        live.quiet().await;
        assert_states(&live, &calls, "conflict").await;
        // Another edit, into the same conflict; and a call that knows better than to wait.
        let update = format!("UPDATE people SET phone = 'later' WHERE id = '{key}'");
        live.db.execute(&update).await;
        live.quiet().await;
        let refused = live.write(key, json!({"phone": "refused"})).await;
        let refused = refused.expect("conflict").write_id;
        assert_states(&live, &calls, "conflict").await;
        live.db
            .execute(&format!(
                "SELECT crm.resolve_conflict(conflict_id, '{winner}') FROM crm.conflicts"
            ))
            .await;
        live.agree().await;
        assert_states(&live, &calls, state).await;
        assert_eq!(live.state_of(&refused).await, "conflict");
    }
}

async fn a_call_on_a_row_that_is_to_be_created_ends_with_the_creation(vendor: Vendor) {
    let live = Live::with(&CLUSTER, vendor, "on_insert => 'create'", "").await;
    live.crm.fail(&live.db, "create", "validation", 1000).await;
    live.db
        .execute("INSERT INTO people (id, last_name, phone) VALUES ('p1', 'New', '+1'), ('p2', 'New', '+1')")
        .await;
    let mut calls = Vec::new();
    for (key, changes, force) in [
        ("p1", json!({"phone": "+2"}), false),
        ("p1", json!({"phone": "+3"}), true),
        ("p2", json!({"first_name": "Second"}), false),
    ] {
        let more = format!("force => {force}");
        let written = live.write_with(key, changes, &more).await;
        calls.push(written.expect_pending("not_found").write_id);
    }
    assert!(live.db.flush().await);
    assert_eq!(live.db.count("crm.dead_letters").await, 2);
    assert_states(&live, &calls, "unlinked").await;
    live.db.assert_checked().await;
    // Somebody else edits the row before there is a record.
    live.db
        .execute("UPDATE people SET first_name = 'Third' WHERE id = 'p2'")
        .await;
    // What that revived has died again by then.
    assert!(live.db.flush().await);
    live.crm.relent(&live.db).await;
    replay(&live).await;
    assert!(live.db.flush().await);
    live.agree().await;
    assert_states(&live, &calls, "committed").await;
    live.assert_both("p1", "phone", "+3").await;
    live.assert_both("p2", "first_name", "Third").await;
    // One that comes and goes before the worker knows of it.
    live.db
        .execute("BEGIN; INSERT INTO people (id, last_name, phone) VALUES ('p3', 'Brief', '+1')")
        .await;
    let brief = live.write("p3", json!({"phone": "+2"})).await;
    let brief = brief.expect("pending").write_id;
    live.db
        .execute("DELETE FROM people WHERE id = 'p3'; COMMIT")
        .await;
    assert!(live.db.flush().await);
    assert_eq!(live.state_of(&brief).await, "superseded");
}

async fn calls_end_with_their_row(vendor: Vendor) {
    let live = Live::with(
        &CLUSTER,
        vendor,
        "on_insert => 'ignore', on_delete => 'unlink'",
        "",
    )
    .await;
    live.people(2).await;
    let mut calls = four_calls(&live, "p1", false).await;
    // Gone before it was taken up.
    live.pause().await;
    live.db.execute("BEGIN").await;
    let written = live.write("p2", json!({"phone": "+2"})).await;
    calls.push(written.expect("pending").write_id);
    live.db.execute("DELETE FROM people; COMMIT").await;
    live.resume().await;
    live.quiet().await;
    assert_states(&live, &calls, "superseded").await;
    live.db.assert_checked().await;
}

async fn a_refusal_without_the_crm_is_remembered(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.pause().await;
    live.write("p1", json!({"phone": "first"}))
        .await
        .expect("pending");
    let stale = "base => '{\"phone\": \"+1\"}', correlation_id => 'stale'";
    let refused = live
        .write_with("p1", json!({"phone": "second"}), stale)
        .await
        .expect("conflict");
    assert_eq!(live.state_of(&refused.write_id).await, "conflict");
    let told = format!(
        "SELECT fields -> '{}' ->> 'new' FROM crm.audit_log WHERE correlation_id = 'stale'",
        vendor.field("phone")
    );
    assert_eq!(live.db.one::<String>(&told, &[]).await, "second");
    live.resume().await;
    live.agree().await;
    assert_eq!(live.state_of(&refused.write_id).await, "conflict");
}

async fn a_failed_call_that_is_rolled_back_is_over(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.crm.fail(&live.db, "write", "validation", 1).await;
    live.db.execute("BEGIN").await;
    let never = live
        .write("p1", json!({"phone": "never"}))
        .await
        .expect_pending("validation");
    live.db.execute("ROLLBACK").await;
    live.agree().await;
    assert_eq!(live.state_of(&never.write_id).await, "superseded");
    live.assert_both("p1", "phone", "+1").await;
}

async fn an_edit_beside_a_compensation_goes_by_its_own_name(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.db.execute("BEGIN").await;
    let undone = live
        .write("p1", json!({"phone": "undone"}))
        .await
        .expect("committed");
    let other = live.db.session().await;
    let name = vendor.name();
    other.execute(&format!("SELECT crm.pause('{name}')")).await;
    live.db.execute("ROLLBACK").await;
    eventually("the compensation waits", async || {
        let waits = "crm.pending_writes WHERE state = 'queued' AND origin = 'compensate'";
        (live.db.count(waits).await == 1).then_some(())
    })
    .await;
    live.db
        .execute("UPDATE people SET first_name = 'Plain'")
        .await;
    let call = live.write("p1", json!({"last_name": "Called"})).await;
    let call = call.expect("pending").write_id;
    live.resume().await;
    live.agree().await;
    live.assert_both("p1", "phone", "undone").await;
    live.assert_both("p1", "first_name", "Plain").await;
    live.assert_both("p1", "last_name", "Called").await;
    let audit: Vec<String> = live
        .db
        .all(
            "SELECT path || ' ' || result || ' ' || (SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(fields) k)
             FROM crm.audit_log WHERE record_key = 'p1' ORDER BY audit_id OFFSET 1",
            &[],
        )
        .await;
    let [phone, first_name, last_name] =
        ["phone", "first_name", "last_name"].map(|c| vendor.field(c));
    assert_eq!(audit[0], format!("realtime applied {phone}"));
    assert_eq!(audit[1], format!("compensate superseded {phone}"));
    let mut edited = [first_name, last_name];
    edited.sort_unstable();
    assert_eq!(audit[2], format!("reconcile applied {}", edited.join(" ")));
    assert_eq!(audit.len(), 3, "{audit:?}");
    assert_states(&live, &[undone.write_id, call], "committed").await;
}
