//! Changes on both sides, and what waits for a person.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    an_edit_that_waits_is_settled_by_its_policy,
    a_locked_field_is_a_conflict,
    a_conflict_shows_what_the_crm_holds_by_now,
    nobody_knows_which_is_newer,
    what_changed_behind_capture_is_settled_by_its_policy,
    an_edit_while_a_page_is_on_its_way_is_not_undone,
    a_record_that_somebody_holds_comes_later,
    what_would_have_to_wait_keeps_nobody_waiting,
    a_write_that_landed_unheard_is_no_change_of_the_crm,
    an_edit_after_a_write_that_landed_unheard_is_not_lost,
    an_edit_after_a_call_that_landed_unheard_is_not_lost,
);

async fn of_policy(vendor: Vendor, policy: &str) -> Live {
    let live = Live::with(
        &CLUSTER,
        vendor,
        "on_insert => 'ignore'",
        &format!("on_conflict => '{policy}'"),
    )
    .await;
    live.people(2).await;
    live.ingest().await;
    live
}

async fn an_edit_that_waits_is_settled_by_its_policy(vendor: Vendor) {
    for (policy, winner) in [("crm_wins", "theirs"), ("local_wins", "ours")] {
        let live = of_policy(vendor, policy).await;
        // The CRM changes while our edit cannot be written.
        live.crm.fail(&live.db, "write", "transient", 1000).await;
        live.db
            .execute("UPDATE people SET phone = 'ours' WHERE id = 'p1'")
            .await;
        live.edit_in_crm("p1", json!({"phone": "theirs", "first_name": "Augusta"}))
            .await;
        let _: bool = live
            .db
            .one("SELECT crm.ingest_now(timeout => '2 s')", &[])
            .await;
        live.mend().await;
        let name = vendor.name();
        live.db
            .execute(&format!("SELECT crm.resume('{name}')"))
            .await;
        live.quiet().await;
        live.ingest().await;
        live.agree().await;
        live.assert_both("p1", "phone", winner).await;
        live.assert_both("p1", "first_name", "Augusta").await;
    }
}

async fn a_locked_field_is_a_conflict(vendor: Vendor) {
    let live = of_policy(vendor, "immutable_after_bind").await;
    live.edit_in_crm("p1", json!({"phone": "moved"})).await;
    live.ingest().await;
    let conflict = "SELECT conflict_type || ' ' || column_name || ' ' || (local_value #>> '{}') || ' ' || (crm_value #>> '{}') FROM crm.conflicts";
    assert_eq!(live.db.text(conflict).await, "locked_field phone +1 moved");
    assert_eq!(live.cell("p1", "phone").await, "+1");
    let rows = live.audit_rows().await;
    live.ingest().await;
    assert_eq!(live.audit_rows().await, rows);
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts")
        .await;
    live.quiet().await;
    live.assert_both("p1", "phone", "+1").await;
    live.ingest().await;
    live.agree().await;
}

async fn a_conflict_shows_what_the_crm_holds_by_now(vendor: Vendor) {
    let live = of_policy(vendor, "manual_review").await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.db
        .execute("UPDATE people SET phone = 'ours' WHERE id = 'p1'")
        .await;
    live.quiet().await;
    let conflict = "SELECT conflict_type || ' ' || (crm_value #>> '{}') FROM crm.conflicts";
    assert_eq!(live.db.text(conflict).await, "stale_write theirs");
    live.edit_in_crm("p1", json!({"phone": "theirs again"}))
        .await;
    live.ingest().await;
    assert_eq!(live.db.text(conflict).await, "stale_write theirs again");
    assert_eq!(live.cell("p1", "phone").await, "ours");
    // They come to hold the same: nothing is left to decide.
    live.edit_in_crm("p1", json!({"phone": "ours"})).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    live.agree().await;
}

async fn what_changed_behind_capture_is_settled_by_its_policy(vendor: Vendor) {
    for (policy, row, crm) in [
        ("crm_wins", "theirs", "theirs"),
        ("local_wins", "behind", "behind"),
        ("manual_review", "behind", "theirs"),
    ] {
        let live = of_policy(vendor, policy).await;
        live.db
            .execute(
                "BEGIN;
                 SET LOCAL session_replication_role = replica;
                 UPDATE people SET phone = 'behind' WHERE id = 'p1';
                 COMMIT",
            )
            .await;
        live.edit_in_crm("p1", json!({"phone": "theirs", "first_name": "Augusta"}))
            .await;
        live.ingest().await;
        live.quiet().await;
        live.ingest().await;
        assert_eq!(live.cell("p1", "phone").await, row, "{policy}");
        live.assert_both("p1", "first_name", "Augusta").await;
        if row != crm {
            let conflict = "SELECT conflict_type || ' ' || (local_value #>> '{}') || ' ' || (crm_value #>> '{}') FROM crm.conflicts";
            assert_eq!(live.db.text(conflict).await, "stale_write behind theirs");
            live.db
                .execute("SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts")
                .await;
            live.quiet().await;
        }
        live.assert_both("p1", "phone", row).await;
        live.agree().await;
        let lost = "SELECT count(*) FROM crm.audit_log WHERE path = 'ingest' AND result = 'applied' AND fields::text LIKE '%behind%'";
        let is_lost = policy == "crm_wins";
        assert_eq!(
            live.db.one::<i64>(lost, &[]).await,
            i64::from(is_lost),
            "{policy}"
        );
    }
}

async fn nobody_knows_which_is_newer(vendor: Vendor) {
    let live = Live::with(
        &CLUSTER,
        vendor,
        "on_insert => 'ignore'",
        "on_conflict => 'manual_review'",
    )
    .await;
    live.link(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.ingest().await;
    let conflict = "SELECT conflict_type || ' ' || (local_value #>> '{}') || ' ' || (crm_value #>> '{}') FROM crm.conflicts";
    assert_eq!(live.db.text(conflict).await, "unknown_base +47 1 theirs");
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'crm') FROM crm.conflicts")
        .await;
    live.quiet().await;
    live.agree().await;
    live.assert_both("p1", "phone", "theirs").await;
}

/// What the page says was true when the CRM was asked, and is not any more.
async fn an_edit_while_a_page_is_on_its_way_is_not_undone(vendor: Vendor) {
    if vendor == Vendor::Stub {
        return;
    }
    let live = of_policy(vendor, "crm_wins").await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    let page = live.page_on_its_way().await;
    // Somebody saw what the CRM holds, and writes over it before the page is there.
    live.write_with("p1", json!({"phone": "newest"}), "force => true")
        .await
        .expect("committed");
    page.await.expect("the look");
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "newest").await;
}

async fn a_record_that_somebody_holds_comes_later(vendor: Vendor) {
    let live = of_policy(vendor, "crm_wins").await;
    let holder = live.db.session().await;
    holder
        .execute("BEGIN; SELECT FROM people WHERE id = 'p1' FOR UPDATE")
        .await;
    for key in ["p1", "p2"] {
        live.edit_in_crm(key, json!({"phone": "theirs"})).await;
    }
    assert!(
        !live
            .db
            .one::<bool>("SELECT crm.ingest_now(timeout => '2 s')", &[])
            .await
    );
    assert_eq!(live.cell("p2", "phone").await, "theirs");
    holder.execute("COMMIT").await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "theirs").await;
}

async fn a_write_that_landed_unheard_is_no_change_of_the_crm(vendor: Vendor) {
    let live = of_policy(vendor, "manual_review").await;
    live.crm
        .fail(&live.db, "write", "drop_after_apply", 1)
        .await;
    live.db
        .execute("UPDATE people SET phone = 'unheard' WHERE id = 'p1'")
        .await;
    live.ingest().await;
    live.mend().await;
    live.db
        .execute(&format!("SELECT crm.resume('{}')", vendor.name()))
        .await;
    live.quiet().await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "unheard").await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
}

/// The CRM holds our own first edit, which nobody but us made: the second one is written over it.
async fn an_edit_after_a_write_that_landed_unheard_is_not_lost(vendor: Vendor) {
    let live = of_policy(vendor, "crm_wins").await;
    live.crm
        .fail(&live.db, "write", "drop_after_apply", 1)
        .await;
    live.db
        .execute("UPDATE people SET phone = 'first' WHERE id = 'p1'")
        .await;
    eventually("the first one arrived", async || {
        (live.field("p1", "phone").await == "first").then_some(())
    })
    .await;
    live.db
        .execute("UPDATE people SET phone = 'second' WHERE id = 'p1'")
        .await;
    live.mend().await;
    live.db
        .execute(&format!("SELECT crm.resume('{}')", vendor.name()))
        .await;
    live.quiet().await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "second").await;
}

/// The row itself is free, but what it refers to is held.
async fn what_would_have_to_wait_keeps_nobody_waiting(vendor: Vendor) {
    let live = of_policy(vendor, "crm_wins").await;
    live.db
        .execute(
            "CREATE TABLE phones (phone text PRIMARY KEY);
             INSERT INTO phones VALUES ('+1'), ('held'), ('free');
             ALTER TABLE people ADD FOREIGN KEY (phone) REFERENCES phones",
        )
        .await;
    let holder = live.db.session().await;
    holder
        .execute("BEGIN; UPDATE phones SET phone = 'held' WHERE phone = 'held'; SELECT FROM phones WHERE phone = 'held' FOR UPDATE")
        .await;
    live.edit_in_crm("p1", json!({"phone": "held"})).await;
    live.edit_in_crm("p2", json!({"phone": "free"})).await;
    assert!(
        !live
            .db
            .one::<bool>("SELECT crm.ingest_now(timeout => '3 s')", &[])
            .await
    );
    assert_eq!(live.cell("p2", "phone").await, "free");
    assert_eq!(live.cell("p1", "phone").await, "+1");
    holder.execute("COMMIT").await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "held").await;
}

async fn an_edit_after_a_call_that_landed_unheard_is_not_lost(vendor: Vendor) {
    let live = of_policy(vendor, "crm_wins").await;
    live.crm
        .fail(&live.db, "write", "drop_after_apply", 1)
        .await;
    live.write("p1", json!({"phone": "first"}))
        .await
        .expect("pending");
    assert_eq!(live.field("p1", "phone").await, "first");
    live.db
        .execute("UPDATE people SET phone = 'second' WHERE id = 'p1'")
        .await;
    live.mend().await;
    live.db
        .execute(&format!("SELECT crm.resume('{}')", vendor.name()))
        .await;
    live.quiet().await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "second").await;
}
