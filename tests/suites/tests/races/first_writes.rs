//! The first write of a record that was linked while it waited to be created holds all of its cells, those too that flow
//! both ways and are edited meanwhile.

use crm_suites::{Desk, Vendor, eventually, json};

use super::{bidirectional, quiet};
use crate::CLUSTER;

#[tokio::test]
async fn an_edit_waits_for_the_first_write_of_its_record() {
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
    let flush = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the first write is on its way", async || {
        (desk.crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    desk.db.execute("UPDATE people SET phone = '+2'").await;
    assert!(flush.await.expect("no panic"));
    quiet(&desk).await;
    assert_eq!(desk.field("p1", "phone").await, "+2");
    assert_eq!(desk.field("p1", "first_name").await, "Ada");
    desk.settle().await;
}
