//! Edits that wait are settled, by the machine or by a person, and everybody can see what they wait
//! for.

use crm_suites::{Json, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    what_has_landed_already_is_not_written_again,
    an_untouched_record_is_written_and_a_touched_one_is_settled,
    a_person_decides_either_way,
    a_value_that_moved_since_opens_the_conflict_again,
    an_edit_that_waits_can_be_cancelled,
    a_value_that_the_table_refuses_is_a_conflict,
    what_waits_is_shown,
);

/// Requests that write.
async fn writes(live: &Live) -> usize {
    let asked = live.crm.asked(&live.db).await;
    asked
        .iter()
        .filter(|r| r.starts_with("PATCH") || r.ends_with("/write") || r.ends_with("/update"))
        .count()
}

async fn what_has_landed_already_is_not_written_again(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.pause().await;
    live.db.execute("UPDATE people SET phone = 'same'").await;
    live.edit_in_crm("p1", json!({"phone": "same"})).await;
    live.crm.forget(&live.db).await;
    live.resume().await;
    live.agree().await;
    assert_eq!(writes(&live).await, 0);
    assert_eq!(
        live.audit("p1").await.last().map(String::as_str),
        Some("reconcile applied")
    );
    // An answer that was lost on the way.
    live.crm
        .fail(&live.db, "write", "drop_after_apply", 1)
        .await;
    live.db
        .execute("UPDATE people SET phone = 'lost answer'")
        .await;
    live.agree().await;
    live.assert_both("p1", "phone", "lost answer").await;
}

async fn an_untouched_record_is_written_and_a_touched_one_is_settled(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(3).await;
    live.crm.fail(&live.db, "write", "validation", 1000).await;
    for key in ["p1", "p2"] {
        live.write(key, json!({"phone": "ours"}))
            .await
            .expect_pending("validation");
    }
    eventually("both are dead", async || {
        (live.db.count("crm.dead_letters").await == 2).then_some(())
    })
    .await;
    live.edit_in_crm("p2", json!({"phone": "theirs"})).await;
    live.crm.relent(&live.db).await;
    let replayed: i64 = live.db.one("SELECT crm.replay_all()", &[]).await;
    assert_eq!(replayed, 2);
    live.agree().await;
    live.assert_both("p1", "phone", "ours").await;
    live.assert_both("p2", "phone", "theirs").await;
    let lost = format!(
        "SELECT fields #>> '{{{},lost}}' FROM crm.audit_log WHERE result = 'superseded'",
        vendor.field("phone")
    );
    assert_eq!(live.db.one::<String>(&lost, &[]).await, "ours");
}

async fn in_conflict(live: &Live, key: &str) -> i64 {
    live.edit_in_crm(key, json!({"phone": "theirs"})).await;
    live.db
        .execute(&format!(
            "UPDATE people SET phone = 'ours' WHERE id = '{key}'"
        ))
        .await;
    eventually("a conflict", async || {
        live.db
            .all::<i64>(
                "SELECT conflict_id FROM crm.conflicts WHERE record_key = $1",
                &[&key],
            )
            .await
            .pop()
    })
    .await
}

async fn manual(vendor: Vendor) -> Live {
    Live::with(
        &CLUSTER,
        vendor,
        "on_insert => 'ignore'",
        "on_conflict => 'manual_review'",
    )
    .await
}

async fn a_person_decides_either_way(vendor: Vendor) {
    let live = manual(vendor).await;
    live.people(2).await;
    for (key, winner, value) in [("p1", "crm", "theirs"), ("p2", "local", "ours")] {
        let conflict = in_conflict(&live, key).await;
        live.db
            .execute(&format!(
                "SET pg_crm.actor = 'judge'; SELECT crm.resolve_conflict({conflict}, '{winner}')"
            ))
            .await;
        live.quiet().await;
        live.assert_both(key, "phone", value).await;
        assert_eq!(live.db.count("crm.conflicts").await, 0);
        let actor =
            "SELECT actor FROM crm.audit_log WHERE record_key = $1 ORDER BY audit_id DESC LIMIT 1";
        assert_eq!(
            live.db.one::<String>(actor, &[&key]).await,
            "postgres/judge"
        );
    }
    live.agree().await;
    for (sql, code) in [
        ("SELECT crm.resolve_conflict(4711, 'crm')", "42704"),
        ("SELECT crm.resolve_conflict(NULL, 'crm')", "42704"),
        ("SELECT crm.resolve_conflict(1, 'both')", "22023"),
    ] {
        let error = live.db.error(sql).await;
        assert_eq!(error.code().code(), code, "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
}

async fn a_value_that_moved_since_opens_the_conflict_again(vendor: Vendor) {
    let live = manual(vendor).await;
    live.people(1).await;
    for winner in ["crm", "local"] {
        let conflict = in_conflict(&live, "p1").await;
        live.edit_in_crm("p1", json!({"phone": "newer"})).await;
        live.db
            .execute(&format!(
                "SELECT crm.resolve_conflict({conflict}, '{winner}')"
            ))
            .await;
        live.quiet().await;
        assert_eq!(
            (
                live.cell("p1", "phone").await,
                live.field("p1", "phone").await
            ),
            (json!("ours"), json!("newer")),
            "{winner}"
        );
        assert_eq!(
            live.db
                .text("SELECT crm_value, local_value FROM crm.conflicts")
                .await,
            "\"newer\" | \"ours\"",
            "{winner}"
        );
        live.db.assert_checked().await;
        live.db
            .execute("SELECT crm.resolve_conflict(conflict_id, 'crm') FROM crm.conflicts")
            .await;
        live.agree().await;
        live.assert_both("p1", "phone", "newer").await;
    }
}

async fn an_edit_that_waits_can_be_cancelled(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    live.crm.fail(&live.db, "write", "validation", 1000).await;
    let written = live
        .write("p1", json!({"phone": "refused"}))
        .await
        .expect_pending("validation");
    eventually("it is dead", async || {
        (live.state_of(&written.write_id).await == "dead").then_some(())
    })
    .await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.db
        .execute(&format!("SELECT crm.cancel_write('{}')", written.write_id))
        .await;
    live.agree().await;
    live.assert_both("p1", "phone", "theirs").await;
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
    let lost = format!(
        "SELECT fields #>> '{{{},lost}}' FROM crm.audit_log WHERE result = 'superseded'",
        vendor.field("phone")
    );
    assert_eq!(live.db.one::<String>(&lost, &[]).await, "refused");
    let error = live
        .db
        .error(&format!("SELECT crm.cancel_write('{}')", written.write_id))
        .await;
    assert_eq!(error.code().code(), "42704", "{error:?}");
}

async fn a_value_that_the_table_refuses_is_a_conflict(vendor: Vendor) {
    let live = Live::with(&CLUSTER, vendor, "conflict_scope => 'fields'", "").await;
    live.people(2).await;
    live.db
        .execute("ALTER TABLE people ADD CONSTRAINT no_theirs CHECK (phone <> 'theirs')")
        .await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.db
        .execute("UPDATE people SET phone = 'ours', first_name = 'Ours'")
        .await;
    live.quiet().await;
    assert_eq!(
        (
            live.cell("p1", "phone").await,
            live.field("p1", "phone").await
        ),
        (json!("ours"), json!("theirs"))
    );
    live.assert_both("p1", "first_name", "Ours").await;
    live.assert_both("p2", "phone", "ours").await;
    let conflict = live
        .db
        .text("SELECT to_jsonb(c) FROM crm.conflicts c")
        .await;
    for word in [
        "mapping_mismatch",
        "no_theirs",
        "\"crm_value\": \"theirs\"",
        "\"local_value\": \"ours\"",
    ] {
        assert!(conflict.contains(word), "{word} is not in {conflict}");
    }
    live.db.assert_checked().await;
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts")
        .await;
    live.agree().await;
    live.assert_both("p1", "phone", "ours").await;
}

async fn what_waits_is_shown(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    // The stub has no record's own transient error but by its id.
    if vendor == Vendor::Stub {
        let id = live.crm_id("p1").await.unwrap();
        live.db
            .rows(
                "SELECT crm_stub.inject('stub', 'transient', 1000, $1, 'write')",
                &[&id],
            )
            .await;
    } else {
        let mut fault = live.crm.matching("write");
        let body = match vendor {
            Vendor::Salesforce => {
                json!([{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "locked, as injected", "fields": []}])
            }
            Vendor::Pipedrive => json!({"success": false, "error": "as injected"}),
            _ => {
                json!({"status": "error", "category": "LOCKED", "message": "locked, as injected", "correlationId": "c"})
            }
        };
        fault["status"] = json!(match vendor {
            Vendor::Salesforce => 400,
            Vendor::Pipedrive => 500,
            _ => 423,
        });
        fault["body"] = body;
        fault["times"] = json!("unlimited");
        live.crm.fault(fault);
    }
    live.db.execute("SET pg_crm.actor = 'dana@acme'").await;
    let written = live
        .write("p1", json!({"phone": "+2"}))
        .await
        .expect_pending("transient");
    // HubSpot's locks are the portal's, whose troubles cost no attempt.
    let tried = match vendor {
        Vendor::HubSpot => "crm.pending_writes WHERE last_error IS NOT NULL AND state = 'queued'",
        _ => "crm.pending_writes WHERE attempts >= 1 AND state = 'queued'",
    };
    eventually("it was tried again", async || {
        (live.db.count(tried).await == 1).then_some(())
    })
    .await;
    let shown: Json = live
        .db
        .one("SELECT to_jsonb(p) FROM crm.pending_writes p", &[])
        .await;
    for (name, value) in [
        ("write_id", json!(written.write_id)),
        ("record_key", json!("p1")),
        ("relation", json!("people")),
        ("connection", json!(vendor.name())),
        ("origin", json!("write")),
        ("columns", json!(["phone"])),
        ("error_class", json!("transient")),
        ("actor", json!("postgres/dana@acme")),
    ] {
        assert_eq!(shown[name], value, "{name}: {shown}");
    }
    for name in [
        "age",
        "next_attempt_at",
        "last_error",
        "snapshot",
        "snapshot_hash",
        "created_at",
    ] {
        assert!(!shown[name].is_null(), "{name}: {shown}");
    }
    let status: Json = live
        .db
        .one(
            "SELECT to_jsonb(s) FROM crm.write_status($1::text::uuid) s",
            &[&written.write_id],
        )
        .await;
    assert_eq!(status["state"], "queued", "{status}");
    assert!(
        status["attempts"].as_i64() >= Some(i64::from(vendor != Vendor::HubSpot))
            && !status["next_attempt_at"].is_null()
            && !status["error"].is_null(),
        "{status}"
    );
    assert_eq!(
        live.db
            .one::<i64>("SELECT pending FROM crm.status", &[])
            .await,
        1
    );
    let cell =
        "SELECT state FROM crm.cell_status WHERE record_key = 'p1' AND column_name = 'phone'";
    assert_eq!(live.db.one::<String>(cell, &[]).await, "pending");
    live.db.assert_checked().await;
    // Cancelled while it waits for its next attempt, which might begin just now.
    live.pause().await;
    eventually("no attempt is under way", async || {
        (live.db.count("crm.claim").await == 0).then_some(())
    })
    .await;
    live.db
        .execute(&format!("SELECT crm.cancel_write('{}')", written.write_id))
        .await;
    live.crm.relent(&live.db).await;
    live.resume().await;
    live.agree().await;
    if vendor != Vendor::HubSpot {
        live.assert_both("p1", "phone", "+1").await;
    }
}
