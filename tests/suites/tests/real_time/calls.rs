//! `crm.write()`: read, compared, written, told.

use crm_suites::{Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    what_matches_is_committed_on_both_sides,
    a_mismatch_is_a_conflict_and_changes_nothing,
    the_base_that_is_given_is_what_is_compared,
    only_changed_fields_are_compared_in_scope_fields,
    a_failed_read_does_not_hold_up_the_write,
    what_the_crm_holds_is_read_live,
);
crm_suites::with_more_crms!(
    what_matches_is_committed_on_both_sides,
    a_mismatch_is_a_conflict_and_changes_nothing,
    the_base_that_is_given_is_what_is_compared,
    only_changed_fields_are_compared_in_scope_fields,
    a_failed_read_does_not_hold_up_the_write,
    what_the_crm_holds_is_read_live,
);

async fn what_matches_is_committed_on_both_sides(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let ids = live.link(2).await;
    live.db.execute("SET pg_crm.actor = 'dana@acme'").await;
    let written = live
        .write_with(
            "p1",
            json!({"phone": "+49 30", "first_name": "Grace"}),
            "correlation_id => 'c-1'",
        )
        .await
        .expect("committed");
    live.assert_both("p1", "phone", "+49 30").await;
    live.assert_both("p1", "first_name", "Grace").await;
    assert_eq!(live.cell("p2", "phone").await, "+47 2");
    assert_eq!(
        written.values,
        json!({"first_name": "Grace", "last_name": "Last 1", "email": "p1@example.com", "phone": "+49 30"})
    );
    assert_eq!((written.class, written.error), (None, None));
    let object = Json::Object(live.record("p1").await);
    let hash: Option<Vec<u8>> = live
        .db
        .one("SELECT crm.snapshot_hash($1, $2)", &[&live.map, &object])
        .await;
    assert_eq!(written.hash, hash);

    assert_eq!(live.state_of(&written.write_id).await, "committed");
    let audit: Json = live
        .db
        .one(
            "SELECT to_jsonb(a) FROM crm.audit_log a WHERE write_id = $1::text::uuid",
            &[&written.write_id],
        )
        .await;
    for (name, value) in [
        ("path", json!("realtime")),
        ("operation", json!("update")),
        ("result", json!("applied")),
        ("actor", json!("postgres/dana@acme")),
        ("correlation_id", json!("c-1")),
        ("record_key", json!("p1")),
        ("crm_id", json!(ids[0])),
    ] {
        assert_eq!(audit[name], value, "{name}: {audit}");
    }
    assert!(audit["request_id"].is_string(), "{audit}");
    assert_eq!(
        audit["fields"][vendor.field("phone")],
        json!({"new": "+49 30", "old": "+47 1"})
    );
    let state = "SELECT string_agg(state, ',' ORDER BY column_name) FROM crm.cell_status WHERE record_key = 'p1'";
    assert_eq!(
        live.db.one::<String>(state, &[]).await,
        "never synced,synced,never synced,synced"
    );
    assert_eq!(live.db.count("crm.pending_writes").await, 0);
    assert_eq!(live.db.dirty().await, 0);

    // Our own write is no news: neither to the next edit nor to the batch.
    live.crm.forget(&live.db).await;
    assert!(live.db.flush().await);
    assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
    live.write("p1", json!({"phone": "+49 31"}))
        .await
        .expect("committed");
    live.agree().await;
}

async fn a_mismatch_is_a_conflict_and_changes_nothing(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    let before = live.record("p1").await;
    // Another field than the one that changed: the record as a whole is what the edit is based on.
    for changes in [json!({"phone": "ours"}), json!({"first_name": "Ours"})] {
        let written = live.write("p1", changes).await.expect("conflict");
        assert_eq!(written.class.as_deref(), Some("conflict"), "{written:?}");
        assert_eq!(written.values["phone"], "theirs");
        assert_eq!(written.values["last_name"], "Byron p1");
        let object = Json::Object(before.clone());
        let hash: Option<Vec<u8>> = live
            .db
            .one("SELECT crm.snapshot_hash($1, $2)", &[&live.map, &object])
            .await;
        assert_eq!(written.hash, hash);
        assert_eq!(live.state_of(&written.write_id).await, "conflict");
        let differs = "SELECT fields -> $2 FROM crm.audit_log WHERE result = 'conflict' AND write_id = $1::text::uuid";
        let differs: Json = live
            .db
            .one(differs, &[&written.write_id, &vendor.field("phone")])
            .await;
        assert_eq!(differs["old"], "theirs");
    }
    assert_eq!(live.cell("p1", "phone").await, "+1");
    assert_eq!(live.cell("p1", "first_name").await, "Ada");
    assert_eq!(live.record("p1").await, before);
    assert_eq!(live.db.count("crm.pending_writes").await, 0);
    assert_eq!(
        live.db.count("crm.conflicts").await,
        0,
        "the caller decides, not an operator"
    );
    live.db.assert_checked().await;

    let forced = live
        .write_with("p1", json!({"phone": "ours"}), "force => true")
        .await
        .expect("committed");
    live.assert_both("p1", "phone", "ours").await;
    let audit: Json = live
        .db
        .one("SELECT jsonb_build_array(operation, fields -> $2) FROM crm.audit_log WHERE write_id = $1::text::uuid",
             &[&forced.write_id, &vendor.field("phone")])
        .await;
    assert_eq!(
        audit,
        json!(["force", {"new": "ours", "old": "theirs"}]),
        "the loser is in the audit"
    );
    live.write("p1", json!({"first_name": "Next"}))
        .await
        .expect("committed");
    live.agree().await;
}

async fn the_base_that_is_given_is_what_is_compared(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    // What the caller saw is not what is there.
    live.write_with(
        "p1",
        json!({"first_name": "Ours"}),
        r#"base => '{"phone": "+1", "first_name": "Ada"}'"#,
    )
    .await
    .expect("conflict");
    live.write_with(
        "p1",
        json!({"phone": "ours"}),
        r#"base => '{"phone": "+1"}'"#,
    )
    .await
    .expect("conflict");
    live.write_with(
        "p1",
        json!({"phone": "ours"}),
        r#"base => '{"phone": null}'"#,
    )
    .await
    .expect("conflict");
    // Only the fields it names count.
    live.write_with(
        "p1",
        json!({"first_name": "Ours"}),
        r#"base => '{"first_name": "Ada"}'"#,
    )
    .await
    .expect("committed");
    // The caller saw more than we did.
    live.write_with(
        "p1",
        json!({"phone": "ours"}),
        r#"base => '{"phone": "theirs"}'"#,
    )
    .await
    .expect("committed");
    live.agree().await;
}

async fn only_changed_fields_are_compared_in_scope_fields(vendor: Vendor) {
    let live = Live::with(&CLUSTER, vendor, "conflict_scope => 'fields'", "").await;
    live.people(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    let written = live
        .write("p1", json!({"first_name": "Ours"}))
        .await
        .expect("committed");
    assert_eq!(written.values["phone"], "theirs");
    live.write("p1", json!({"phone": "ours", "first_name": "More"}))
        .await
        .expect("conflict");
    live.write_with("p1", json!({"phone": "ours"}), "force => true")
        .await
        .expect("committed");
    live.agree().await;
}

async fn a_failed_read_does_not_hold_up_the_write(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.crm.fail(&live.db, "read", "transient", 5).await;
    let written = live
        .write("p1", json!({"phone": "unseen"}))
        .await
        .expect("committed");
    assert_eq!(written.values, Json::Null, "nobody knows the other fields");
    live.crm.relent(&live.db).await;
    assert_eq!(
        live.audit("p1").await.last().map(String::as_str),
        Some("realtime applied")
    );
    live.agree().await;
}

async fn what_the_crm_holds_is_read_live(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    let read = "SELECT crm.read_live('people', 'p1')";
    assert_eq!(
        live.db.one::<Json>(read, &[]).await,
        json!({"first_name": "Ada", "last_name": "Byron p1", "email": "p1@b.example", "phone": "theirs"})
    );
    assert_eq!(
        live.cell("p1", "phone").await,
        "+1",
        "reading changes nothing"
    );
    live.crm.fail(&live.db, "read", "transient", 10).await;
    let error = live.db.error(read).await;
    assert_eq!(error.code().code(), "08006", "{error:?}");
    assert!(
        error.detail().is_some_and(|d| d.contains("transient")),
        "{error:?}"
    );
    live.crm.relent(&live.db).await;
    assert_eq!(
        live.db
            .error("SELECT crm.read_live('people', 'nobody')")
            .await
            .code()
            .code(),
        "P0002"
    );
    live.db
        .execute("INSERT INTO people (id, last_name) VALUES ('new', 'New')")
        .await;
    assert_eq!(
        live.db
            .error("SELECT crm.read_live('people', 'new')")
            .await
            .code()
            .code(),
        "55000"
    );
    live.crm
        .delete(&live.db, vendor.people(), &live.crm_id("p1").await.unwrap())
        .await;
    let error = live.db.error(read).await;
    assert!(
        error.detail().is_some_and(|d| d.contains("not_found")),
        "{error:?}"
    );
}
