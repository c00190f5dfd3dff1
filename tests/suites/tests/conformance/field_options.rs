//! Options on how a field is sent: empty cells that clear nothing, fields that are sent with the
//! creation of a record alone, and what they are created with where the row has nothing.

use crm_suites::{Contestant, Desk, Json, Live, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    an_empty_outbound_cell_clears_nothing,
    an_empty_bidirectional_cell_clears_nothing_and_disputes_nothing,
    what_is_sent_with_a_creation_alone,
    a_record_that_is_there_gets_no_default,
);

async fn an_empty_outbound_cell_clears_nothing(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    desk.map_field("title", "send_null => false").await;
    desk.db
        .execute("INSERT INTO people (id, last_name, title) VALUES ('n1', 'One', 'Boss'), ('n2', 'Two', NULL)")
        .await;
    desk.rest().await;
    desk.db.execute("UPDATE people SET title = NULL").await;
    desk.nothing_goes_out().await;
    desk.db.assert_checked().await;
    // Beside a cell that is sent; blank text is empty.
    desk.db
        .execute("UPDATE people SET title = ' ', phone = '+2'")
        .await;
    desk.rest().await;
    assert_eq!(desk.field("n1", "title").await, "Boss");
    assert_eq!(desk.field("n1", "phone").await, "+2");
    // What somebody types there neither goes away nor comes in.
    let id = desk.crm_id("n1").await.expect("it is linked");
    desk.crm.pass_time();
    let theirs = json!({"title": "Theirs"});
    desk.crm.edit(&desk.db, vendor.people(), &id, &theirs).await;
    desk.ingest().await;
    desk.nothing_goes_out().await;
    for verb in ["recapture", "push"] {
        desk.db
            .execute(&format!("SELECT crm.{verb}({})", desk.map))
            .await;
        desk.rest().await;
    }
    assert_eq!(desk.field("n1", "title").await, "Theirs");
    desk.db.execute("UPDATE people SET title = 'Ours'").await;
    desk.rest().await;
    assert_eq!(desk.field("n2", "title").await, "Ours");
    desk.map_field("title", "send_null => true").await;
    desk.db.execute("UPDATE people SET title = NULL").await;
    desk.rest().await;
    assert_ne!(desk.field("n1", "title").await, "Ours");
}

async fn an_empty_bidirectional_cell_clears_nothing_and_disputes_nothing(contestant: Contestant) {
    let options = "send_null => false, on_conflict => 'manual_review'";
    let live = Live::with(&CLUSTER, contestant, "on_insert => 'ignore'", options).await;
    live.people(2).await;
    live.db
        .execute("UPDATE people SET phone = NULL, first_name = 'Eva'")
        .await;
    live.quiet().await;
    live.db.assert_checked().await;
    assert_eq!(live.field("p1", "phone").await, "+1");
    assert_eq!(live.field("p1", "first_name").await, "Eva");
    // The same by calls: the row alone is changed.
    live.write("p2", json!({"phone": null}))
        .await
        .expect("committed");
    live.write("p2", json!({"phone": null, "first_name": "Zoe"}))
        .await
        .expect("committed");
    live.write("p2", json!({"last_name": "Lind"}))
        .await
        .expect("committed");
    assert_eq!(live.cell("p2", "phone").await, Json::Null);
    assert_eq!(live.field("p2", "phone").await, "+1");
    assert_eq!(live.field("p2", "first_name").await, "Zoe");
    // The echo of what was there comes with other fields.
    live.crm.pass_time();
    live.edit_in_crm("p1", json!({"last_name": "King"})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "last_name").await, "King");
    assert_eq!(live.cell("p1", "phone").await, Json::Null);
    for verb in ["recapture", "push"] {
        live.db
            .execute(&format!("SELECT crm.{verb}({})", live.map))
            .await;
        live.rest().await;
    }
    assert_eq!(live.field("p1", "phone").await, "+1");
    // What the CRM changes at the same time flows in, and nobody has to decide.
    live.db
        .execute("UPDATE people SET phone = '+4' WHERE id = 'p1'")
        .await;
    live.quiet().await;
    live.pause().await;
    live.db
        .execute("UPDATE people SET phone = NULL WHERE id = 'p1'")
        .await;
    live.crm.pass_time();
    live.edit_in_crm("p1", json!({"phone": "+5"})).await;
    live.resume().await;
    live.quiet().await;
    live.ingest().await;
    live.assert_both("p1", "phone", "+5").await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    live.rest().await;
}

async fn what_is_sent_with_a_creation_alone(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::with(&CLUSTER, contestant, "on_insert => 'create'", "").await;
    let title = format!(
        "SELECT crm.map_field({}, 'title', '{}', direction => 'outbound', create_only => true, create_default => '\"Boss\"')",
        live.map,
        vendor.field("title")
    );
    live.db.execute(&title).await;
    live.map_field("phone", "create_default => '\"+0\"'").await;
    live.db
        .execute("INSERT INTO people (id, last_name, title, phone) VALUES ('n1', 'One', 'First', '+1'), ('n2', 'Two', NULL, NULL)")
        .await;
    live.rest().await;
    assert_eq!(live.field("n1", "title").await, "First");
    live.assert_both("n1", "phone", "+1").await;
    // Where the row has nothing. What flows in flows into the row.
    assert_eq!(live.field("n2", "title").await, "Boss");
    assert_eq!(live.cell("n2", "title").await, Json::Null);
    live.assert_both("n2", "phone", "+0").await;
    live.db
        .execute("UPDATE people SET phone = '+7' WHERE id = 'n2'")
        .await;
    live.rest().await;
    live.assert_both("n2", "phone", "+7").await;
    live.db.execute("UPDATE people SET title = 'Second'").await;
    live.nothing_goes_out().await;
    live.crm.pass_time();
    live.edit_in_crm("n1", json!({"title": "Theirs"})).await;
    live.ingest().await;
    live.nothing_goes_out().await;
    let push = format!("SELECT crm.push({}, '{{title}}')", live.map);
    let error = live.db.error(&push).await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
    live.db
        .execute(&format!("SELECT crm.push({})", live.map))
        .await;
    live.rest().await;
    assert_eq!(live.field("n1", "title").await, "Theirs");
    assert_eq!(live.field("n2", "title").await, "Boss");
    // From now on it is sent like others.
    let alter = format!(
        "SELECT crm.alter_field({}, 'title', create_only => false)",
        live.map
    );
    let notices = live.db.notices(&alter).await;
    assert!(notices.contains("crm.push("), "{notices}");
    live.db.execute(&push).await;
    live.rest().await;
    live.agree().await;
    assert_eq!(live.field("n1", "title").await, "Second");
}

async fn a_record_that_is_there_gets_no_default(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    desk.map_field("title", "create_default => '\"Boss\"'")
        .await;
    let theirs = json!({"id": "n1", "last_name": "One", "title": "Theirs"});
    let theirs = theirs.as_object().cloned().unwrap_or_default();
    let ids = desk.crm.create(&desk.db, vendor.people(), &[theirs]).await;
    desk.db
        .execute("INSERT INTO people (id, last_name, title) VALUES ('n1', 'Uno', NULL), ('n2', 'Two', NULL), ('n3', 'Three', 'Dr')")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.crm_id("n1").await.as_deref(), Some(ids[0].as_str()));
    assert_ne!(desk.field("n1", "title").await, "Boss");
    assert_eq!(desk.field("n2", "title").await, "Boss");
    assert_eq!(desk.field("n3", "title").await, "Dr");
    assert_eq!(desk.crm.records(&desk.db, vendor.people()).await.len(), 3);
    desk.db.assert_checked().await;
}
