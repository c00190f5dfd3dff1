//! What a CRM keeps in another form than it was sent in is our own value all the same: the row
//! stays as it is, nothing is sent twice, and nobody is told of a change that nobody made.

use crm_suites::{Contestant, Desk, Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    what_the_crm_makes_of_a_value_is_not_written_over,
    what_the_crm_makes_of_a_value_is_not_taken_for_an_edit,
    an_edit_of_another_column_meets_no_conflict_that_nobody_made,
    a_form_that_nobody_foresees_is_written_over_once,
    a_persons_value_is_written_over_as_often_as_it_is_set,
    a_value_that_no_field_can_hold_is_not_sent,
    a_number_that_the_column_would_round_is_put_aside,
    a_moment_that_the_column_would_round_is_put_aside,
    a_new_row_is_not_made_of_rounded_values,
);

/// Mapped columns that hold any number, and any id.
async fn widen(desk: &Desk) {
    desk.db
        .execute("ALTER TABLE people ALTER score TYPE numeric, ADD employer text")
        .await;
    desk.map_field("score", "").await;
    desk.map_field("employer", "data_type => 'reference'").await;
}

/// A person for each number, with an address and an id that are spelt otherwise than the CRM spells
/// them.
async fn odd_people(desk: &Desk, vendor: Vendor, numbers: &[&str]) -> Json {
    desk.link(numbers.len()).await;
    let acme = json!({"firm": "Acme"});
    let acme = [acme.as_object().cloned().expect("fields")];
    let firms = vendor.facts().firms.object;
    let made = desk.crm.create(&desk.db, firms, &acme).await;
    let firm = vendor.respelt(&made[0]);
    for (n, number) in numbers.iter().enumerate() {
        let sql = format!(
            "UPDATE people SET score = {number}, email = 'Ada.P' || id || '@Example.COM', employer = $1 WHERE id = 'p{}'",
            n + 1
        );
        desk.db.rows(&sql, &[&firm]).await;
    }
    rows(desk).await
}

async fn rows(desk: &Desk) -> Json {
    let sql = "SELECT jsonb_agg(to_jsonb(p) ORDER BY id) FROM people p";
    desk.db.one(sql, &[]).await
}

/// Three rounds in both directions change nothing on either side, and nothing is asked of the CRM
/// but to be read.
async fn nothing_happens(desk: &Desk, held: &Json) {
    let object = desk.crm.vendor.people();
    let records = desk.crm.records(&desk.db, object).await;
    let told = desk.audit_rows().await;
    for _ in 0..3 {
        desk.crm.pass_time();
        desk.ingest().await;
        desk.nothing_goes_out().await;
    }
    assert_eq!(&rows(desk).await, held);
    assert_eq!(desk.crm.records(&desk.db, object).await, records);
    let overwritten = "SELECT overwritten FROM crm.status_wide WHERE map_id = $1";
    assert_eq!(desk.db.one::<i64>(overwritten, &[&desk.map]).await, 0);
    assert_eq!(desk.audit_rows().await, told);
    assert_eq!(desk.db.count("crm.conflicts").await, 0);
}

async fn what_the_crm_makes_of_a_value_is_not_written_over(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open(&CLUSTER, contestant).await;
    widen(&desk).await;
    let held = odd_people(&desk, vendor, vendor.facts().beyond).await;
    desk.db.drain().await;
    nothing_happens(&desk, &held).await;
}

async fn what_the_crm_makes_of_a_value_is_not_taken_for_an_edit(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    widen(&live).await;
    let held = odd_people(&live, vendor, vendor.facts().beyond).await;
    live.quiet().await;
    nothing_happens(&live, &held).await;
    // What a person of the CRM makes of it is taken in all the same.
    live.edit_in_crm("p1", json!({"score": 7})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "score").await, json!(7));
}

async fn an_edit_of_another_column_meets_no_conflict_that_nobody_made(contestant: Contestant) {
    let vendor = contestant.vendor;
    let arguments = "on_conflict => 'immutable_after_bind'";
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", arguments).await;
    live.people(vendor.facts().beyond.len()).await;
    for (n, number) in vendor.facts().beyond.iter().enumerate() {
        let key = format!("p{}", n + 1);
        let address = format!("Ada.{key}@Example.COM");
        let score: Json = live
            .db
            .one(&format!("SELECT to_jsonb({number})"), &[])
            .await;
        let changes = json!({"score": score, "email": address});
        live.write(&key, changes.clone()).await.expect("committed");
        live.write(&key, json!({"phone": "+2"}))
            .await
            .expect("committed");
        // What the table shows is a base as it is, and so is what was asked for.
        let base = format!("base => '{changes}'");
        live.write_with(&key, json!({"phone": "+3"}), &base)
            .await
            .expect("committed");
        assert_eq!(live.cell(&key, "score").await, score);
        assert_eq!(live.cell(&key, "email").await, address);
    }
    live.quiet().await;
    nothing_happens(&live, &rows(&live).await).await;
    for state in ["conflict", "superseded"] {
        let sql = format!("crm.audit_log WHERE result = '{state}'");
        assert_eq!(live.db.count(&sql).await, 0);
    }
}

/// The map knows nothing of its fields, as after a restore: their scale is news.
async fn a_form_that_nobody_foresees_is_written_over_once(contestant: Contestant) {
    let vendor = contestant.vendor;
    let facts = vendor.facts();
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.db.execute("SET pg_crm.check_fields = off").await;
    widen(&desk).await;
    let held = odd_people(&desk, vendor, facts.beyond).await;
    desk.db.drain().await;
    for _ in 0..2 {
        desk.crm.pass_time();
        desk.ingest().await;
        desk.db.drain().await;
        desk.db.no_record_is_to_be_read().await;
    }
    let overwritten = "SELECT overwritten FROM crm.status_wide WHERE map_id = $1";
    let overwritten: i64 = desk.db.one(overwritten, &[&desk.map]).await;
    let formed = desk
        .db
        .count("crm.audit_log WHERE result = 'stored_form' AND fields::text LIKE '%held%'")
        .await;
    assert_eq!(overwritten, formed);
    assert!(formed > 0 || !facts.rounds);
    let object = vendor.people();
    let records = desk.crm.records(&desk.db, object).await;
    let told = desk.audit_rows().await;
    for _ in 0..3 {
        desk.crm.pass_time();
        desk.ingest().await;
        desk.nothing_goes_out().await;
    }
    assert_eq!(rows(&desk).await, held);
    assert_eq!(desk.crm.records(&desk.db, object).await, records);
    assert_eq!(desk.audit_rows().await, told);
    assert_eq!(
        desk.db
            .count("crm.overwritten_cell WHERE NOT is_stored_form")
            .await,
        0
    );
    // What the row holds next goes there as ever.
    desk.db.execute("UPDATE people SET score = 7").await;
    desk.db.drain().await;
    assert_eq!(number(&desk.field("p1", "score").await), 7.0);
}

async fn a_persons_value_is_written_over_as_often_as_it_is_set(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(1).await;
    desk.db.execute("UPDATE people SET phone = 'ours'").await;
    desk.settle().await;
    let id = desk.crm_id("p1").await.expect("it is linked");
    let people = desk.crm.vendor.people();
    for n in 1..=3 {
        desk.crm.pass_time();
        desk.crm
            .edit(&desk.db, people, &id, &json!({"phone": "theirs"}))
            .await;
        desk.ingest().await;
        desk.db.drain().await;
        desk.db.no_record_is_to_be_read().await;
        assert_eq!(desk.field("p1", "phone").await, "ours");
        let overwritten = "SELECT overwritten FROM crm.status_wide";
        assert_eq!(desk.db.one::<i64>(overwritten, &[]).await, n);
    }
    assert_eq!(
        desk.db
            .count("crm.overwritten_cell WHERE NOT is_stored_form")
            .await,
        0
    );
}

async fn a_value_that_no_field_can_hold_is_not_sent(contestant: Contestant) {
    // Others say for themselves what they cannot hold.
    if matches!(contestant.vendor, Vendor::Stub | Vendor::Dynamics365) {
        return;
    }
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", "").await;
    live.people(1).await;
    // Neither crm.write() nor crm.resolve_conflict() takes it.
    for call in [
        "crm.write('people', 'p1', '{\"score\": 1e400}')",
        "crm_internal.check_value(1, 'people'::regclass, 'score', '1e400')",
    ] {
        let error = live.db.error(&format!("SELECT {call}")).await;
        assert_eq!(error.code().code(), "22003", "{error:?}");
    }
    live.db
        .execute("UPDATE people SET score = 1e400 WHERE id = 'p1'")
        .await;
    live.quiet().await;
    let dead: Vec<String> = live
        .db
        .all(
            "SELECT error_class || ' ' || vendor_code || ' ' || (error LIKE 'column \"score\" holds 1e%') FROM crm.dead_letters",
            &[],
        )
        .await;
    assert_eq!(dead, ["validation unstorable_value true"]);
    assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
    live.db.assert_checked().await;
}

/// The row, its record and what is told once a record is put aside whose value the column would
/// change.
async fn put_aside(live: &Live, column: &str, entered: Json, told: &str) {
    let before = (rows(live).await, live.audit_rows().await);
    live.edit_in_crm("p1", json!({column: entered})).await;
    let held = live.field("p1", column).await;
    for _ in 0..2 {
        live.crm.pass_time();
        live.ingest().await;
        live.quiet().await;
    }
    assert_eq!(rows(live).await, before.0);
    assert_eq!(live.field("p1", column).await, held);
    let sql = "SELECT error FROM crm.dead_letters WHERE path = 'ingest'";
    let errors: Vec<String> = live.db.all(sql, &[]).await;
    assert_eq!(errors, [told]);
    live.nothing_goes_out().await;
}

async fn a_number_that_the_column_would_round_is_put_aside(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute(
            "CREATE DOMAIN points AS numeric(10, 1); ALTER TABLE people ALTER score TYPE points",
        )
        .await;
    live.map_field("score", "").await;
    live.people(1).await;
    live.db.execute("UPDATE people SET score = 12.3").await;
    live.quiet().await;
    live.ingest().await;
    let told = "column \"score\" of type numeric(10,1) cannot hold 12.34 exactly";
    put_aside(&live, "score", json!(12.34), told).await;
    // Once it fits, it is taken and nothing is left of it.
    live.edit_in_crm("p1", json!({"score": 12.5})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "score").await, json!(12.5));
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
    // An edit of both sides that the policy decides for the CRM.
    live.edit_in_crm("p1", json!({"score": 12.34})).await;
    live.db.execute("UPDATE people SET score = 99").await;
    live.quiet().await;
    assert_eq!(number(&live.cell("p1", "score").await), 99.0);
    assert_eq!(number(&live.field("p1", "score").await), 12.34);
    let sql = "SELECT conflict_type FROM crm.conflicts";
    let kinds: Vec<String> = live.db.all(sql, &[]).await;
    assert_eq!(kinds, ["mapping_mismatch"]);
}

fn number(value: &Json) -> f64 {
    let text = value.as_str().map_or(value.to_string(), str::to_owned);
    text.parse().expect("a number")
}

async fn a_moment_that_the_column_would_round_is_put_aside(contestant: Contestant) {
    // Others know whole seconds only.
    if !matches!(contestant.vendor, Vendor::Stub | Vendor::HubSpot) {
        return;
    }
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute("ALTER TABLE people ALTER seen TYPE timestamptz(0)")
        .await;
    live.map_field("seen", "").await;
    live.people(1).await;
    let told = "column \"seen\" of type timestamp(0) with time zone cannot hold '2026-03-04T03:06:07.089Z' exactly";
    put_aside(&live, "seen", json!("2026-03-04T03:06:07.089Z"), told).await;
}

async fn a_new_row_is_not_made_of_rounded_values(contestant: Contestant) {
    let arguments = "on_insert => 'ignore', on_crm_insert => 'insert'";
    let live = Live::with(&CLUSTER, contestant, arguments, "").await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE int")
        .await;
    live.map_field("score", "").await;
    let people = [("Ada", json!(12.5)), ("Bea", json!(12))];
    let people: Vec<_> = people
        .iter()
        .map(|(name, score)| json!({"first_name": name, "last_name": name, "score": score}))
        .filter_map(|person| person.as_object().cloned())
        .collect();
    live.crm
        .create(&live.db, live.crm.vendor.people(), &people)
        .await;
    live.ingest().await;
    let names: Vec<String> = live.db.all("SELECT first_name FROM people", &[]).await;
    assert_eq!(names, ["Bea"]);
    let errors: Vec<String> = live.db.all("SELECT error FROM crm.dead_letters", &[]).await;
    assert_eq!(
        errors,
        ["column \"score\" of type integer cannot hold 12.5 exactly"]
    );
}
