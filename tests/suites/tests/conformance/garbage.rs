//! Answers that nobody can read: the row has the edit, what the CRM held is kept, and the edit
//! arrives once it answers in its own words, whether or not it had taken it.

use std::sync::LazyLock;

use crm_suites::crm::facts::Situation;
use crm_suites::{Cluster, Contestant, Desk, Json, Live, Vendor, eventually, json};

/// Where no answer may be longer than the shortest bound.
static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::with(&[("pg_crm.max_response_bytes", "64kB")]));

crm_suites::with_every_contestant!(
    a_call_whose_answer_is_garbage_is_not_lost,
    an_edit_whose_write_is_answered_with_garbage_is_not_lost,
    an_edit_whose_read_is_answered_with_garbage_is_not_lost,
    nothing_is_called_written_that_was_not_answered,
);

/// What errors say of an answer that is none: one of these.
const UNREADABLE: &str =
    "cannot be read|documentation does not name|not a response of the CRM's API";

/// Answers that are none, with status 200 unless they say otherwise, and what the error then speaks
/// of.
fn garbage() -> Vec<(&'static str, Json)> {
    vec![
        (UNREADABLE, json!({"body": "<html>Sign in</html>"})),
        (
            UNREADABLE,
            json!({"body": "{\"id\": \"Zo\u{eb}\"}", "latin1": true}),
        ),
        ("max_response_bytes", json!({"body": "x".repeat(70_000)})),
        (UNREADABLE, json!({"body": "{\"id\": \"1\", \"da"})),
        (UNREADABLE, json!({"body": "null"})),
        (UNREADABLE, json!({"body": "[]"})),
        (UNREADABLE, json!({"body": ""})),
        (UNREADABLE, nothing()),
    ]
}

/// What some vendors document as the success of some requests, and no others.
fn nothing() -> Json {
    json!({"status": 204, "body": ""})
}

/// Has every request of that kind answered so. `applied`: the CRM does what it is asked to all the
/// same.
async fn garble(live: &Live, operation: &str, answer: &Json, applied: bool, times: u32) {
    if live.crm.vendor == Vendor::Stub {
        return live.crm.fail(&live.db, operation, "internal", times).await;
    }
    let mut fault = live.crm.matching(operation);
    let fields = fault.as_object_mut().expect("an object");
    fields.insert("status".into(), 200.into());
    fields.extend(answer.as_object().expect("an object").clone());
    fields.insert("applied".into(), applied.into());
    fields.insert("times".into(), times.into());
    live.crm.fault(fault);
}

/// What each kind of garbage is tried with; the embedded CRM has one error for all.
fn each(contestant: Contestant, operation: &str) -> Vec<(&'static str, Json, bool)> {
    if contestant.vendor == Vendor::Stub {
        return vec![("injected", json!({}), false)];
    }
    let mut garbage = garbage();
    if contestant.vendor.facts().no_content.contains(&operation) {
        garbage.retain(|(_, answer)| *answer != nothing());
    }
    if contestant.lacks(Situation::Bytes) {
        garbage.retain(|(_, answer)| answer["latin1"].is_null());
    }
    let of = |applied| {
        garbage
            .clone()
            .into_iter()
            .map(move |(says, g)| (says, g, applied))
    };
    of(false).chain(of(true)).collect()
}

async fn a_call_whose_answer_is_garbage_is_not_lost(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    let mut before = "+1".to_owned();
    for (n, (says, answer, applied)) in each(contestant, "write").into_iter().enumerate() {
        garble(&live, "write", &answer, applied, 1).await;
        let phone = format!("call {n}");
        let written = live
            .write("p1", json!({"phone": phone}))
            .await
            .expect_pending("internal");
        let error = written.error.as_deref().unwrap_or_default();
        assert!(
            says.split('|').any(|words| error.contains(words)),
            "{written:?}"
        );
        assert_eq!(written.values["phone"], before, "what was read is told");
        assert!(written.hash.is_some());
        assert_eq!(live.cell("p1", "phone").await, phone);
        live.agree().await;
        live.assert_both("p1", "phone", &phone).await;
        assert_eq!(live.state_of(&written.write_id).await, "committed");
        let audit = live.audit("p1").await;
        let last = &audit[audit.len() - 2..];
        assert_eq!(last, ["realtime retry", "reconcile applied"]);
        before = phone;
        // Nor can it be read: what the ledger knows is the base.
        if each(contestant, "read")
            .iter()
            .all(|(_, known, _)| *known != answer)
        {
            continue;
        }
        garble(&live, "read", &answer, applied, 1).await;
        garble(&live, "write", &answer, applied, 1).await;
        let blind = live.write("p1", json!({"first_name": n.to_string()})).await;
        let blind = blind.expect_pending("internal");
        assert_eq!((&blind.values, &blind.hash), (&Json::Null, &None));
        live.agree().await;
        live.assert_both("p1", "first_name", &n.to_string()).await;
    }
}

/// Garbles what the reconciler does, and sees to it that the edit stays, visible and with what it
/// is based on.
async fn reconciles(contestant: Contestant, operation: &str) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    for (n, (says, answer, applied)) in each(contestant, operation).into_iter().enumerate() {
        let sql = "SELECT coalesce(max(audit_id), 0) FROM crm.audit_log";
        let last: i64 = live.db.one(sql, &[]).await;
        garble(&live, operation, &answer, applied, 1000).await;
        let phone = format!("edit {n}");
        let edit = format!("UPDATE people SET phone = '{phone}'");
        live.db.execute(&edit).await;
        let failed = eventually("the attempt is in the audit", async || {
            let sql = "SELECT to_jsonb(a) FROM crm.audit_log a
                       WHERE audit_id > $1 AND path = 'reconcile' AND error_class IS NOT NULL";
            live.db.all::<Json>(sql, &[&last]).await.pop()
        })
        .await;
        assert_eq!(failed["error_class"], "internal", "{failed}");
        let error = failed["error"].as_str().unwrap_or_default();
        assert!(
            says.split('|').any(|words| error.contains(words)),
            "{failed}"
        );
        let sql = "SELECT to_jsonb(p) FROM crm.pending_writes p";
        match live.db.all::<Json>(sql, &[]).await.pop() {
            Some(shown) => {
                assert_eq!(shown["error_class"], "internal", "{shown}");
                assert!(
                    shown["base"].as_object().is_some_and(|b| !b.is_empty()),
                    "{shown}"
                );
                assert!(shown["snapshot"].is_object(), "{shown}");
            }
            // The CRM has the value, and the next look at it, which can come at once, says so.
            None => assert!(applied && operation == "write"),
        }
        assert_eq!(live.cell("p1", "phone").await, phone);
        live.crm.relent(&live.db).await;
        live.db.execute("SELECT crm.replay_all()").await;
        live.agree().await;
        live.assert_both("p1", "phone", &phone).await;
    }
}

async fn an_edit_whose_write_is_answered_with_garbage_is_not_lost(contestant: Contestant) {
    reconciles(contestant, "write").await;
}

async fn an_edit_whose_read_is_answered_with_garbage_is_not_lost(contestant: Contestant) {
    reconciles(contestant, "read").await;
}

/// Updates, creations and a deletion, whatever is asked: it is another server that answers.
async fn nothing_is_called_written_that_was_not_answered(contestant: Contestant) {
    let arguments = "on_insert => 'create', on_delete => 'delete'";
    let desk = Desk::open_with(&CLUSTER, contestant, arguments).await;
    let answers = each(contestant, "batch").into_iter();
    for (n, (_, answer, _)) in answers.filter(|(_, _, applied)| !applied).enumerate() {
        let insert = "INSERT INTO people (id, last_name) SELECT $1 || n, 'Last' FROM generate_series(1, $2) n";
        desk.db.rows(insert, &[&format!("old{n}."), &3i32]).await;
        desk.settle().await;
        if contestant.vendor == Vendor::Stub {
            desk.crm.fail(&desk.db, "write", "internal", 1000).await;
        } else {
            // A record that is tried again alone may have that answer.
            let is_documented =
                answer == nothing() && contestant.vendor.facts().no_content.contains(&"write");
            let mut fault = match is_documented {
                true => desk.crm.matching("batch"),
                false => json!({}),
            };
            let fields = fault.as_object_mut().expect("an object");
            fields.insert("times".into(), "unlimited".into());
            fields.insert("status".into(), 200.into());
            fields.extend(answer.as_object().expect("an object").clone());
            desk.crm.fault(fault);
        }
        let last = "SELECT max(audit_id) FROM crm.audit_log";
        let last: i64 = desk.db.one(last, &[]).await;
        desk.db
            .execute(&format!(
                "UPDATE people SET phone = '{n}' WHERE id IN ('old{n}.1', 'old{n}.2')"
            ))
            .await;
        desk.db.rows(insert, &[&format!("new{n}."), &2i32]).await;
        // Several vendors say by a 204 that a record was deleted.
        let deletions = i64::from(answer != nothing());
        if deletions > 0 {
            desk.db
                .execute(&format!("DELETE FROM people WHERE id = 'old{n}.3'"))
                .await;
        }
        let _: Option<bool> = desk
            .db
            .one("SELECT crm.flush(timeout => '10 ms')", &[])
            .await;
        let tried = "SELECT count(DISTINCT record_key) FROM crm.audit_log WHERE audit_id > $1";
        eventually("each was tried", async || {
            (desk.db.one::<i64>(tried, &[&last]).await == 4 + deletions).then_some(())
        })
        .await;
        // It cannot be read, or speaks of none of them.
        let others = "SELECT result FROM crm.audit_log WHERE audit_id > $1 AND attempt = 1
                      AND (result <> 'retry' OR error_class NOT IN ('internal', 'transient'))";
        let others: Vec<String> = desk.db.all(others, &[&last]).await;
        assert_eq!(others, Vec::<String>::new(), "{answer}");
        desk.crm.relent(&desk.db).await;
        desk.settle().await;
    }
}
