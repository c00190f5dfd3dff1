//! A pending write lands only on the record that was edited: what else changed in the CRM since is
//! a reason not to write it, as far as the map's `conflict_scope` says.

use crm_suites::{Contestant, Json, Live, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    an_edit_gives_way_to_a_change_of_another_field,
    an_edit_of_narrow_scope_does_not,
    neither_does_one_of_a_field_whose_policy_writes,
    a_change_that_came_in_before_is_a_change_all_the_same,
    a_value_set_and_set_back_is_no_change,
    a_field_that_nobody_mapped_is_no_reason,
    an_edit_made_after_the_change_is_written,
    the_snapshot_is_what_the_call_read,
);

const FIELDS: &str = "on_insert => 'ignore', conflict_scope => 'fields'";

/// An edit of p1's and p2's phone that waits.
async fn waiting(live: &Live) {
    live.people(2).await;
    live.pause().await;
    live.db.execute("UPDATE people SET phone = 'ours'").await;
}

async fn pending(live: &Live, key: &str) -> Json {
    let sql = "SELECT to_jsonb(p) FROM crm.pending_writes p WHERE record_key = $1";
    live.db.one(sql, &[&key]).await
}

/// The snapshot is what the ledger knew, which the edits and changes since are no part of.
async fn assert_shown(live: &Live, shown: &Json) {
    for (column, value) in [("phone", "+1"), ("first_name", "Ada")] {
        let field = live.crm.vendor.field(column);
        assert_eq!(
            shown["snapshot"][field],
            hash_of(live, value).await,
            "{shown}"
        );
    }
    assert!(!shown["snapshot_hash"].is_null() && !shown["age"].is_null());
}

async fn hash_of(live: &Live, value: &str) -> Json {
    let sql = "SELECT jsonb_build_object('hash', encode(substr(crm.hash(to_jsonb($1::text)), 1, 16), 'hex'))";
    live.db.one(sql, &[&value]).await
}

/// The results of p1's edit and of the one of p2, whose record nobody touched.
async fn assert_results(live: &Live, first: &str, phone: &str) {
    live.quiet().await;
    for (key, result, phone) in [("p1", first, phone), ("p2", "applied", "ours")] {
        live.assert_both(key, "phone", phone).await;
        let sql = "SELECT result FROM crm.audit_log WHERE record_key = $1 AND path = 'reconcile' ORDER BY audit_id DESC LIMIT 1";
        let last: String = live.db.one(sql, &[&key]).await;
        assert_eq!(last, result, "{key}");
    }
    live.ingest().await;
    live.agree().await;
}

async fn an_edit_gives_way_to_a_change_of_another_field(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    waiting(&live).await;
    let [phone, name] = ["phone", "first_name"].map(|column| live.crm.vendor.field(column));
    // From the first moment on.
    let shown = pending(&live, "p1").await;
    assert_eq!(shown["intended"], json!({phone: "ours"}), "{shown}");
    assert_eq!(shown["conflict_scope"], "record", "{shown}");
    assert_shown(&live, &shown).await;
    live.edit_in_crm("p1", json!({"first_name": "Theirs"}))
        .await;
    live.resume().await;
    assert_results(&live, "superseded", "+1").await;
    let told = "SELECT fields FROM crm.audit_log WHERE result = 'superseded'";
    let told: Json = live.db.one(told, &[]).await;
    let lost = json!({phone: {"new": "+1", "lost": "ours", "because": [name]}});
    assert_eq!(told, lost);
    live.assert_both("p1", "first_name", "Theirs").await;
}

async fn an_edit_of_narrow_scope_does_not(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, FIELDS, "").await;
    waiting(&live).await;
    live.edit_in_crm("p1", json!({"first_name": "Theirs"}))
        .await;
    live.resume().await;
    assert_results(&live, "applied", "ours").await;
    live.assert_both("p1", "first_name", "Theirs").await;
}

async fn neither_does_one_of_a_field_whose_policy_writes(contestant: Contestant) {
    for policy in ["local_wins", "merge_with_audit", "manual_review"] {
        let of_fields = format!("on_conflict => '{policy}'");
        let live = Live::with(&CLUSTER, contestant, "on_insert => 'ignore'", &of_fields).await;
        waiting(&live).await;
        live.edit_in_crm("p1", json!({"first_name": "Theirs"}))
            .await;
        live.resume().await;
        if policy == "manual_review" {
            let conflict = eventually("a person is asked", async || {
                let sql = "SELECT conflict_type || ' ' || column_name FROM crm.conflicts";
                live.db.all::<String>(sql, &[]).await.pop()
            })
            .await;
            assert_eq!(conflict, "stale_record phone");
            // The field is settled by itself, whatever else is new.
            let settle = "SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts";
            live.db.execute(settle).await;
        }
        assert_results(&live, "applied", "ours").await;
        live.assert_both("p1", "first_name", "Theirs").await;
    }
}

async fn a_change_that_came_in_before_is_a_change_all_the_same(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(2).await;
    live.crm.fail(&live.db, "write", "validation", 1000).await;
    for (dead, key) in [(1, "p1"), (2, "p2")] {
        let edit = format!("UPDATE people SET phone = 'ours' WHERE id = '{key}'");
        live.db.execute(&edit).await;
        eventually("it is dead", async || {
            (live.db.count("crm.dead_letters").await == dead).then_some(())
        })
        .await;
    }
    live.edit_in_crm("p1", json!({"first_name": "Theirs"}))
        .await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "first_name").await, "Theirs");
    assert_shown(&live, &pending(&live, "p1").await).await;
    live.crm.relent(&live.db).await;
    live.db.execute("SELECT crm.replay_all()").await;
    assert_results(&live, "superseded", "+1").await;
}

async fn a_value_set_and_set_back_is_no_change(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    waiting(&live).await;
    for name in ["Theirs", "Ada"] {
        live.edit_in_crm("p1", json!({"first_name": name})).await;
    }
    live.resume().await;
    assert_results(&live, "applied", "ours").await;
}

async fn a_field_that_nobody_mapped_is_no_reason(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    waiting(&live).await;
    live.edit_in_crm("p1", json!({"title": "Countess"})).await;
    live.resume().await;
    assert_results(&live, "applied", "ours").await;
}

async fn an_edit_made_after_the_change_is_written(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(2).await;
    live.edit_in_crm("p1", json!({"first_name": "Theirs"}))
        .await;
    live.ingest().await;
    live.db.execute("UPDATE people SET phone = 'ours'").await;
    assert_results(&live, "applied", "ours").await;
}

async fn the_snapshot_is_what_the_call_read(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, FIELDS, "").await;
    live.people(2).await;
    let [phone, name] = ["phone", "first_name"].map(|column| live.crm.vendor.field(column));
    live.edit_in_crm("p1", json!({"first_name": "Theirs"}))
        .await;
    live.crm.fail(&live.db, "write", "validation", 1000).await;
    let changes = json!({"phone": "ours"});
    live.write("p1", changes).await.expect_pending("validation");
    let shown = pending(&live, "p1").await;
    assert_eq!(shown["intended"], json!({phone: "ours"}), "{shown}");
    assert_eq!(shown["snapshot"][phone], "+1", "{shown}");
    assert_eq!(shown["snapshot"][name], "Theirs", "{shown}");
    let sql = "SELECT snapshot_hash = crm.hash(snapshot) FROM crm.pending_writes";
    assert!(live.db.one::<bool>(sql, &[]).await);
    live.crm.relent(&live.db).await;
    live.db
        .execute("UPDATE people SET phone = 'ours' WHERE id = 'p2'")
        .await;
    eventually("it is replayed, or lands at once", async || {
        live.db.execute("SELECT crm.replay_all()").await;
        (live.db.count("crm.pending_writes").await == 0).then_some(())
    })
    .await;
    assert_results(&live, "applied", "ours").await;
}
