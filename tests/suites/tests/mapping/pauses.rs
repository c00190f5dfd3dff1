//! Pausing and resuming a map, giving up dead letters, and deciding about many conflicts.

use crm_suites::{Desk, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    a_map_is_paused_and_its_neighbour_is_not,
    a_discarded_edit_is_left_alone
);

async fn a_map_is_paused_and_its_neighbour_is_not(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    let map = live.map;
    live.db.execute(&format!("SELECT crm.pause({map})")).await;
    live.db
        .execute("UPDATE people SET phone = 'waits' WHERE id = 'p1'")
        .await;
    let written = live
        .write("p2", json!({"phone": "by a call"}))
        .await
        .expect_pending("transient");
    assert!(written.error.unwrap_or_default().contains("paused"));
    let said = live
        .db
        .notices("SELECT crm.flush(timeout => '1 s'), crm.ingest_now(timeout => '1 s')")
        .await;
    assert_eq!(said.matches("map paused").count(), 2, "{said}");
    assert_eq!(
        live.db.text("SELECT state, reason FROM crm.status").await,
        "idle | map paused"
    );
    assert_eq!(live.field("p1", "phone").await, "+1");
    // At once, not with the next round.
    let said = live.db.notices(&format!("SELECT crm.resume({map})")).await;
    assert!(said.contains("not paused any more"), "{said}");
    eventually("they are sent", async || {
        (live.field("p1", "phone").await == "waits"
            && live.field("p2", "phone").await == "by a call")
            .then_some(())
    })
    .await;
    live.quiet().await;
    live.db.assert_checked().await;
}

/// What is queued outbound goes at once too, and a connection in error is tested.
#[tokio::test]
async fn resuming_a_connection_says_what_it_did() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(1).await;
    desk.settle().await;
    desk.db
        .execute("SELECT crm.pause('salesforce'); UPDATE people SET phone = 'waits'")
        .await;
    let said = desk.db.notices("SELECT crm.resume('salesforce')").await;
    assert!(
        said.contains("not paused any more") && said.contains("1 changes"),
        "{said}"
    );
    eventually("it is sent", async || {
        (desk.field("p1", "phone").await == "waits").then_some(())
    })
    .await;
    // Refused credentials, which the CRM takes again later.
    desk.crm.fault(
        json!({"status": 401, "times": 1000, "body": [{"errorCode": "INVALID_SESSION_ID", "message": "expired"}]}),
    );
    desk.db.execute("UPDATE people SET phone = 'refused'").await;
    let state = "SELECT state FROM crm.connections";
    eventually("the connection is in error", async || {
        desk.db
            .execute("SELECT crm.flush(timeout => '100 ms')")
            .await;
        (desk.db.one::<String>(state, &[]).await == "error").then_some(())
    })
    .await;
    let said = desk.db.notices("SELECT crm.resume('salesforce')").await;
    assert!(said.contains("stays in state error"), "{said}");
    assert_eq!(desk.db.one::<String>(state, &[]).await, "error");
    desk.crm.sim().end_faults();
    let said = desk.db.notices("SELECT crm.resume('salesforce')").await;
    assert!(said.contains("accepts the credentials again"), "{said}");
    eventually("it is sent", async || {
        (desk.field("p1", "phone").await == "refused").then_some(())
    })
    .await;
    desk.settle().await;
}

/// Neither side is touched, nothing reports the difference, and the next edit is written.
async fn a_discarded_edit_is_left_alone(vendor: Vendor) {
    for direction in ["outbound", "bidirectional"] {
        let desk = Desk::open(&CLUSTER, vendor).await;
        desk.link(2).await;
        desk.map_field("phone", "").await;
        desk.db
            .execute(&format!(
                "SELECT crm.alter_field({}, 'phone', direction => '{direction}')",
                desk.map
            ))
            .await;
        desk.db.execute("UPDATE people SET phone = 'before'").await;
        desk.settle().await;
        desk.crm.fail(&desk.db, "write", "validation", 1).await;
        desk.db
            .execute("UPDATE people SET phone = 'refused' WHERE id = 'p1'")
            .await;
        let letter = eventually("a dead letter", async || {
            desk.db
                .execute("SELECT crm.flush(timeout => '100 ms')")
                .await;
            desk.db
                .all::<i64>("SELECT dead_letter_id FROM crm.dead_letters", &[])
                .await
                .pop()
        })
        .await;
        desk.crm.relent(&desk.db).await;
        let error = desk
            .db
            .error(&format!("SELECT crm.discard({letter}, ' ')"))
            .await;
        assert_eq!(error.code().code(), "22023", "{error:?}");
        desk.db
            .execute(&format!("SELECT crm.discard({letter}, 'a typing error')"))
            .await;
        assert_eq!(desk.db.count("crm.dead_letters").await, 0);
        desk.db.drain().await;
        desk.db.assert_checked().await;
        assert_eq!(desk.field("p1", "phone").await, "before", "{direction}");
        let audited = "SELECT error FROM crm.audit_log WHERE result = 'discarded'";
        assert_eq!(desk.db.text(audited).await, "a typing error");
        let state =
            "SELECT state FROM crm.cell_status WHERE record_key = 'p1' AND column_name = 'phone'";
        assert_eq!(desk.db.text(state).await, "never synced");
        desk.ingest().await;
        desk.db
            .execute("UPDATE people SET phone = 'after' WHERE id = 'p1'")
            .await;
        desk.settle().await;
    }
}

#[tokio::test]
async fn dead_letters_are_replayed_by_class_map_and_time() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(3).await;
    desk.settle().await;
    desk.db
        .execute("SELECT crm_stub.inject('stub', 'validation', 3); UPDATE people SET phone = 'x'")
        .await;
    eventually("dead letters", async || {
        desk.db
            .execute("SELECT crm.flush(timeout => '100 ms')")
            .await;
        (desk.db.count("crm.dead_letters").await > 0).then_some(())
    })
    .await;
    let dead = desk.db.count("crm.dead_letters").await;
    let replay = |what: &str| format!("SELECT crm.replay({what})");
    let map = desk.map;
    assert_eq!(
        desk.db
            .one::<i64>(&replay("error_class => 'auth'"), &[])
            .await,
        0
    );
    assert_eq!(
        desk.db
            .one::<i64>(&replay("died_until => now() - interval '1 hour'"), &[])
            .await,
        0
    );
    assert_eq!(desk.db.error(&replay("")).await.code().code(), "22023");
    assert_eq!(
        desk.db
            .error(&replay("error_class => 'bad'"))
            .await
            .code()
            .code(),
        "22023"
    );
    assert_eq!(
        desk.db.error(&replay("map_id => 99")).await.code().code(),
        "42704"
    );
    let all = format!(
        "map_id => {map}, error_class => 'validation', died_from => now() - interval '1 hour'"
    );
    assert_eq!(desk.db.one::<i64>(&replay(&all), &[]).await, dead);
    desk.settle().await;
}

#[tokio::test]
async fn conflicts_are_decided_in_bulk_or_by_a_value_of_ones_own() {
    let live = Live::with(
        &CLUSTER,
        Vendor::HubSpot,
        "on_insert => 'ignore'",
        "on_conflict => 'manual_review'",
    )
    .await;
    live.people(4).await;
    let both = async |phone: &str, theirs: &str| {
        live.pause().await;
        for n in 1..=4 {
            live.edit_in_crm(&format!("p{n}"), json!({"phone": theirs}))
                .await;
        }
        live.db
            .execute(&format!("UPDATE people SET phone = '{phone}'"))
            .await;
        live.resume().await;
        eventually("four conflicts", async || {
            (live.db.count("crm.conflicts").await == 4).then_some(())
        })
        .await;
    };
    both("ours", "theirs").await;
    let sql = format!("SELECT crm.resolve_conflicts({}, 'email', 'crm')", live.map);
    assert_eq!(live.db.one::<i64>(&sql, &[]).await, 0);
    let sql = format!("SELECT crm.resolve_conflicts({}, 'phone', 'crm')", live.map);
    assert_eq!(live.db.one::<i64>(&sql, &[]).await, 4);
    live.quiet().await;
    live.assert_both("p3", "phone", "theirs").await;
    live.db.assert_checked().await;

    both("ours again", "theirs again").await;
    let id: i64 = live
        .db
        .one(
            "SELECT conflict_id FROM crm.conflicts WHERE record_key = 'p1'",
            &[],
        )
        .await;
    for wrong in ["'value'", "'crm', '\"x\"'", "'value', NULL"] {
        let error = live
            .db
            .error(&format!("SELECT crm.resolve_conflict({id}, {wrong})"))
            .await;
        assert_eq!(error.code().code(), "22023", "{wrong}: {error:?}");
    }
    live.db
        .execute(&format!(
            "SELECT crm.resolve_conflict({id}, 'value', '\"agreed\"')"
        ))
        .await;
    live.quiet().await;
    live.assert_both("p1", "phone", "agreed").await;
    let sql = format!(
        "SELECT crm.resolve_conflicts({}, winner => 'local')",
        live.map
    );
    assert_eq!(live.db.one::<i64>(&sql, &[]).await, 3);
    live.quiet().await;
    live.assert_both("p2", "phone", "ours again").await;
    live.db.assert_checked().await;
}
