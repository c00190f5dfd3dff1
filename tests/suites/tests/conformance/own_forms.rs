//! A bidirectional cell that the CRM keeps in a form that no description tells: rounded, cut off,
//! in another case. It is our own value: the row keeps it as it is, nobody is told of a change that
//! nobody made, and what people of the CRM enter is taken in all the same.

use crm_suites::{Contestant, Desk, Json, Live, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    a_form_that_no_description_tells_is_no_edit,
    a_row_that_is_created_keeps_what_the_crm_alters,
    what_a_person_enters_is_no_form_once_ours_was_seen,
    whoever_reads_a_record_has_seen_what_was_written,
    an_answer_that_is_lost_hides_no_form,
    whatever_an_answer_shows_is_a_form_of_what_was_written,
    an_outbound_cell_is_sent_once_whatever_the_crm_makes_of_it,
);

const NAME: &str = "A name that is longer than its column";

/// What the CRM makes of the columns that the scenarios change.
fn rules() -> Json {
    json!({"score": {"decimals": 1}, "first_name": {"upper": true}, "last_name": {"characters": 24}})
}

/// People on both sides, of whom any difference would be a person's to decide, with a CRM that
/// alters what it is sent from now on.
async fn people(contestant: Contestant, arguments: &str) -> Live {
    let of_fields = "on_conflict => 'manual_review'";
    let live = Live::with(&CLUSTER, contestant, arguments, of_fields).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", of_fields).await;
    live.people(2).await;
    live.ingest().await;
    live.crm.alter(&live.db, &rules()).await;
    live.crm.pass_time();
    live
}

fn number(value: &Json) -> f64 {
    let text = value.as_str().map_or(value.to_string(), str::to_owned);
    text.parse().expect("a number")
}

/// The CRM holds its forms of what the row holds.
async fn is_altered(live: &Live, key: &str) {
    let score = number(&live.cell(key, "score").await);
    assert_eq!(
        number(&live.field(key, "score").await),
        (score * 10.0).round() / 10.0
    );
    for (column, form) in [
        ("first_name", str::to_uppercase as fn(&str) -> String),
        ("last_name", |name| {
            name.chars()
                .take(24)
                .collect::<String>()
                .trim_end()
                .to_owned()
        }),
    ] {
        let cell = live.cell(key, column).await;
        let held = live.field(key, column).await;
        let held = held.as_str().expect("a text").trim_end();
        assert_eq!(held, form(cell.as_str().expect("a text")), "{column}");
    }
}

async fn rows(live: &Live) -> Json {
    let sql = "SELECT jsonb_agg(to_jsonb(p) ORDER BY id) FROM people p";
    live.db.one(sql, &[]).await
}

/// Passes over what was written change neither side, and nothing is sent.
async fn nothing_happens(live: &Live) {
    let object = live.crm.vendor.people();
    let before = (rows(live).await, live.crm.records(&live.db, object).await);
    for _ in 0..2 {
        live.crm.pass_time();
        live.ingest().await;
        live.nothing_goes_out().await;
        live.db.no_record_is_to_be_read().await;
    }
    let after = (rows(live).await, live.crm.records(&live.db, object).await);
    assert_eq!(before, after);
    nobody_is_told(live).await;
}

async fn nobody_is_told(live: &Live) {
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    let told = "SELECT path || ' ' || result || ' ' || fields FROM crm.audit_log
                WHERE result IN ('conflict', 'superseded', 'overwritten') OR path = 'ingest' AND result <> 'stored_form'";
    assert_eq!(live.db.all::<String>(told, &[]).await, Vec::<String>::new());
}

async fn a_form_that_no_description_tells_is_no_edit(contestant: Contestant) {
    let live = people(contestant, "on_insert => 'ignore'").await;
    let edit = |score: &str, name: &str| {
        format!(
            "UPDATE people SET score = {score}, first_name = '{name}', last_name = '{NAME} {name}' WHERE id = 'p1'"
        )
    };
    // One edit after the other, before the record was read, and after.
    for (score, name) in [("12.25", "Mac Donald"), ("13.75", "Mac Duff")] {
        live.db.execute(&edit(score, name)).await;
        live.quiet().await;
        is_altered(&live, "p1").await;
        assert_eq!(
            number(&live.cell("p1", "score").await),
            score.parse::<f64>().unwrap()
        );
        nobody_is_told(&live).await;
    }
    // A call that compares the whole record, and one that says what the row shows.
    live.crm.pass_time();
    live.crm.forget(&live.db).await;
    live.write("p2", json!({"phone": "+20"}))
        .await
        .expect("committed");
    let asked = live.crm.asked(&live.db).await;
    live.crm.forget(&live.db).await;
    live.write("p1", json!({"phone": "+20"}))
        .await
        .expect("committed");
    let same = live.crm.asked(&live.db).await;
    // One that was changed a moment ago may be read again, to be sure.
    assert!(same.len() <= asked.len() + 1, "{same:?} {asked:?}");
    nothing_happens(&live).await;
    live.write("p1", json!({"phone": "+30"}))
        .await
        .expect("committed");
    let shown: Json = live
        .db
        .one("SELECT jsonb_build_object('score', score, 'first_name', first_name, 'last_name', last_name) FROM people WHERE id = 'p1'", &[])
        .await;
    let base = format!("base => '{shown}'");
    live.write_with("p1", json!({"phone": "+40"}), &base)
        .await
        .expect("committed");
    // The same by calls.
    for score in [40.25, 41.75] {
        let changes =
            json!({"score": score, "first_name": "Ada L", "last_name": format!("{NAME} {score}")});
        live.write("p1", changes).await.expect("committed");
        is_altered(&live, "p1").await;
        live.write("p1", json!({"phone": format!("+{score}")}))
            .await
            .expect("committed");
    }
    nothing_happens(&live).await;
    live.write("p1", json!({"phone": "+50"}))
        .await
        .expect("committed");
    live.db.execute(&edit("42.25", "Mac Beth")).await;
    live.quiet().await;
    is_altered(&live, "p1").await;
    nothing_happens(&live).await;
    live.db.assert_checked().await;
}

async fn a_row_that_is_created_keeps_what_the_crm_alters(contestant: Contestant) {
    let live = people(contestant, "on_insert => 'create'").await;
    let insert = format!(
        "INSERT INTO people (id, score, first_name, last_name) VALUES ('n1', 12.25, 'Mac Donald', '{NAME}'), ('n2', 12.25, 'Mac Donald', '{NAME}')"
    );
    live.db.execute(&insert).await;
    live.db.drain().await;
    is_altered(&live, "n1").await;
    live.write("n1", json!({"phone": "+2"}))
        .await
        .expect("committed");
    live.db
        .execute("UPDATE people SET score = 13.75 WHERE id = 'n2'")
        .await;
    live.quiet().await;
    is_altered(&live, "n2").await;
    nothing_happens(&live).await;
    live.write("n2", json!({"phone": "+2"}))
        .await
        .expect("committed");
    live.db.assert_checked().await;
}

async fn what_a_person_enters_is_no_form_once_ours_was_seen(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", "").await;
    live.people(1).await;
    let edit =
        format!("UPDATE people SET score = 12.25, first_name = 'Mac Donald', last_name = '{NAME}'");
    live.db.execute(&edit).await;
    live.quiet().await;
    live.ingest().await;
    let theirs = json!({"score": 12.3, "first_name": "MAC DONALD", "last_name": &NAME[..24]});
    live.crm.pass_time();
    live.edit_in_crm("p1", theirs.clone()).await;
    live.ingest().await;
    for column in ["score", "first_name", "last_name"] {
        assert_eq!(live.cell("p1", column).await, theirs[column], "{column}");
    }
    // And over what the CRM altered.
    live.crm.alter(&live.db, &rules()).await;
    live.db.execute(&edit).await;
    live.quiet().await;
    live.crm.pass_time();
    live.ingest().await;
    assert_eq!(number(&live.cell("p1", "score").await), 12.25);
    live.crm.pass_time();
    live.edit_in_crm("p1", json!({"score": 12.2, "first_name": "BEA"}))
        .await;
    live.ingest().await;
    assert_eq!(number(&live.cell("p1", "score").await), 12.2);
    assert_eq!(live.cell("p1", "first_name").await, "BEA");
    assert_eq!(live.cell("p1", "last_name").await, NAME);
    live.db.assert_checked().await;
}

/// Ways in which a record is read but by ingestion, each with a record of its own.
async fn read_in_every_way(live: &Live, keys: &[String; 5]) {
    let [called, shown, refused, reconciled, both] = keys;
    live.write(called, json!({"phone": "+20"}))
        .await
        .expect("committed");
    let _: Json = live
        .db
        .one("SELECT crm.read_live('people', $1)", &[shown])
        .await;
    live.edit_in_crm(refused, json!({"phone": "+21"})).await;
    live.write(refused, json!({"phone": "+20"}))
        .await
        .expect("conflict");
    live.db
        .execute(&format!(
            "UPDATE people SET phone = '+20' WHERE id = '{reconciled}'"
        ))
        .await;
    live.quiet().await;
    // By the transaction that wrote it, too.
    live.db
        .execute(&format!(
            "BEGIN; SELECT crm.write('people', '{both}', '{{\"score\": 12.25, \"phone\": \"+20\"}}'); SELECT crm.read_live('people', '{both}'); COMMIT"
        ))
        .await;
    // Where nothing may be changed, a read is only a read.
    live.db
        .execute(&format!(
            "BEGIN READ ONLY; SELECT crm.read_live('people', '{shown}'); COMMIT"
        ))
        .await;
}

async fn whoever_reads_a_record_has_seen_what_was_written(contestant: Contestant) {
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", "").await;
    live.people(10).await;
    live.ingest().await;
    let keys = |from: usize| std::array::from_fn(|n| format!("p{}", from + n));
    let (kept, altered) = (keys(1), keys(6));
    let write = async |keys: &[String; 5]| {
        let edit = format!(
            "UPDATE people SET score = 12.25, first_name = 'Mac Donald', last_name = '{NAME}' WHERE id = ANY ('{{{}}}')",
            keys.join(",")
        );
        live.db.execute(&edit).await;
        live.quiet().await;
    };
    write(&kept).await;
    live.crm.pass_time();
    read_in_every_way(&live, &kept).await;
    live.crm.alter(&live.db, &rules()).await;
    write(&altered).await;
    live.crm.pass_time();
    read_in_every_way(&live, &altered).await;
    for key in &altered {
        is_altered(&live, key).await;
    }
    // What people enter now may look like what the CRM makes of ours.
    live.crm.pass_time();
    let theirs = json!({"score": 12.3, "first_name": "MAC DONALD", "last_name": &NAME[..24]});
    for key in &kept {
        live.edit_in_crm(key, theirs.clone()).await;
    }
    for key in &altered {
        live.edit_in_crm(key, json!({"score": 12.2})).await;
    }
    live.ingest().await;
    let mut lost = Vec::new();
    for key in &kept {
        for column in ["score", "first_name", "last_name"] {
            let cell = live.cell(key, column).await;
            if cell != theirs[column] {
                lost.push((key, column, cell));
            }
        }
    }
    for key in &altered {
        let cell = live.cell(key, "score").await;
        if number(&cell) != 12.2 {
            lost.push((key, "score", cell));
        }
    }
    assert_eq!(lost, []);
    for key in &altered {
        assert_eq!(live.cell(key, "first_name").await, "Mac Donald", "{key}");
        assert_eq!(live.cell(key, "last_name").await, NAME, "{key}");
    }
    live.db.assert_checked().await;
}

async fn an_answer_that_is_lost_hides_no_form(contestant: Contestant) {
    let live = people(contestant, "on_insert => 'ignore'").await;
    live.crm
        .fail(&live.db, "write", "drop_after_apply", 1)
        .await;
    live.db
        .execute("UPDATE people SET score = 12.25, first_name = 'Mac Donald' WHERE id = 'p1'")
        .await;
    live.quiet().await;
    live.crm.relent(&live.db).await;
    assert_eq!(number(&live.field("p1", "score").await), 12.3);
    assert_eq!(number(&live.cell("p1", "score").await), 12.25);
    nothing_happens(&live).await;
    live.write("p1", json!({"phone": "+2"}))
        .await
        .expect("committed");
    live.db.assert_checked().await;
}

/// What no rule could foresee: the CRM puts names in brackets.
fn brackets() -> Json {
    json!({"first_name": {"brackets": true}})
}

async fn whatever_an_answer_shows_is_a_form_of_what_was_written(contestant: Contestant) {
    if !contestant.vendor.facts().writes_are_shown {
        return;
    }
    let of_fields = "on_conflict => 'manual_review'";
    let live = Live::with(&CLUSTER, contestant, "on_insert => 'create'", of_fields).await;
    live.people(2).await;
    live.ingest().await;
    live.crm.alter(&live.db, &brackets()).await;
    live.crm.pass_time();
    // By an edit, by a call, and by a creation.
    live.db
        .execute("UPDATE people SET first_name = 'Bea' WHERE id = 'p1'")
        .await;
    live.quiet().await;
    let called = live.write("p2", json!({"first_name": "Cid"})).await;
    assert_eq!(
        called.expect("committed").values["first_name"],
        json!("[Cid]")
    );
    live.db
        .execute("INSERT INTO people (id, first_name, last_name) VALUES ('n1', 'Dora', 'Byron')")
        .await;
    live.db.drain().await;
    let forms = [("p1", "Bea"), ("p2", "Cid"), ("n1", "Dora")];
    for (key, name) in forms {
        assert_eq!(live.field(key, "first_name").await, format!("[{name}]"));
        assert_eq!(live.db.count("crm.unseen_write").await, 0);
        // Before anything else has read the record, and after.
        for phone in ["+20", "+30"] {
            live.write(key, json!({"phone": phone}))
                .await
                .expect("committed");
        }
        let field = live.crm.vendor.field("first_name");
        let held = format!(
            "SELECT fields -> '{field}' ->> 'held' FROM crm.audit_log WHERE record_key = '{key}' AND fields -> '{field}' ? 'held'"
        );
        let held: Vec<String> = live.db.all(&held, &[]).await;
        assert_eq!(held, [format!("[{name}]")], "{key}");
    }
    nothing_happens(&live).await;
    // The same again, and something else.
    for name in ["Eva", "Eva Maria"] {
        let edit = format!("UPDATE people SET first_name = '{name}'");
        live.db.execute(&edit).await;
        live.quiet().await;
        for (key, _) in forms {
            assert_eq!(live.field(key, "first_name").await, format!("[{name}]"));
            live.write(key, json!({"phone": name}))
                .await
                .expect("committed");
        }
    }
    nothing_happens(&live).await;
    live.crm.pass_time();
    live.edit_in_crm("p1", json!({"first_name": "[Theirs]"}))
        .await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "first_name").await, "[Theirs]");
    live.db.assert_checked().await;
}

async fn an_outbound_cell_is_sent_once_whatever_the_crm_makes_of_it(contestant: Contestant) {
    if !contestant.vendor.facts().writes_are_shown {
        return;
    }
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.link(2).await;
    desk.crm.alter(&desk.db, &brackets()).await;
    let object = desk.crm.vendor.people();
    for name in ["Bea", "Cid"] {
        let edit = format!("UPDATE people SET first_name = '{name}'");
        desk.db.execute(&edit).await;
        desk.db.drain().await;
        desk.db.assert_checked().await;
        let records = desk.crm.records(&desk.db, object).await;
        for _ in 0..2 {
            desk.crm.pass_time();
            desk.ingest().await;
            desk.nothing_goes_out().await;
            desk.db.no_record_is_to_be_read().await;
        }
        for key in ["p1", "p2"] {
            assert_eq!(desk.field(key, "first_name").await, format!("[{name}]"));
        }
        assert_eq!(desk.crm.records(&desk.db, object).await, records);
    }
    let overwritten = "SELECT overwritten FROM crm.status_wide";
    assert_eq!(desk.db.one::<i64>(overwritten, &[]).await, 0);
    // What a person enters is written over as ever.
    desk.crm.pass_time();
    let id = desk.crm_id("p1").await.expect("it is linked");
    let theirs = json!({"first_name": "[Theirs]"});
    desk.crm.edit(&desk.db, object, &id, &theirs).await;
    desk.ingest().await;
    desk.db.drain().await;
    assert_eq!(desk.field("p1", "first_name").await, "[Cid]");
    desk.db.assert_checked().await;
}
