//! Changes in the CRM come into the table: all of them and once, whatever the size of a page and
//! the times they bear.

use crm_suites::{Contestant, Desk, Json, Live, json};
use serde_json::Map;

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    a_change_in_the_crm_comes_in,
    our_own_writes_coming_back_are_nothing,
    an_outbound_field_is_written_over,
    a_field_that_was_unknown_is_filled_and_not_wiped_out,
    what_the_crm_empties_is_emptied,
    a_record_that_the_crm_deletes_lets_go_of_its_row,
    a_record_that_the_crm_restores_finds_its_row_again,
    a_row_follows_its_record,
    more_than_a_page_of_one_moment_comes_in_whole_and_once,
);

async fn a_change_in_the_crm_comes_in(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(3).await;
    live.edit_in_crm(
        "p2",
        json!({"phone": "from the CRM", "first_name": "Augusta"}),
    )
    .await;
    live.ingest().await;
    live.assert_both("p2", "phone", "from the CRM").await;
    live.assert_both("p2", "first_name", "Augusta").await;
    assert_eq!(live.cell("p1", "phone").await, "+1");
    assert_eq!(live.audit("p2").await.last().unwrap(), "ingest applied");
    let told = format!(
        "SELECT fields -> '{}' FROM crm.audit_log WHERE path = 'ingest' AND result = 'applied'",
        vendor.field("phone")
    );
    let told: serde_json::Value = live.db.one(&told, &[]).await;
    assert_eq!(told, json!({"new": "from the CRM", "old": "+1"}));
    let who = "SELECT actor FROM crm.audit_log WHERE path = 'ingest' AND result = 'applied'";
    if vendor.facts().names_editors {
        assert!(live.db.text(who).await.starts_with(vendor.name()));
    }
    // It is no edit of ours, and once is enough.
    live.nothing_goes_out().await;
    let rows = live.audit_rows().await;
    live.ingest().await;
    assert_eq!(live.audit_rows().await, rows);
    live.agree().await;
}

async fn our_own_writes_coming_back_are_nothing(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(5).await;
    live.ingest().await;
    live.db
        .execute("UPDATE people SET phone = 'ours ' || id")
        .await;
    live.agree().await;
    let rows = live.audit_rows().await;
    let echoes = "SELECT echoes FROM crm.status_wide";
    let before: i64 = live.db.one(echoes, &[]).await;
    live.ingest().await;
    assert_eq!(live.audit_rows().await, rows);
    assert!(live.db.one::<i64>(echoes, &[]).await >= before + 5);
    assert_eq!(
        live.db
            .one::<i64>("SELECT ingested FROM crm.status_wide", &[])
            .await,
        0
    );
    live.nothing_goes_out().await;
    live.agree().await;
}

async fn an_outbound_field_is_written_over(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = 'ours'").await;
    desk.settle().await;
    desk.ingest().await;
    let id = desk.crm_id("p1").await.unwrap();
    let people = vendor.people();
    desk.crm
        .edit(&desk.db, people, &id, &json!({"phone": "theirs"}))
        .await;
    desk.ingest().await;
    let overwritten = "SELECT overwritten FROM crm.status_wide";
    assert_eq!(desk.db.one::<i64>(overwritten, &[]).await, 1);
    let lost = "SELECT fields::text FROM crm.audit_log WHERE result = 'overwritten'";
    assert!(desk.db.text(lost).await.contains("theirs"));
    // Seen once more before it is written, it counts once.
    desk.ingest().await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, "ours");
    desk.ingest().await;
    assert_eq!(desk.db.one::<i64>(overwritten, &[]).await, 1);
    desk.settle().await;
}

/// Both sides hold something when the map is made.
async fn a_field_that_was_unknown_is_filled_and_not_wiped_out(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.link(3).await;
    // Without an edit of ours: as if it had been so when the map was made.
    live.db
        .execute(
            "ALTER TABLE people DISABLE TRIGGER ALL;
             UPDATE people SET phone = 'ours alone' WHERE id = 'p1';
             UPDATE people SET phone = NULL WHERE id = 'p2';
             UPDATE people SET phone = 'ours' WHERE id = 'p3';
             ALTER TABLE people ENABLE TRIGGER ALL",
        )
        .await;
    live.edit_in_crm("p1", json!({"phone": null})).await;
    live.edit_in_crm("p3", json!({"phone": "theirs"})).await;
    live.ingest().await;
    live.agree().await;
    live.assert_both("p1", "phone", "ours alone").await;
    live.assert_both("p2", "phone", "+47 2").await;
    live.assert_both("p3", "phone", "theirs").await;
}

async fn what_the_crm_empties_is_emptied(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(2).await;
    live.edit_in_crm("p1", json!({"phone": null})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "phone").await, json!(null));
    live.nothing_goes_out().await;
    live.agree().await;
}

async fn a_record_that_the_crm_deletes_lets_go_of_its_row(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    let ids = live.people(2).await;
    live.ingest().await;
    live.crm.delete(&live.db, vendor.people(), &ids[0]).await;
    live.ingest().await;
    assert_eq!(live.crm_id("p1").await, None);
    assert_eq!(live.db.count("people").await, 2);
    assert_eq!(live.audit("p1").await.last().unwrap(), "ingest applied");
    // It is not made again.
    live.db.execute("UPDATE people SET phone = '+4'").await;
    live.db.flush().await;
    live.ingest().await;
    assert_eq!(live.crm.records(&live.db, vendor.people()).await.len(), 1);
}

async fn a_record_that_the_crm_restores_finds_its_row_again(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::with(&CLUSTER, contestant, "on_crm_insert => 'insert'", "").await;
    let ids = live.people(1).await;
    live.crm.delete(&live.db, vendor.people(), &ids[0]).await;
    live.ingest().await;
    assert_eq!(live.crm_id("p1").await, None);
    live.crm
        .restore(
            &live.db,
            vendor.people(),
            &ids[0],
            &json!({"phone": "back"}),
        )
        .await;
    live.ingest().await;
    assert_eq!(live.crm_id("p1").await.as_ref(), Some(&ids[0]));
    live.assert_both("p1", "phone", "back").await;
    assert_eq!(live.db.count("people").await, 1);
    live.agree().await;
}

async fn a_row_follows_its_record(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::with(&CLUSTER, contestant, "on_crm_delete => 'delete'", "").await;
    let ids = live.people(3).await;
    live.db
        .execute("CREATE TABLE kept (id text REFERENCES people); INSERT INTO kept VALUES ('p2')")
        .await;
    for id in &ids[..2] {
        live.crm.delete(&live.db, vendor.people(), id).await;
    }
    live.ingest().await;
    let left: Vec<String> = live.db.all("SELECT id FROM people ORDER BY id", &[]).await;
    assert_eq!(left, ["p2", "p3"]);
    assert_eq!(live.crm_id("p2").await, None);
    let said = live.db.text("SELECT last_error FROM crm.status_wide").await;
    assert!(said.contains("p2"), "{said}");
}

/// Made at once and changed at once, so that no time tells one from another.
async fn more_than_a_page_of_one_moment_comes_in_whole_and_once(contestant: Contestant) {
    let facts = contestant.vendor.facts();
    let live = Live::with(&CLUSTER, contestant, "on_crm_insert => 'insert'", "").await;
    let count = facts.page + facts.page / 2 + 7;
    let records: Vec<Map<String, Json>> = (1..=count)
        .map(|n| {
            let fields =
                json!({"id": format!("k{n}"), "last_name": "New", "phone": format!("+{n}")});
            fields.as_object().cloned().unwrap_or_default()
        })
        .collect();
    let ids = live.crm.create(&live.db, facts.people, &records).await;
    live.crm.forget(&live.db).await;
    live.ingest().await;
    let looks = live.crm.looks(&live.db).await;
    assert!(looks >= 2, "{looks} requests for {count} records");
    live.agree().await;
    // Once each, and nothing that comes back.
    let applied = "SELECT count(*) FROM (SELECT FROM crm.audit_log WHERE path = 'ingest' GROUP BY crm_id HAVING count(*) = $1) AS a";
    assert_eq!(live.db.one::<i64>(applied, &[&1i64]).await, count as i64);
    live.nothing_goes_out().await;
    let edit = json!({"first_name": "Changed"});
    live.crm.edit_all(&live.db, facts.people, &ids, &edit).await;
    live.ingest().await;
    let changed = live.db.count("people WHERE first_name = 'Changed'").await;
    assert_eq!(changed, count as i64);
    assert_eq!(live.db.one::<i64>(applied, &[&2i64]).await, count as i64);
    live.ingest().await;
    assert_eq!(live.db.one::<i64>(applied, &[&2i64]).await, count as i64);
    live.nothing_goes_out().await;
    live.agree().await;
}
