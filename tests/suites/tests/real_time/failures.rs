//! The CRM does not take the edit: the row has it, it waits, and it arrives.

use std::time::{Duration, Instant};

use crm_suites::eventually::promptly;
use crm_suites::{Cluster, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    whatever_the_error_the_row_has_the_edit_and_the_crm_gets_it,
    what_no_retry_can_mend_is_a_dead_letter_that_can_be_replayed,
    an_answer_that_was_lost_is_found_by_reading,
    a_record_without_a_link_waits_for_it,
    a_connection_that_stands_still_makes_nobody_wait,
    a_record_that_is_gone_is_no_endless_work,
    a_crm_that_does_not_answer_keeps_nobody_for_long,
);

async fn whatever_the_error_the_row_has_the_edit_and_the_crm_gets_it(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
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
        live.crm.fail(&live.db, "write", class, 1).await;
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

async fn what_no_retry_can_mend_is_a_dead_letter_that_can_be_replayed(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
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
    // Another call goes into the same edit, and revives it.
    live.write("p1", json!({"first_name": "Second"}))
        .await
        .expect("pending");
    eventually("it is dead again", async || {
        (live.db.count("crm.dead_letters").await == 1).then_some(())
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

async fn an_answer_that_was_lost_is_found_by_reading(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
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

async fn a_record_without_a_link_waits_for_it(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.db
        .execute("INSERT INTO people (id, last_name, phone) VALUES ('p1', 'New', '+1')")
        .await;
    let written = live
        .write("p1", json!({"phone": "+2"}))
        .await
        .expect_pending("not_found");
    assert_eq!(live.cell("p1", "phone").await, "+2");
    eventually("it waits for a link", async || {
        (live.state_of(&written.write_id).await == "unlinked").then_some(())
    })
    .await;
    let shown = "SELECT unlinked FROM crm.status";
    let _: i64 = live.db.one(shown, &[]).await;
    live.db.assert_checked().await;
    let person = json!({"last_name": "New", "phone": "+1"});
    let ids = live
        .crm
        .create(
            &live.db,
            vendor.people(),
            &[person.as_object().unwrap().clone()],
        )
        .await;
    live.db
        .rows("SELECT crm.link($1, 'p1', $2)", &[&live.map, &ids[0]])
        .await;
    live.agree().await;
    live.assert_both("p1", "phone", "+2").await;
    assert_eq!(live.state_of(&written.write_id).await, "committed");
}

async fn a_connection_that_stands_still_makes_nobody_wait(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    let name = vendor.name();
    live.db
        .execute(&format!("SELECT crm.pause('{name}')"))
        .await;
    let paused = async || {
        let written = live.write("p1", json!({"phone": "paused"})).await;
        (written.outcome == "pending"
            && written
                .error
                .as_deref()
                .is_some_and(|e| e.contains("paused") || e.contains("waits")))
        .then_some(())
    };
    promptly(
        Duration::from_secs(5),
        "no waiting for a paused connection",
        eventually("paused", paused),
    )
    .await;
    assert_ne!(live.field("p1", "phone").await, "paused");
    live.db.assert_checked().await;
    live.db
        .execute(&format!("SELECT crm.resume('{name}')"))
        .await;
    live.agree().await;

    // Told to wait for a minute: who comes next is not sent at all.
    if vendor != Vendor::Stub {
        live.crm.fail(&live.db, "write", "rate_limited", 1).await;
        live.write("p1", json!({"phone": "first"}))
            .await
            .expect_pending("rate_limited");
        live.crm.forget(&live.db).await;
        let start = Instant::now();
        live.write("p1", json!({"phone": "second"}))
            .await
            .expect("pending");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
        live.agree().await;
        live.assert_both("p1", "phone", "second").await;
    }
}

async fn a_record_that_is_gone_is_no_endless_work(vendor: Vendor) {
    for on_crm_delete in ["unlink", "ignore", "delete"] {
        let live = Live::with(
            &CLUSTER,
            vendor,
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

async fn a_crm_that_does_not_answer_keeps_nobody_for_long(vendor: Vendor) {
    if vendor == Vendor::Stub {
        return;
    }
    let cluster = Cluster::with(&[("pg_crm.request_timeout", "500ms")]);
    let live = Live::open(&cluster, vendor).await;
    live.people(1).await;
    let mut fault = live.crm.matching("write");
    fault["delay_ms"] = json!(3000);
    fault["times"] = json!("unlimited");
    live.crm.fault(fault);
    let start = Instant::now();
    live.write("p1", json!({"phone": "late"}))
        .await
        .expect_pending("transient");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    live.crm.relent(&live.db).await;
    live.agree().await;
    live.assert_both("p1", "phone", "late").await;
}
