//! Records that are listed, and those that are matched with rows by what they have in common.

use crm_suites::{Contestant, Json, Live, SqlState, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    records_are_listed_page_by_page,
    what_is_on_both_sides_is_matched_and_linked,
    a_link_that_is_there_is_left_alone,
    rows_outside_the_filter_are_left_out,
);

const CREATES: &str = "on_insert => 'create', ingest => 'off', enabled => false";

async fn create(live: &Live, people: &[Json]) -> Vec<String> {
    let people: Vec<_> = people
        .iter()
        .filter_map(|p| p.as_object().cloned())
        .collect();
    let object = live.crm.vendor.people();
    live.crm.create(&live.db, object, &people).await
}

async fn records_are_listed_page_by_page(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    // More than a page of any vendor's but the largest.
    let person = |n: usize| json!({"last_name": format!("Name {n}"), "phone": if n.is_multiple_of(2) { "even" } else { "odd" }});
    let people: Vec<_> = (1..=510).map(person).collect();
    let ids = create(&live, &people).await;
    live.crm.delete(&live.db, vendor.people(), &ids[0]).await;
    let (last_name, phone) = (vendor.field("last_name"), vendor.field("phone"));
    let list = |more: &str| {
        let (name, object) = (vendor.name(), vendor.people());
        format!("crm.records('{name}', '{object}', '{{{last_name}}}'{more})")
    };
    let listed = format!(
        "SELECT DISTINCT r.crm_id FROM {} AS r WHERE r.fields ->> '{last_name}' LIKE 'Name %' AND r.modified_at IS NOT NULL",
        list("")
    );
    let mut listed: Vec<String> = live.db.all(&listed, &[]).await;
    let mut there = ids[1..].to_vec();
    listed.sort_unstable();
    there.sort_unstable();
    assert_eq!(listed, there);
    let even = json!({ phone: "even" });
    let even = list(&format!(", '{even}'"));
    let even = format!(
        "SELECT count(DISTINCT crm_id) FROM {even} AS r WHERE r.fields ->> '{phone}' IS NULL"
    );
    assert_eq!(live.db.one::<i64>(&even, &[]).await, 255);
    let either = json!({ phone: ["odd", "even"], last_name: "Name 7" });
    let either = format!(
        "SELECT count(DISTINCT crm_id) FROM {}",
        list(&format!(", '{either}'"))
    );
    assert_eq!(live.db.one::<i64>(&either, &[]).await, 1);
    let error = live
        .db
        .error(&format!(
            "SELECT * FROM crm.records('{}', 'no_such_object')",
            vendor.name()
        ))
        .await;
    assert_eq!(error.code(), &SqlState::UNDEFINED_OBJECT, "{error:?}");
    let error = live
        .db
        .error(&format!(
            "SELECT * FROM crm.records('{}', '{}', '{{{last_name},no_such_field}}')",
            vendor.name(),
            vendor.people()
        ))
        .await;
    assert_eq!(error.code(), &SqlState::UNDEFINED_OBJECT, "{error:?}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.contains("no_such_field"), "{detail}");
    live.db.assert_checked().await;
}

/// What a match says of rows and records: `status record_key crm_id`.
async fn matched(live: &Live, more: &str) -> Vec<String> {
    let on = json!({"last_name": live.crm.vendor.field("last_name")});
    let sql = format!(
        "SELECT concat_ws(' ', status, record_key, crm_id) FROM crm.match({}, '{on}'{more})",
        live.map
    );
    live.db.all(&sql, &[]).await
}

async fn what_is_on_both_sides_is_matched_and_linked(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    let names = ["Lovelace", "Twin", "Twin", "Alone", "Theirs"];
    let person = |name: &&str| json!({"last_name": name, "phone": "theirs"});
    let mut people: Vec<_> = names.iter().map(person).collect();
    people[4]["id"] = "other".into();
    let ids = create(&live, &people).await;
    live.db
        .execute(
            "INSERT INTO people (id, last_name, first_name, phone) VALUES
                 ('a', ' LOVELACE', 'Ada', 'ours'), ('t', 'Twin', NULL, NULL), ('n', 'Nobody', NULL, NULL),
                 ('x', 'Theirs', NULL, NULL), ('e', '', NULL, NULL)",
        )
        .await;
    let mut twins = [ids[1].clone(), ids[2].clone()];
    twins.sort_unstable();
    let expected = [
        format!("unique a {}", ids[0]),
        format!("ambiguous x {}", ids[4]),
        "ambiguous t".to_owned(),
        format!("ambiguous {}", twins[0]),
        format!("ambiguous {}", twins[1]),
        "unmatched n".to_owned(),
        "unmatched e".to_owned(),
        format!("unmatched {}", ids[3]),
    ];
    let sorted = |mut lines: Vec<String>| {
        lines.sort_unstable();
        lines
    };
    let expected = sorted(expected.to_vec());
    live.db
        .execute("SET default_transaction_read_only = on")
        .await;
    assert_eq!(sorted(matched(&live, "").await), expected);
    live.db.execute("RESET default_transaction_read_only").await;
    assert_eq!(live.db.count("crm.ledger").await, 0, "a dry run");
    assert_eq!(sorted(matched(&live, ", dry_run => false").await), expected);
    assert_eq!(live.crm_id("a").await.as_ref(), Some(&ids[0]));
    assert_eq!(live.db.count("crm.ledger").await, 1);
    // Then it is pushed: what people typed stands, what was empty is filled, the key is there.
    live.db
        .execute(&format!(
            "DELETE FROM people WHERE id <> 'a'; SELECT crm.enable({map}); SELECT crm.push({map})",
            map = live.map
        ))
        .await;
    live.db.drain().await;
    live.quiet().await;
    let record = live.record("a").await;
    assert_eq!(record[vendor.field("id")], "a");
    live.assert_both("a", "phone", "theirs").await;
    live.assert_both("a", "last_name", "Lovelace").await;
    live.assert_both("a", "first_name", "Ada").await;
    live.db.assert_checked().await;
}

async fn a_link_that_is_there_is_left_alone(contestant: Contestant) {
    let live = Live::with(&CLUSTER, contestant, CREATES, "").await;
    let people = ["One", "Two"].map(|name| json!({ "last_name": name }));
    let ids = create(&live, &people).await;
    live.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'One'), ('p2', 'Two')")
        .await;
    // Crosswise: an operator knows better.
    let link = format!("SELECT crm.link({}, 'p1', '{}')", live.map, ids[1]);
    live.db.execute(&link).await;
    let lines = matched(&live, ", dry_run => false, write_key => false").await;
    assert!(lines.contains(&"linked p1".to_owned()), "{lines:?}");
    assert!(lines.contains(&format!("linked {}", ids[1])), "{lines:?}");
    assert!(lines.contains(&"unmatched p2".to_owned()), "{lines:?}");
    assert_eq!(live.crm_id("p1").await.as_ref(), Some(&ids[1]));
    assert_eq!(live.crm_id("p2").await, None);
    let error = live
        .db
        .error(&format!(
            "SELECT * FROM crm.match({}, '{{\"title\": \"x\"}}')",
            live.map
        ))
        .await;
    assert_eq!(error.code(), &SqlState::UNDEFINED_COLUMN, "{error:?}");
    live.db.assert_checked().await;
}

async fn rows_outside_the_filter_are_left_out(contestant: Contestant) {
    let arguments = format!("{CREATES}, filter => 'phone IS NULL'");
    let live = Live::with(&CLUSTER, contestant, &arguments, "").await;
    let people = ["One", "Two"].map(|name| json!({ "last_name": name }));
    let ids = create(&live, &people).await;
    live.db
        .execute("INSERT INTO people (id, last_name, phone) VALUES ('p1', 'One', NULL), ('p2', 'Two', 'outside')")
        .await;
    let lines = matched(&live, ", dry_run => false").await;
    let expected = [
        format!("unique p1 {}", ids[0]),
        format!("unmatched {}", ids[1]),
    ];
    assert_eq!(lines, expected);
    assert_eq!(live.crm_id("p2").await, None);
    live.db.assert_checked().await;
}
