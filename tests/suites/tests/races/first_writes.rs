//! The first write of a record that was linked while it waited to be created holds all of its
//! cells, those too that flow both ways and are edited meanwhile.

use crm_suites::{Desk, Vendor, eventually, json};

use super::{bidirectional, quiet};
use crate::CLUSTER;

#[tokio::test]
async fn an_edit_waits_for_the_first_write_of_its_record() {
    let desk = first_write_on_its_way().await;
    desk.db.execute("UPDATE people SET phone = '+2'").await;
    assert_arrives(&desk).await;
}

#[tokio::test]
async fn so_does_a_call() {
    let desk = first_write_on_its_way().await;
    let call = r#"SELECT outcome FROM crm.write('people', 'p1', '{"phone": "+2"}')"#;
    let outcome: String = desk.db.one(call, &[]).await;
    assert_eq!(outcome, "pending");
    assert_arrives(&desk).await;
}

async fn assert_arrives(desk: &Desk) {
    assert!(desk.db.flush().await);
    quiet(desk).await;
    assert_eq!(desk.field("p1", "phone").await, "+2");
    assert_eq!(desk.field("p1", "first_name").await, "Ada");
    desk.settle().await;
}

/// A person with a phone that flows both ways, whose first write the CRM takes its time to apply.
async fn first_write_on_its_way() -> Desk {
    let desk = Desk::open_with(&CLUSTER, Vendor::Salesforce, "on_insert => 'create'").await;
    bidirectional(&desk, "phone", "").await;
    desk.crm.fail(&desk.db, "create", "validation", 1).await;
    desk.db
        .execute("INSERT INTO people (id, first_name, last_name, phone) VALUES ('p1', 'Ada', 'Byron', '+1')")
        .await;
    desk.db.flush().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 1);
    let record = json!({"last_name": "Byron", "phone": "+1"});
    let record = record.as_object().cloned().unwrap_or_default();
    let people = desk.crm.vendor.people();
    let ids = desk.crm.create(&desk.db, people, &[record]).await;
    let link = format!("SELECT crm.link({}, 'p1', '{}')", desk.map, ids[0]);
    desk.db.execute(&link).await;
    // Applied late: it would replace whatever is written in between.
    desk.crm
        .fault(json!({"method": "PATCH", "times": 1, "delay_ms": 1500}));
    desk.db.execute("SELECT crm.replay_all()").await;
    let session = desk.db.session().await;
    tokio::spawn(async move {
        let _: bool = session.one("SELECT crm.flush()", &[]).await;
    });
    eventually("the first write is on its way", async || {
        (desk.crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    desk
}
