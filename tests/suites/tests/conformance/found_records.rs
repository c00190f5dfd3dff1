//! Rows that are to be created, and whose records are there: what people typed into these is
//! compared before anything is written over it.

use crm_suites::{Contestant, Live, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    what_people_typed_into_a_record_with_the_rows_key_stands,
    a_person_decides_where_the_policy_says_so,
    a_call_on_a_row_whose_record_is_there_is_compared,
    a_creation_whose_answer_was_lost_is_recognised,
    a_record_of_another_row_is_not_taken,
);

const CREATES: &str = "on_insert => 'create', ingest => 'off'";

/// People in the CRM, each with a key, who have no row yet.
async fn theirs(live: &Live, keys: &[&str]) -> Vec<String> {
    let person = |key: &&str| {
        let person = json!({"id": key, "last_name": "Theirs", "phone": "theirs", "email": format!("{key}@c.example")});
        person.as_object().cloned().unwrap_or_default()
    };
    let people: Vec<_> = keys.iter().map(person).collect();
    let object = live.crm.vendor.people();
    live.crm.create(&live.db, object, &people).await
}

async fn what_people_typed_into_a_record_with_the_rows_key_stands(contestant: Contestant) {
    let people = contestant.vendor.people();
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    live.map_as("title", "outbound").await;
    let ids = theirs(&live, &["n1", "n2"]).await;
    live.db
        .execute(
            "INSERT INTO people (id, first_name, last_name, phone, email, title)
             SELECT 'n' || n, 'Ours', 'Ours', 'ours', 'n' || n || '@c.example', 'Dr.' FROM generate_series(1, 4) n",
        )
        .await;
    live.db.drain().await;
    live.agree().await;
    for (n, key) in ["n1", "n2"].into_iter().enumerate() {
        assert_eq!(live.crm_id(key).await.as_ref(), Some(&ids[n]));
        live.assert_both(key, "phone", "theirs").await;
        live.assert_both(key, "last_name", "Theirs").await;
        // Nothing is lost by filling an empty field, and outbound fields are the row's.
        live.assert_both(key, "first_name", "Ours").await;
        live.assert_both(key, "title", "Dr.").await;
    }
    live.assert_both("n4", "phone", "ours").await;
    assert_eq!(live.crm.records(&live.db, people).await.len(), 4);
    let linked = "SELECT record_key FROM crm.audit_log WHERE operation = 'link' AND result = 'applied' ORDER BY 1";
    assert_eq!(live.db.all::<String>(linked, &[]).await, ["n1", "n2"]);
    // They are records like any others from now on.
    live.db
        .execute("UPDATE people SET phone = 'newer' WHERE id = 'n1'")
        .await;
    live.agree().await;
    live.assert_both("n1", "phone", "newer").await;
}

async fn a_person_decides_where_the_policy_says_so(contestant: Contestant) {
    let reviewed = "on_conflict => 'manual_review'";
    let live = Live::with(&CLUSTER, contestant, CREATES, reviewed).await;
    theirs(&live, &["n1"]).await;
    live.db
        .execute("INSERT INTO people (id, last_name, phone, email) VALUES ('n1', 'Theirs', 'ours', 'n1@c.example')")
        .await;
    live.db.flush().await;
    let open = "SELECT column_name::text FROM crm.conflicts";
    let open = eventually("a person is asked", async || {
        let open: Vec<String> = live.db.all(open, &[]).await;
        (!open.is_empty()).then_some(open)
    })
    .await;
    assert_eq!(open, ["phone"]);
    assert_eq!(live.cell("n1", "phone").await, "ours");
    assert_eq!(live.field("n1", "phone").await, "theirs");
    live.db
        .execute("SELECT crm.resolve_conflict(conflict_id, 'local') FROM crm.conflicts")
        .await;
    live.agree().await;
    live.assert_both("n1", "phone", "ours").await;
}

async fn a_call_on_a_row_whose_record_is_there_is_compared(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    live.pause().await;
    live.db
        .execute(
            "INSERT INTO people (id, last_name, email) VALUES ('n1', 'Theirs', 'n1@c.example')",
        )
        .await;
    let call = live.write("n1", json!({"phone": "ours"})).await;
    let call = call.expect("pending");
    theirs(&live, &["n1"]).await;
    live.resume().await;
    live.db.drain().await;
    live.agree().await;
    live.assert_both("n1", "phone", "theirs").await;
    let ended = live.state_of(&call.write_id).await;
    assert_eq!(ended, "superseded");
}

/// What we sent ourselves is nobody's change, whatever the row holds by now.
async fn a_creation_whose_answer_was_lost_is_recognised(contestant: Contestant) {
    let people = contestant.vendor.people();
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    for (operation, keys) in [("create", 1..=1), ("creates", 2..=4)] {
        live.crm
            .fail(&live.db, operation, "drop_after_apply", 2)
            .await;
        let (first, last) = (*keys.start(), *keys.end());
        let insert = format!(
            "INSERT INTO people (id, last_name, phone) SELECT 'n' || n, 'New', 'first' FROM generate_series({first}, {last}) n"
        );
        live.db.execute(&insert).await;
        let _: bool = live.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
        eventually("the CRM has them", async || {
            let made = live.crm.records(&live.db, people).await.len();
            (made == last).then_some(())
        })
        .await;
        let edit = format!("UPDATE people SET phone = 'second {last}'");
        live.db.execute(&edit).await;
        live.db.drain().await;
        live.agree().await;
        for n in first..=last {
            let key = format!("n{n}");
            live.assert_both(&key, "phone", &format!("second {last}"))
                .await;
        }
        assert_eq!(live.crm.records(&live.db, people).await.len(), last);
    }
    // What is remembered of a creation that failed depends on its being one.
    let failed = "crm.audit_log WHERE path = 'batch' AND result = 'retry'";
    assert!(live.db.count(failed).await > 0);
    let others = format!("{failed} AND operation <> 'create'");
    assert_eq!(live.db.count(&others).await, 0);
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
}

async fn a_record_of_another_row_is_not_taken(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    let ids = theirs(&live, &["n1"]).await;
    live.pause().await;
    live.db
        .execute(
            "INSERT INTO people (id, last_name, phone, email) VALUES
                 ('other', 'Theirs', 'theirs', 'n1@c.example'), ('n1', 'Ours', 'ours', 'n1@d.example')",
        )
        .await;
    let link = format!(
        "SELECT crm.link({}, 'other', '{}', write_key => false)",
        live.map, ids[0]
    );
    live.db.execute(&link).await;
    live.resume().await;
    let dead = "SELECT record_key || ' ' || vendor_code FROM crm.dead_letters";
    let _: bool = live.db.one("SELECT crm.flush(timeout => '5 s')", &[]).await;
    let dead = eventually("it is a dead letter", async || {
        let dead: Vec<String> = live.db.all(dead, &[]).await;
        (!dead.is_empty()).then_some(dead)
    })
    .await;
    assert_eq!(dead, ["n1 duplicate_identity"]);
    assert_eq!(live.field("other", "phone").await, "theirs");
    live.db.assert_checked().await;
}

mod meanwhile {
    use crm_suites::{Live, Vendor};

    use super::theirs;
    use crate::CLUSTER;

    crm_suites::with_remote_crms!(a_row_that_goes_during_the_look_up_gets_no_link);

    /// Nobody wants a record for it any more: what was found is left alone.
    async fn a_row_that_goes_during_the_look_up_gets_no_link(vendor: Vendor) {
        let arguments = "on_insert => 'create', on_delete => 'unlink', ingest => 'off'";
        let live = Live::with(&CLUSTER, vendor, arguments, "").await;
        theirs(&live, &["n1"]).await;
        let insert = "INSERT INTO people (id, last_name) VALUES ('n1', 'Ours')";
        let flush = live.under_way(insert).await;
        live.db.execute("DELETE FROM people").await;
        flush.await.expect("the flush");
        live.db.drain().await;
        assert_eq!(live.db.count("crm.ledger").await, 0);
        assert_eq!(live.crm.records(&live.db, vendor.people()).await.len(), 1);
        live.db.assert_checked().await;
    }
}
