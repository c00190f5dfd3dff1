//! Requests to slow down, in every form that the vendor has for them: the connection waits as told,
//! and nothing is charged.

use crm_suites::{Contestant, Desk, Json, eventually};

use crate::CLUSTER;

crm_suites::with_every_contestant!(each_form_of_a_limit_is_waited_out_and_costs_no_attempt);

const BRIEFLY: &str = "SELECT crm.flush(timeout => '100 ms')";

async fn each_form_of_a_limit_is_waited_out_and_costs_no_attempt(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(3).await;
    for limit in contestant.vendor.facts().limits {
        let form = limit.form;
        let answer: Json = limit.answer.parse().expect("JSON");
        desk.crm.answer(&desk.db, "batch", &answer, 1000).await;
        let edit = format!("UPDATE people SET phone = '{form}'");
        desk.db.execute(&edit).await;
        let _: bool = desk.db.one(BRIEFLY, &[]).await;
        let told = "SELECT extract(epoch FROM blocked_until - changed_at)::float8 FROM crm.connection_state
                    WHERE error_class = 'rate_limited' AND blocked_until > '-infinity'";
        let wait: f64 = eventually(form, async || desk.db.all(told, &[]).await.pop()).await;
        let wanted = limit.wait as f64;
        assert!(
            (wait - wanted).abs() < 0.2,
            "{form}: waits {wait} s, not {wanted}"
        );
        let why = desk.db.text("SELECT reason FROM crm.status").await;
        assert!(
            limit.wait < 2 || why.contains("waiting for the CRM"),
            "{form}: {why}"
        );
        // Nothing is asked meanwhile.
        if limit.wait > 5 {
            eventually("nothing is on its way", async || {
                (desk.db.count("crm.claim").await == 0).then_some(())
            })
            .await;
            desk.crm.forget(&desk.db).await;
            let _: bool = desk.db.one(BRIEFLY, &[]).await;
            let asked = desk.crm.asked(&desk.db).await;
            assert_eq!(asked, Vec::<String>::new(), "{form}");
        }
        assert!(desk.db.dirty().await > 0, "{form}");
        desk.crm.relent(&desk.db).await;
        desk.db.assert_checked().await;
        // As if the time were over.
        let name = contestant.vendor.name();
        let resume = format!("SELECT crm.resume('{name}')");
        desk.db.execute(&resume).await;
        desk.settle().await;
        let retried = "crm.audit_log WHERE error_class = 'rate_limited' AND result <> 'retry'";
        assert_eq!(desk.db.count(retried).await, 0, "{form}");
    }
    let told = "crm.audit_log WHERE error_class = 'rate_limited' AND result = 'retry'";
    assert!(desk.db.count(told).await > 0);
    let charged = "crm.audit_log WHERE attempt > 1";
    assert_eq!(desk.db.count(charged).await, 0, "attempts were charged");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    eventually("it is as if nothing had been", async || {
        (desk.state().await == "idle").then_some(())
    })
    .await;
}
