//! Answers that nobody can read: the row has the edit, what the CRM held is kept, and the edit arrives once it answers in
//! its own words, whether or not it had taken it.

use std::sync::LazyLock;

use crm_suites::crm::facts::Situation;
use crm_suites::{Cluster, Contestant, Json, Live, Vendor, eventually, json};

/// Where no answer may be longer than the shortest bound.
static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::with(&[("pg_crm.max_response_bytes", "64kB")]));

crm_suites::with_every_contestant!(
    a_call_whose_answer_is_garbage_is_not_lost,
    an_edit_whose_write_is_answered_with_garbage_is_not_lost,
    an_edit_whose_read_is_answered_with_garbage_is_not_lost,
);

/// Answers with status 200, and what the error then speaks of.
fn garbage() -> Vec<(&'static str, Json)> {
    vec![
        ("understood", json!({"body": "<html>Sign in</html>"})),
        (
            "understood",
            json!({"body": "{\"id\": \"Zo\u{eb}\"}", "latin1": true}),
        ),
        ("max_response_bytes", json!({"body": "x".repeat(70_000)})),
    ]
}

/// Has every request of that kind answered so. `applied`: the CRM does what it is asked to all the same.
async fn garble(live: &Live, operation: &str, answer: &Json, applied: bool, times: u32) {
    if live.crm.vendor == Vendor::Stub {
        return live.crm.fail(&live.db, operation, "internal", times).await;
    }
    let mut fault = live.crm.matching(operation);
    let fields = fault.as_object_mut().expect("an object");
    fields.extend(answer.as_object().expect("an object").clone());
    fields.insert("status".into(), 200.into());
    fields.insert("applied".into(), applied.into());
    fields.insert("times".into(), times.into());
    live.crm.fault(fault);
}

/// What each kind of garbage is tried with; the embedded CRM has one error for all.
fn each(contestant: Contestant) -> Vec<(&'static str, Json, bool)> {
    if contestant.vendor == Vendor::Stub {
        return vec![("injected", json!({}), false)];
    }
    let mut garbage = garbage();
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
    for (n, (says, answer, applied)) in each(contestant).into_iter().enumerate() {
        garble(&live, "write", &answer, applied, 1).await;
        let phone = format!("call {n}");
        let written = live
            .write("p1", json!({"phone": phone}))
            .await
            .expect_pending("internal");
        let error = written.error.as_deref().unwrap_or_default();
        assert!(error.contains(says), "{written:?}");
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
        garble(&live, "read", &answer, applied, 1).await;
        garble(&live, "write", &answer, applied, 1).await;
        let blind = live.write("p1", json!({"first_name": n.to_string()})).await;
        let blind = blind.expect_pending("internal");
        assert_eq!((&blind.values, &blind.hash), (&Json::Null, &None));
        live.agree().await;
        live.assert_both("p1", "first_name", &n.to_string()).await;
    }
}

/// Garbles what the reconciler does, and sees to it that the edit stays, visible and with what it is based on.
async fn reconciles(contestant: Contestant, operation: &str) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    for (n, (says, answer, applied)) in each(contestant).into_iter().enumerate() {
        garble(&live, operation, &answer, applied, 1000).await;
        let phone = format!("edit {n}");
        let edit = format!("UPDATE people SET phone = '{phone}'");
        live.db.execute(&edit).await;
        let shown = eventually("it says why it waits", async || {
            let sql = "SELECT to_jsonb(p) FROM crm.pending_writes p WHERE error_class IS NOT NULL";
            live.db.all::<Json>(sql, &[]).await.pop()
        })
        .await;
        assert_eq!(shown["error_class"], "internal", "{shown}");
        let error = shown["last_error"].as_str().unwrap_or_default();
        assert!(error.contains(says), "{shown}");
        assert!(
            shown["base"].as_object().is_some_and(|b| !b.is_empty()),
            "{shown}"
        );
        assert_eq!(
            shown["snapshot"].is_object(),
            operation == "write",
            "{shown}"
        );
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
