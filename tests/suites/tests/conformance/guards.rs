//! Somebody edits the record in the CRM between our read and our write: the CRM refuses ours, or
//! what ours replaced is told.

use crm_suites::crm::facts::Guarded;
use crm_suites::{Contestant, Json, Live, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    an_edit_between_read_and_write_is_not_lost_in_silence,
    neither_is_one_during_a_plain_update,
    neither_is_one_during_an_update_of_many,
    an_edit_of_another_field_in_between_stays,
);

/// People, and an edit of one of them that comes a while after the last that was made of it: some
/// CRMs tell times apart by whole seconds.
async fn intruded(live: &Live, people: usize, operation: &str, fields: Json) {
    live.people(people).await;
    live.crm.pass_time();
    live.edit_before(operation, "p1", fields).await;
}

async fn an_edit_between_read_and_write_is_not_lost_in_silence(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    intruded(&live, 1, "write", json!({"phone": "theirs"})).await;
    let written = live.write("p1", json!({"phone": "ours"})).await;
    match vendor.guards_one() {
        Guarded::Reported => {
            let written = written.expect("committed");
            live.assert_both("p1", "phone", "ours").await;
            let audit = "SELECT jsonb_build_array(result, fields -> $2) FROM crm.audit_log WHERE write_id = $1::text::uuid";
            let audit: Json = live
                .db
                .one(audit, &[&written.write_id, &vendor.field("phone")])
                .await;
            let told = json!(["raced", {"new": "ours", "old": "+1", "raced": "theirs"}]);
            assert_eq!(audit, told);
            assert_eq!(live.state_of(&written.write_id).await, "committed");
        }
        _ => {
            let written = written.expect("conflict");
            assert_eq!(written.values["phone"], "theirs");
            assert_eq!(live.cell("p1", "phone").await, "+1");
            assert_eq!(live.field("p1", "phone").await, "theirs");
            live.write_with("p1", json!({"phone": "ours"}), "force => true")
                .await
                .expect("committed");
        }
    }
    live.agree().await;
}

async fn neither_is_one_during_a_plain_update(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    intruded(&live, 1, "write", json!({"phone": "theirs"})).await;
    live.db.execute("UPDATE people SET phone = 'ours'").await;
    live.agree().await;
    assert_outcome(&live, contestant.vendor.guards_one()).await;
}

/// More than are written one by one for the sake of a guard.
async fn neither_is_one_during_an_update_of_many(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    intruded(&live, 30, "batch", json!({"phone": "theirs"})).await;
    live.db.execute("UPDATE people SET phone = 'ours'").await;
    live.agree().await;
    assert_outcome(&live, contestant.vendor.guards_many()).await;
    live.assert_both("p30", "phone", "ours").await;
}

/// What became of p1, which both sides changed.
async fn assert_outcome(live: &Live, guarded: Guarded) {
    let (phone, result) = match guarded {
        Guarded::Refused => ("theirs", "reconcile superseded"),
        Guarded::Reported => ("ours", "reconcile raced"),
        Guarded::Unnoticed => ("ours", "reconcile applied"),
    };
    live.assert_both("p1", "phone", phone).await;
    assert_eq!(
        live.audit("p1").await.last().map(String::as_str),
        Some(result)
    );
    if guarded == Guarded::Reported {
        let raced = "SELECT fields -> $1 ->> 'raced' FROM crm.audit_log WHERE result = 'raced'";
        let field = live.crm.vendor.field("phone");
        let raced: Vec<String> = live.db.all(raced, &[&field]).await;
        assert_eq!(raced, ["theirs"]);
    }
}

async fn an_edit_of_another_field_in_between_stays(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, "conflict_scope => 'fields'", "").await;
    intruded(&live, 1, "write", json!({"email": "theirs@b.example"})).await;
    live.write("p1", json!({"phone": "ours"}))
        .await
        .expect("committed");
    assert_eq!(live.field("p1", "email").await, "theirs@b.example");
    let audit = live.audit("p1").await;
    let last = audit.last().map(String::as_str);
    assert_eq!(
        last,
        Some("realtime applied"),
        "nothing of theirs was replaced"
    );
    live.assert_both("p1", "phone", "ours").await;
    live.db.assert_checked().await;
}
