//! `crm.alter_map()` and `crm.alter_field()`: a mapping is changed in place, and nothing that
//! waits is lost.

use crm_suites::{Desk, Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(
    a_direction_changes_and_links_and_edits_stay,
    edits_that_would_be_lost_keep_a_direction,
);

/// Links and the ledger stay; what is queued goes as the new mapping says.
async fn a_direction_changes_and_links_and_edits_stay(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.link(2).await;
    desk.settle().await;
    let links = desk
        .db
        .text("SELECT record_key, crm_id FROM crm.ledger ORDER BY 1")
        .await;
    // Nothing goes to the CRM from now on.
    let map = desk.map;
    desk.db
        .execute(&format!(
            "SELECT crm.alter_field({map}, 'phone', direction => 'inbound')"
        ))
        .await;
    desk.db.execute("UPDATE people SET phone = 'mine'").await;
    desk.nothing_goes_out().await;
    // Both ways from now on: the next edit is written, and the values that are there are not.
    let said = desk
        .db
        .notices(&format!(
            "SELECT crm.alter_field({map}, 'phone', direction => 'bidirectional')"
        ))
        .await;
    assert!(
        said.contains("are not sent by this") && said.contains("crm.push("),
        "{said}"
    );
    assert!(said.contains("reads every record again"), "{said}");
    desk.nothing_goes_out().await;
    desk.ingest().await;
    desk.db
        .execute("UPDATE people SET phone = 'both' WHERE id = 'p1'")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.field("p1", "phone").await, "both");
    assert_eq!(
        links,
        desk.db
            .text("SELECT record_key, crm_id FROM crm.ledger ORDER BY 1")
            .await
    );
    desk.db.assert_checked().await;
}

/// An edit that waits is either written or somebody decides about it.
async fn edits_that_would_be_lost_keep_a_direction(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    live.pause().await;
    live.db
        .execute("UPDATE people SET phone = 'waits' WHERE id = 'p1'")
        .await;
    for direction in ["inbound", "outbound"] {
        let alter = format!(
            "SELECT crm.alter_field({}, 'phone', direction => '{direction}')",
            live.map
        );
        let error = live.db.error(&alter).await;
        assert_eq!(error.code().code(), "55006", "{direction}: {error:?}");
        assert!(
            error.detail().unwrap_or_default().starts_with("1 records"),
            "{error:?}"
        );
    }
    // Another column is not concerned.
    let alter = format!(
        "SELECT crm.alter_field({}, 'email', direction => 'outbound')",
        live.map
    );
    live.db.execute(&alter).await;
    live.resume().await;
    live.quiet().await;
    assert_eq!(live.field("p1", "phone").await, "waits");
    let alter = format!(
        "SELECT crm.alter_field({}, 'phone', direction => 'outbound')",
        live.map
    );
    live.db.execute(&alter).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.db
        .execute("UPDATE people SET phone = 'ours' WHERE id = 'p1'")
        .await;
    live.db.drain().await;
    assert_eq!(live.field("p1", "phone").await, "ours");
    live.db.assert_checked().await;
}

#[tokio::test]
async fn options_follow_at_once() {
    let desk = Desk::open_with(
        &CLUSTER,
        Vendor::Stub,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    let map = desk.map;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'One'), ('p2', 'Two')")
        .await;
    desk.settle().await;
    // Triggers: a deleted row does nothing any more, and TRUNCATE is allowed.
    let said = desk
        .db
        .notices(&format!("SELECT crm.alter_map({map}, on_delete => 'ignore', on_insert => 'ignore', on_crm_insert => 'insert')"))
        .await;
    assert!(said.contains("crm.backfill("), "{said}");
    // A filter says what it does not do to rows that are there; its removal does nothing to them.
    for (filter, says) in [("notes IS NULL", true), ("", false)] {
        let alter = format!("SELECT crm.alter_map({map}, filter => '{filter}')");
        let said = desk.db.notices(&alter).await;
        let is_said = said.contains("neither created nor released by the new filter");
        assert_eq!(is_said, says, "{said}");
    }
    desk.db.execute("DELETE FROM people WHERE id = 'p2'").await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p3', 'Three')")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.crm.records(&desk.db, "contact").await.len(), 2);
    // Schedules.
    let minutes = "SELECT (extract(epoch FROM next_write_at - now()) / 60)::int FROM crm.map_state";
    desk.db
        .execute(&format!(
            "SELECT crm.alter_map({map}, write_interval => '24 hours')"
        ))
        .await;
    assert!(desk.db.one::<i32>(minutes, &[]).await > 1400);
    desk.db
        .execute(&format!(
            "SELECT crm.alter_map({map}, write_interval => '1 minute')"
        ))
        .await;
    assert!(desk.db.one::<i32>(minutes, &[]).await <= 1);
    // Validation.
    desk.db
        .execute(&format!(
            r#"SELECT crm.alter_field({map}, 'phone', validation => '{{"max_length": 3}}')"#
        ))
        .await;
    let error = desk
        .db
        .error("UPDATE people SET phone = 'long' WHERE id = 'p1'")
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    assert!(
        error
            .hint()
            .unwrap_or_default()
            .contains("crm.alter_field()"),
        "{error:?}"
    );
    desk.db
        .execute(&format!(
            r#"SELECT crm.alter_field({map}, 'phone', validation => '{{"max_length": null}}')"#
        ))
        .await;
    desk.db
        .execute("UPDATE people SET phone = 'long' WHERE id = 'p1'")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.field("p1", "phone").await, "long");
    desk.db.assert_checked().await;
}

/// A creation that is repeated by another key would make a second record.
#[tokio::test]
async fn creations_keep_the_field_of_the_key() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    desk.db
        .execute("SELECT crm_stub.inject('stub', 'transient', 100, operation => 'write'); INSERT INTO people (id, last_name) VALUES ('p1', 'One')")
        .await;
    let alter = format!(
        "SELECT crm.alter_map({}, external_id_field => '', on_insert => 'ignore')",
        desk.map
    );
    desk.db.execute("SELECT crm.flush(timeout => '1 s')").await;
    let folded = async || (desk.db.count("crm.queue").await == 1).then_some(());
    crm_suites::eventually("it is queued", folded).await;
    let error = desk.db.error(&alter).await;
    assert_eq!(error.code().code(), "55006", "{error:?}");
    desk.db
        .execute("SELECT crm_stub.inject('stub', NULL, 0); SELECT crm.resume('stub')")
        .await;
    desk.settle().await;
    desk.db.execute(&alter).await;
    desk.db.assert_checked().await;
}

/// A rule that rows break already binds the next edits alone; how many break it is said.
#[tokio::test]
async fn a_stricter_rule_says_how_many_rows_break_it() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute("INSERT INTO people (id, last_name, phone) SELECT 'p' || n, 'x', repeat('1', n) FROM generate_series(1, 10) n")
        .await;
    let alter = |rules: &str| {
        format!(
            "SELECT crm.alter_field({}, 'phone', validation => '{rules}')",
            desk.map
        )
    };
    let said = desk.db.notices(&alter(r#"{"max_length": 4}"#)).await;
    assert!(said.contains("6 of 10 rows"), "{said}");
    let said = desk.db.notices(&alter(r#"{"max_length": 20}"#)).await;
    assert_eq!(said, "");
    desk.db
        .execute("UPDATE people SET phone = NULL WHERE id = 'p1'")
        .await;
    let said = desk.db.notices(&alter(r#"{"nullable": false}"#)).await;
    assert!(said.contains("1 of 10 rows"), "{said}");
    desk.db.assert_checked().await;
}

/// Superusers too change the configuration by its functions, which know what has to follow.
#[tokio::test]
async fn the_configuration_is_changed_by_its_functions() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    for (sql, function) in [
        (
            "UPDATE crm.connection SET base_url = 'http://elsewhere.example'",
            "crm.alter_connection()",
        ),
        (
            "UPDATE crm.object_map SET on_delete = 'delete'",
            "crm.alter_map()",
        ),
        (
            "UPDATE crm.field_map SET direction = 'inbound'",
            "crm.alter_field()",
        ),
        ("DELETE FROM crm.field_map", "crm.unmap_field()"),
        (
            "UPDATE crm.credential SET secret = '{}'",
            "crm.set_credentials()",
        ),
        ("TRUNCATE crm.object_map CASCADE", "crm.unmap_object()"),
        (
            "INSERT INTO crm.field_map (map_id, field_id, column_name, crm_field, data_type) VALUES (1, 9, 'notes', 'notes', 'text')",
            "crm.map_field()",
        ),
    ] {
        let error = desk.db.error(sql).await;
        assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
        assert!(
            error.hint().unwrap_or_default().contains(function),
            "{sql}: {error:?}"
        );
    }
}

/// A person whose score both sides agree on, in a CRM that nothing is sent to for now.
async fn agreed_and_paused(arguments: &str) -> Live {
    let live = Live::with(&CLUSTER, Vendor::Stub, arguments, "").await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", "").await;
    live.people(1).await;
    live.db.execute("UPDATE people SET score = 12.5").await;
    live.quiet().await;
    live.ingest().await;
    live.pause().await;
    live
}

async fn retype_the_score(live: &Live, data_type: &str) {
    let sql = format!(
        "SELECT crm.alter_field({}, 'score', data_type => '{data_type}')",
        live.map
    );
    live.db.execute(&sql).await;
}

#[tokio::test]
async fn edits_that_wait_while_a_field_is_retyped_reach_the_crm() {
    let live = agreed_and_paused("on_insert => 'ignore'").await;
    live.crm.fail(&live.db, "write", "transient", 1000).await;
    live.resume().await;
    // One of another column, which is compared with the whole record, and one of the column.
    live.write("p1", json!({"email": "ada@c.example"}))
        .await
        .expect("pending");
    live.db
        .execute("UPDATE people SET phone = '+9', score = 13.5")
        .await;
    eventually("the edits are folded", async || {
        (live.db.count("crm.change").await == 0).then_some(())
    })
    .await;
    retype_the_score(&live, "text").await;
    live.crm.relent(&live.db).await;
    live.quiet().await;
    live.assert_both("p1", "phone", "+9").await;
    live.assert_both("p1", "email", "ada@c.example").await;
    assert_eq!(live.cell("p1", "score").await, json!(13.5));
    assert_eq!(live.field("p1", "score").await, "13.5");
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    // And one that is made before the record is read again.
    live.pause().await;
    retype_the_score(&live, "number").await;
    live.db.execute("UPDATE people SET score = 14.5").await;
    live.resume().await;
    live.quiet().await;
    assert_eq!(live.field("p1", "score").await, json!(14.5));
    live.ingest().await;
    assert_eq!(live.cell("p1", "score").await, json!(14.5));
    let lost = "crm.audit_log WHERE result IN ('superseded', 'conflict')";
    assert_eq!(live.db.count(lost).await, 0);
    live.db.assert_checked().await;
}

#[tokio::test]
async fn edits_of_both_sides_around_a_retyped_field_are_for_a_person_to_settle() {
    for by_call in [false, true] {
        let live = agreed_and_paused("on_insert => 'ignore'").await;
        live.edit_in_crm("p1", json!({"score": 99})).await;
        if by_call {
            live.write("p1", json!({"score": 13.5}))
                .await
                .expect("pending");
        } else {
            live.db.execute("UPDATE people SET score = 13.5").await;
        }
        retype_the_score(&live, "text").await;
        live.resume().await;
        live.quiet().await;
        live.ingest().await;
        live.quiet().await;
        assert_eq!(live.cell("p1", "score").await, json!(13.5));
        assert_eq!(live.field("p1", "score").await, json!(99));
        let sql =
            "SELECT conflict_type || ' ' || local_value || ' ' || crm_value FROM crm.conflicts";
        assert_eq!(live.db.text(sql).await, r#"stale_write "13.5" "99""#);
        live.db.assert_checked().await;
    }
}
