//! Records that are created: once, however often the work is done again, and never beside one that
//! has the key already.

use crm_suites::{Contestant, Desk, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    creations_whose_answer_was_lost_make_no_twin,
    a_record_that_has_the_key_already_is_taken_for_the_rows_own,
);

/// The CRM has made them, and nobody hears of it: neither when they are sent, nor when they are
/// sent again.
async fn creations_whose_answer_was_lost_make_no_twin(contestant: Contestant) {
    let people = contestant.vendor.people();
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    if let Some(vendor) = desk.crm.is_simulated() {
        // What was just made is not found by a search.
        let lag = json!({"vendor": vendor, "search_lag_ms": 5000});
        desk.crm.sim().post("config", &lag);
    }
    for (operation, keys) in [("create", 1..=1), ("creates", 2..=6)] {
        let (first, last) = (*keys.start(), *keys.end());
        desk.crm
            .fail(&desk.db, operation, "drop_after_apply", 2)
            .await;
        let insert = format!(
            "INSERT INTO people (id, last_name, phone) SELECT 'n' || n, 'New ' || n, '1' FROM generate_series({first}, {last}) n"
        );
        desk.db.execute(&insert).await;
        let _: bool = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
        eventually("the CRM has them", async || {
            let made = desk.crm.records(&desk.db, people).await.len();
            (made == last).then_some(())
        })
        .await;
        // An edit on the way goes to the record that there is.
        desk.db.execute("UPDATE people SET phone = '2'").await;
        desk.settle().await;
        let made = desk.crm.records(&desk.db, people).await.len();
        assert_eq!(made, last, "{operation}");
    }
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

async fn a_record_that_has_the_key_already_is_taken_for_the_rows_own(contestant: Contestant) {
    let people = contestant.vendor.people();
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    let theirs = json!({"id": "n1", "last_name": "Theirs", "phone": "theirs"});
    let theirs = [theirs.as_object().cloned().unwrap_or_default()];
    let ids = desk.crm.create(&desk.db, people, &theirs).await;
    desk.db
        .execute("INSERT INTO people (id, last_name, phone) VALUES ('n1', 'Ours', 'ours')")
        .await;
    desk.settle().await;
    assert_eq!(desk.crm_id("n1").await.as_ref(), Some(&ids[0]));
    assert_eq!(desk.field("n1", "last_name").await, "Ours");
}
