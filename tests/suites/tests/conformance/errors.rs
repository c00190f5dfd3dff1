//! The CRM says no, each in its own words: every class of errors has one outcome, which the user
//! sees.

use crm_suites::{Contestant, Desk, Live, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    whatever_the_error_the_row_has_the_edit_and_the_crm_gets_it,
    what_no_retry_can_mend_is_a_dead_letter_that_can_be_replayed,
    an_answer_that_was_lost_is_found_by_reading,
    a_record_that_is_gone_is_no_endless_work,
    what_befalls_a_whole_request_costs_no_record_an_attempt,
    an_error_that_every_record_has_stops_the_map,
);

/// How often an error comes: one refusal of a token may be made up for by another token.
fn times(class: &str) -> u32 {
    if class == "auth" { 1000 } else { 1 }
}

async fn whatever_the_error_the_row_has_the_edit_and_the_crm_gets_it(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    for (n, class) in [
        "transient",
        "rate_limited",
        "validation",
        "mapping",
        "conflict",
        "not_found",
        "auth",
    ]
    .into_iter()
    .enumerate()
    {
        live.crm.fail(&live.db, "write", class, times(class)).await;
        let phone = format!("+{n}");
        let written = live
            .write_with("p1", json!({"phone": phone}), "correlation_id => 'c'")
            .await
            .expect_pending(class);
        assert!(written.error.is_some(), "{written:?}");
        assert_eq!(
            written.values["phone"],
            if n == 0 {
                "+1".into()
            } else {
                format!("+{}", n - 1)
            },
            "{class}: what the CRM holds"
        );
        assert_eq!(live.cell("p1", "phone").await, phone, "{class}: the row");
        if class == "auth" {
            // Nothing of the connection is tried before somebody mends it.
            let waits: String = live
                .db
                .one("SELECT state FROM crm.pending_writes", &[])
                .await;
            assert!(["captured", "queued"].contains(&waits.as_str()), "{waits}");
            assert_eq!(live.state().await, "error");
            live.mend().await;
        }
        live.quiet().await;
        live.assert_both("p1", "phone", &phone).await;
        assert_eq!(
            live.state_of(&written.write_id).await,
            "committed",
            "{class}"
        );
        let audit = live.audit("p1").await;
        assert_eq!(
            audit[audit.len() - 2..],
            ["realtime retry", "reconcile applied"],
            "{class}"
        );
    }
    live.agree().await;
}

async fn what_no_retry_can_mend_is_a_dead_letter_that_can_be_replayed(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    live.crm.fail(&live.db, "write", "validation", 1000).await;
    live.db.execute("SET pg_crm.actor = 'dana@acme'").await;
    let written = live
        .write("p1", json!({"phone": "refused"}))
        .await
        .expect_pending("validation");
    eventually("a dead letter", async || {
        (live.db.count("crm.dead_letters").await == 1).then_some(())
    })
    .await;
    assert_eq!(live.state_of(&written.write_id).await, "dead");
    let waiting = live
        .db
        .text("SELECT to_jsonb(p) FROM crm.pending_writes p")
        .await;
    let snapshot = format!("\"{}\": \"+1\"", vendor.field("phone"));
    for word in [
        "\"state\": \"dead\"",
        "validation",
        "dana@acme",
        "\"attempts\": 1",
        "phone",
        &snapshot,
    ] {
        assert!(waiting.contains(word), "{word} is not in {waiting}");
    }
    let letter = live
        .db
        .text("SELECT to_jsonb(d) FROM crm.dead_letters d")
        .await;
    for word in ["\"path\": \"reconcile\"", "validation", "dana@acme"] {
        assert!(letter.contains(word), "{word} is not in {letter}");
    }
    let state =
        "SELECT state FROM crm.cell_status WHERE record_key = 'p1' AND column_name = 'phone'";
    assert_eq!(live.db.one::<String>(state, &[]).await, "dead");
    assert_eq!(live.cell("p1", "phone").await, "refused");
    live.db.assert_checked().await;
    // Another call goes into the same edit, and revives it: what is dead then is another letter.
    let first: i64 = live
        .db
        .one("SELECT dead_letter_id FROM crm.dead_letters", &[])
        .await;
    live.write("p1", json!({"first_name": "Second"}))
        .await
        .expect("pending");
    let again = format!("crm.dead_letters WHERE dead_letter_id <> {first}");
    eventually("it is dead again", async || {
        (live.db.count(&again).await == 1).then_some(())
    })
    .await;
    live.crm.relent(&live.db).await;
    live.db
        .execute("SELECT crm.replay(dead_letter_id) FROM crm.dead_letters")
        .await;
    live.agree().await;
    live.assert_both("p1", "phone", "refused").await;
    assert_eq!(live.state_of(&written.write_id).await, "committed");
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
}

async fn an_answer_that_was_lost_is_found_by_reading(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    live.crm
        .fail(&live.db, "write", "drop_after_apply", 3)
        .await;
    let written = live.write("p1", json!({"phone": "+2"})).await;
    assert!(
        ["committed", "pending"].contains(&written.outcome.as_str()),
        "{written:?}"
    );
    live.crm.relent(&live.db).await;
    live.agree().await;
    live.assert_both("p1", "phone", "+2").await;
    // Never applied at all.
    live.crm.fail(&live.db, "write", "drop", 3).await;
    live.write("p1", json!({"phone": "+3"}))
        .await
        .expect_pending("transient");
    assert_eq!(live.field("p1", "phone").await, "+2");
    live.crm.relent(&live.db).await;
    live.agree().await;
    live.assert_both("p1", "phone", "+3").await;
}

async fn a_record_that_is_gone_is_no_endless_work(contestant: Contestant) {
    let vendor = contestant.vendor;
    for on_crm_delete in ["unlink", "ignore", "delete"] {
        let live = Live::with(
            &CLUSTER,
            contestant,
            &format!("on_crm_delete => '{on_crm_delete}'"),
            "",
        )
        .await;
        let ids = live.people(2).await;
        live.crm.delete(&live.db, vendor.people(), &ids[0]).await;
        live.write("p1", json!({"phone": "+2"}))
            .await
            .expect_pending("not_found");
        live.quiet().await;
        live.db.assert_checked().await;
        let rows = live
            .db
            .count("people WHERE id = 'p1' AND phone = '+2'")
            .await;
        assert_eq!(rows, i64::from(on_crm_delete != "delete"));
        let audit = live.audit("p1").await;
        let dead = live.db.count("crm.dead_letters").await;
        if on_crm_delete != "ignore" {
            assert_eq!(
                audit.last().map(String::as_str),
                Some("reconcile superseded")
            );
            assert_eq!((live.crm_id("p1").await, dead), (None, 0));
        } else {
            assert_eq!(audit.last().map(String::as_str), Some("reconcile dead"));
            assert_eq!((live.crm_id("p1").await.as_ref(), dead), (Some(&ids[0]), 1));
        }
        live.write("p2", json!({"phone": "+2"}))
            .await
            .expect("committed");
    }
}

async fn what_befalls_a_whole_request_costs_no_record_an_attempt(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(3).await;
    for class in ["transient", "drop", "rate_limited", "auth"] {
        desk.crm.fail(&desk.db, "batch", class, times(class)).await;
        let edit = format!("UPDATE people SET phone = '{class}'");
        desk.db.execute(&edit).await;
        let told = if class == "drop" { "transient" } else { class };
        if class == "auth" {
            assert!(!desk.db.flush().await);
            assert_eq!(desk.state().await, "error");
            let why = "SELECT reason FROM crm.status";
            let why: Option<String> = desk.db.one(why, &[]).await;
            assert!(why.is_some_and(|why| why.contains("rejected")));
            desk.crm.relent(&desk.db).await;
            let credentials = desk.crm.credentials();
            desk.crm.set_credentials(&desk.db, credentials).await;
        }
        desk.settle().await;
        let tried = "SELECT count(*) FILTER (WHERE error_class = $1), max(attempt) FROM crm.audit_log WHERE map_id = $2";
        let tried = desk.db.rows(tried, &[&told, &desk.map]).await;
        let (times, attempt): (i64, Option<i32>) = (tried[0].get(0), tried[0].get(1));
        assert!(times >= 1, "{class} is not in the audit");
        assert_eq!(attempt, Some(1), "{class} cost an attempt");
    }
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    assert_eq!(desk.state().await, "idle");
}

/// The mapping is at fault, and no record: it is shown where the mapping is.
async fn an_error_that_every_record_has_stops_the_map(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    let ids = desk.link(5).await;
    for id in &ids {
        desk.crm
            .refuse(&desk.db, id, "mapping", "as injected")
            .await;
    }
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    eventually("the map is in error", async || {
        let _: bool = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
        (desk.state().await == "error").then_some(())
    })
    .await;
    let why = "SELECT concat(reason, last_error) FROM crm.status_wide";
    let why: String = desk.db.one(why, &[]).await;
    assert!(why.contains("as injected"), "{why}");
    desk.db.assert_checked().await;
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.db.execute("UPDATE people SET phone = 'goes on'").await;
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
}
