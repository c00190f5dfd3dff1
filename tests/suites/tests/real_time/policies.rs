//! What becomes of a field that both sides changed, by the policy of the field.

use crm_suites::{Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    each_policy_decides_as_it_says,
    what_is_bound_does_not_change,
    the_last_writer_wins_whatever_the_clocks_say,
);

/// What a field's policy decides does not depend on the other fields of the record.
const ONE_BY_ONE: &str = "on_insert => 'ignore', conflict_scope => 'fields'";

async fn each_policy_decides_as_it_says(vendor: Vendor) {
    for (policy, winner) in [
        ("crm_wins", "theirs"),
        ("local_wins", "ours"),
        ("merge_with_audit", "theirs"),
    ] {
        let live = Live::with(
            &CLUSTER,
            vendor,
            ONE_BY_ONE,
            &format!("on_conflict => '{policy}'"),
        )
        .await;
        live.people(3).await;
        both_sides_change(&live).await;
        live.quiet().await;
        live.assert_both("p1", "phone", winner).await;
        // Only ours changed, only theirs did: no policy is asked.
        live.assert_both("p2", "phone", "ours").await;
        live.ingest().await;
        live.assert_both("p3", "phone", "theirs").await;
        live.assert_both("p3", "first_name", "ours").await;
        live.assert_both("p1", "first_name", "ours").await;
        assert_eq!(live.db.count("crm.conflicts").await, 0, "{policy}");
        let phone = vendor.field("phone");
        let losers = format!(
            "SELECT count(*) FROM crm.audit_log WHERE record_key = 'p1' AND (fields #>> '{{{phone},lost}}' = 'ours' OR fields #>> '{{{phone},old}}' = 'theirs')"
        );
        assert_eq!(
            live.db.one::<i64>(&losers, &[]).await,
            1,
            "{policy}: the loser is in the audit"
        );
        live.db.assert_checked().await;
    }
    manual(vendor).await;
}

async fn both_sides_change(live: &Live) {
    let name = live.crm.vendor.name();
    live.db
        .execute(&format!("SELECT crm.pause('{name}')"))
        .await;
    live.edit_in_crm("p1", json!({"phone": "theirs"})).await;
    live.edit_in_crm("p3", json!({"phone": "theirs"})).await;
    live.db
        .execute(&format!(
            "UPDATE people SET phone = 'ours', first_name = 'ours' WHERE id <> 'p3';
             UPDATE people SET first_name = 'ours' WHERE id = 'p3';
             SELECT crm.resume('{name}')"
        ))
        .await;
}

async fn manual(vendor: Vendor) {
    let live = Live::with(
        &CLUSTER,
        vendor,
        ONE_BY_ONE,
        "on_conflict => 'manual_review'",
    )
    .await;
    live.people(3).await;
    live.db.execute("SET pg_crm.actor = 'dana@acme'").await;
    both_sides_change(&live).await;
    live.quiet().await;
    assert_eq!(
        (
            live.cell("p1", "phone").await,
            live.field("p1", "phone").await
        ),
        (json!("ours"), json!("theirs"))
    );
    live.assert_both("p1", "first_name", "ours").await;
    let conflict = live
        .db
        .text("SELECT to_jsonb(c) FROM crm.conflicts c")
        .await;
    for word in [
        "\"conflict_type\": \"stale_write\"",
        "\"local_value\": \"ours\"",
        "\"crm_value\": \"theirs\"",
        "\"base\": \"+1\"",
        "\"policy\": \"manual_review\"",
        "\"record_key\": \"p1\"",
        "\"relation\": \"people\"",
        "dana@acme",
    ] {
        assert!(conflict.contains(word), "{word} is not in {conflict}");
    }
    let state =
        "SELECT state FROM crm.cell_status WHERE record_key = 'p1' AND column_name = 'phone'";
    assert_eq!(live.db.one::<String>(state, &[]).await, "conflict");
    assert_eq!(
        live.db
            .one::<i64>("SELECT conflicts FROM crm.status", &[])
            .await,
        1
    );
    live.db.assert_checked().await;
    // The next edit of another field leaves it alone; one of this field is another conflict, not a
    // second one.
    live.db
        .execute("UPDATE people SET email = 'p1@c.example' WHERE id = 'p1'")
        .await;
    live.quiet().await;
    live.assert_both("p1", "email", "p1@c.example").await;
    live.db
        .execute("UPDATE people SET phone = 'ours too' WHERE id = 'p1'")
        .await;
    live.quiet().await;
    assert_eq!(
        live.field("p1", "phone").await,
        "theirs",
        "neither side is touched"
    );
    assert_eq!(
        live.db.text("SELECT local_value FROM crm.conflicts").await,
        "\"ours too\""
    );
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts")
        .await;
    live.quiet().await;
    live.assert_both("p1", "phone", "ours too").await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    live.db.assert_checked().await;
}

async fn what_is_bound_does_not_change(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.map_field("title", "on_conflict => 'immutable_after_bind'")
        .await;
    live.link(2).await;
    // Empty on both sides, it may be set.
    live.db.execute("UPDATE people SET title = 'Boss'").await;
    live.agree().await;
    live.assert_both("p1", "title", "Boss").await;
    for sql in [
        "UPDATE people SET title = 'Chief'",
        "SELECT crm.write('people', 'p1', '{\"title\": \"Chief\"}', force => true)",
        "UPDATE people SET title = NULL",
    ] {
        let error = live.db.error(sql).await;
        assert_eq!(error.code().code(), "23514", "{sql}: {error:?}");
        assert!(
            error.detail().is_some_and(|d| d.contains("title")
                && d.contains("immutable")
                && d.contains("p1")),
            "{error:?}"
        );
    }
    live.write("p1", json!({"phone": "+2"}))
        .await
        .expect("committed");
    live.db
        .execute("UPDATE people SET title = title, phone = '+3'")
        .await;
    live.agree().await;
    // What the CRM has set meanwhile is a person's affair.
    live.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p3', 'Third')")
        .await;
    let person = json!({"last_name": "Third", "title": "Theirs"});
    let ids = live
        .crm
        .create(
            &live.db,
            vendor.people(),
            &[person.as_object().unwrap().clone()],
        )
        .await;
    live.db
        .rows("SELECT crm.link($1, 'p3', $2)", &[&live.map, &ids[0]])
        .await;
    live.db
        .execute("UPDATE people SET title = 'Ours' WHERE id = 'p3'")
        .await;
    live.quiet().await;
    assert_eq!(live.field("p3", "title").await, "Theirs");
    assert_eq!(
        live.db
            .text("SELECT conflict_type, local_value, crm_value FROM crm.conflicts")
            .await,
        "immutable | \"Ours\" | \"Theirs\""
    );
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'crm') FROM crm.conflicts")
        .await;
    live.quiet().await;
    live.assert_both("p3", "title", "Theirs").await;
    live.db.assert_checked().await;
}

async fn the_last_writer_wins_whatever_the_clocks_say(vendor: Vendor) {
    let skews: &[i64] = if vendor == Vendor::Stub {
        &[0]
    } else {
        &[-7200, 7200]
    };
    for skew in skews {
        let live = Live::with(
            &CLUSTER,
            vendor,
            "on_insert => 'ignore'",
            "on_conflict => 'last_writer_wins'",
        )
        .await;
        if vendor != Vendor::Stub {
            live.crm.sim().post("clock", &json!({"skew_s": skew}));
        }
        live.people(2).await;
        let name = vendor.name();
        live.db
            .execute(&format!(
                "SELECT crm.pause('{name}'); UPDATE people SET phone = 'ours' WHERE id = 'p1'"
            ))
            .await;
        // Their dates are of whole seconds.
        tokio::time::sleep(std::time::Duration::from_millis(2600)).await;
        live.edit_in_crm("p1", json!({"phone": "theirs, later"}))
            .await;
        live.edit_in_crm("p2", json!({"phone": "theirs, earlier"}))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(2600)).await;
        live.db.execute(&format!("UPDATE people SET phone = 'ours, later' WHERE id = 'p2'; SELECT crm.resume('{name}')")).await;
        live.agree().await;
        live.assert_both("p1", "phone", "theirs, later").await;
        live.assert_both("p2", "phone", "ours, later").await;
    }
}
