//! Filters: a map is about some rows of its table, which enter and leave.

use crm_suites::{Contestant, Desk, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    rows_enter_and_leave_and_stay_linked,
    who_leaves_goes_from_the_crm_too,
    who_leaves_while_it_is_created_is_deleted_all_the_same,
    who_leaves_is_unlinked_and_found_again,
    a_row_outside_takes_what_the_crm_changes,
);

/// An unmapped column decides.
fn arguments(on_filter_out: &str) -> String {
    format!(
        "on_insert => 'create', on_delete => 'delete', filter => 'notes = ''in''', on_filter_out => '{on_filter_out}'"
    )
}

/// The keys of the CRM's records.
async fn keys(desk: &Desk) -> Vec<String> {
    let vendor = desk.crm.vendor;
    let records = desk.crm.records(&desk.db, vendor.people()).await;
    let mut keys: Vec<String> = records
        .values()
        .map(|record| {
            let key = &record[vendor.field("id")];
            key.as_str().unwrap_or_default().to_owned()
        })
        .collect();
    keys.sort();
    keys
}

async fn rows_enter_and_leave_and_stay_linked(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, &arguments("ignore")).await;
    let run = async |sql: &str| desk.db.execute(sql).await;
    run("INSERT INTO people (id, last_name, notes) VALUES ('n1', 'One', 'in'), ('n2', 'Two', 'out'), ('n3', 'Three', 'in'), ('n4', 'Four', NULL);
         UPDATE people SET notes = CASE id WHEN 'n3' THEN 'out' WHEN 'n4' THEN 'in' ELSE notes END, phone = '+1'")
    .await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n1", "n4"]);
    assert_eq!(desk.db.count("crm.ledger").await, 2);
    assert_eq!(desk.field("n4", "phone").await, "+1");
    // With an edit of its own, and edits from then on.
    run("UPDATE people SET notes = 'out', phone = '+2' WHERE id = 'n1'").await;
    desk.nothing_goes_out().await;
    run("UPDATE people SET phone = '+3'").await;
    desk.rest().await;
    assert_eq!(desk.field("n1", "phone").await, "+1");
    assert_eq!(desk.field("n4", "phone").await, "+3");
    // Back again, and out and in between two rounds.
    run("UPDATE people SET notes = 'in' WHERE id = 'n1'").await;
    desk.rest().await;
    assert_eq!(desk.field("n1", "phone").await, "+3");
    run("UPDATE people SET notes = 'out', phone = '+4' WHERE id = 'n1'; UPDATE people SET notes = 'in' WHERE id = 'n1'")
        .await;
    desk.rest().await;
    assert_eq!(desk.field("n1", "phone").await, "+4");
    // What is deleted outside is nobody's, however short a time it was there.
    run("DELETE FROM people WHERE id IN ('n2', 'n3');
         UPDATE people SET notes = 'out' WHERE id = 'n1'; DELETE FROM people WHERE id = 'n1'")
    .await;
    desk.nothing_goes_out().await;
    desk.rest().await;
    run("UPDATE people SET notes = 'out'").await;
    desk.rest().await;
    run("DELETE FROM people").await;
    desk.nothing_goes_out().await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n1", "n4"]);
    assert_eq!(desk.db.count("crm.ledger").await, 0);
    // What is deleted inside goes.
    run("INSERT INTO people (id, last_name, notes) VALUES ('n5', 'Five', 'in')").await;
    desk.rest().await;
    run("DELETE FROM people").await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n1", "n4"]);
}

async fn who_leaves_goes_from_the_crm_too(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, &arguments("delete")).await;
    let run = async |sql: &str| desk.db.execute(sql).await;
    run("INSERT INTO people (id, last_name, notes) SELECT 'n' || n, 'Name ' || n, 'in' FROM generate_series(1, 4) n").await;
    desk.rest().await;
    run("UPDATE people SET notes = 'out' WHERE id < 'n4'; DELETE FROM people WHERE id = 'n3'")
        .await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n4"]);
    run("UPDATE people SET notes = 'in', phone = '+1' WHERE id = 'n1'").await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n1", "n4"]);
    assert_eq!(desk.field("n1", "phone").await, "+1");
    // Another filter says nothing of rows that are there before they are pushed.
    let filter = format!(
        "SELECT crm.alter_map({}, filter => 'notes = ''in'' AND id <> ''n1''')",
        desk.map
    );
    let notices = desk.db.notices(&filter).await;
    assert!(notices.contains("crm.push("), "{notices}");
    desk.nothing_goes_out().await;
    run(&format!("SELECT crm.push({})", desk.map)).await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n4"]);
    run(&format!(
        "SELECT crm.alter_map({0}, filter => ''), crm.push({0})",
        desk.map
    ))
    .await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n1", "n2", "n4"]);
}

async fn who_leaves_while_it_is_created_is_deleted_all_the_same(contestant: Contestant) {
    if contestant.vendor == Vendor::Stub {
        return; // It answers at once.
    }
    let desk = Desk::open_with(&CLUSTER, contestant, &arguments("delete")).await;
    let created = "INSERT INTO people (id, last_name, notes) VALUES ('n1', 'One', 'in')";
    let flush = desk.under_way(created).await;
    desk.db.execute("UPDATE people SET notes = 'out'").await;
    desk.db.flush().await;
    flush.await.expect("the flush ends");
    desk.crm.pass_time();
    desk.ingest().await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, Vec::<String>::new());
    desk.db.execute("UPDATE people SET notes = 'in'").await;
    desk.rest().await;
    assert_eq!(keys(&desk).await, ["n1"]);
}

async fn who_leaves_is_unlinked_and_found_again(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open_with(&CLUSTER, contestant, &arguments("unlink")).await;
    desk.map_field("title", "").await;
    let run = async |sql: &str| desk.db.execute(sql).await;
    run("INSERT INTO people (id, last_name, notes) VALUES ('n1', 'One', 'in'), ('n2', 'Two', 'out')")
        .await;
    desk.rest().await;
    let id = desk.crm_id("n1").await.expect("it is linked");
    run("UPDATE people SET notes = 'out' WHERE id = 'n1'").await;
    desk.rest().await;
    assert_eq!(desk.crm_id("n1").await, None);
    // Its record carries the key, and does not come back by it.
    desk.crm.pass_time();
    let theirs = json!({"phone": "+9"});
    desk.crm.edit(&desk.db, vendor.people(), &id, &theirs).await;
    desk.ingest().await;
    assert_eq!(desk.crm_id("n1").await, None);
    run("UPDATE people SET notes = 'in', phone = '+2' WHERE id = 'n1'").await;
    desk.rest().await;
    assert_eq!(desk.crm_id("n1").await.as_deref(), Some(id.as_str()));
    assert_eq!(desk.field("n1", "phone").await, "+2");
    assert_eq!(keys(&desk).await, ["n1"]);
}

/// And its own edits wait until it is inside again, where they are edits like any other.
async fn a_row_outside_takes_what_the_crm_changes(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, &arguments("ignore"), "").await;
    let run = async |sql: &str| live.db.execute(sql).await;
    run("INSERT INTO people (id, last_name, first_name, phone, notes) VALUES ('n1', 'One', 'Ada', '+1', 'in')")
        .await;
    live.rest().await;
    live.ingest().await;
    run("UPDATE people SET notes = 'out', first_name = 'Eva'").await;
    live.rest().await;
    assert_eq!(live.field("n1", "first_name").await, "Ada");
    live.crm.pass_time();
    live.edit_in_crm("n1", json!({"phone": "+5"})).await;
    live.ingest().await;
    live.assert_both("n1", "phone", "+5").await;
    // Whoever writes such a row in real time is told.
    let call = "SELECT crm.write('people', 'n1', '{\"phone\": \"+6\"}')";
    let error = live.db.error(call).await;
    assert_eq!(error.code().code(), "P0002", "{error:?}");
    assert!(
        error.hint().unwrap_or_default().contains("filter"),
        "{error:?}"
    );
    live.assert_both("n1", "phone", "+5").await;
    run("UPDATE people SET notes = 'in'").await;
    live.rest().await;
    live.assert_both("n1", "first_name", "Eva").await;
    live.assert_both("n1", "phone", "+5").await;
    live.write("n1", json!({"phone": "+7"}))
        .await
        .expect("committed");
    live.agree().await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
}
