//! A thousand records take as many requests as `docs/providers.md` says, and no more. `make
//! requests` prints that table anew.

use crm_suites::{Contestant, Desk, Live, json};

use crate::CLUSTER;
use crate::documents::{cell, number};

crm_suites::with_every_contestant!(a_thousand_records_take_few_requests);

const RECORDS: usize = 1_000;

/// The section of the documentation that holds the table.
const SECTION: &str = "Requests";

/// How many requests there were since the last count. They are compared once all are known.
async fn count(desk: &Desk, what: &'static str, counts: &mut Vec<(&'static str, usize)>) {
    counts.push((what, desk.crm.request_count(&desk.db).await));
    desk.crm.forget(&desk.db).await;
}

async fn a_thousand_records_take_few_requests(contestant: Contestant) {
    let people = contestant.vendor.people();
    // Passes that begin by themselves would be counted with those that are asked for.
    let arguments = "on_insert => 'ignore', ingest_interval => '24 hours'";
    let live = Live::with(&CLUSTER, contestant, arguments, "").await;
    live.map_as("title", "outbound").await;
    let mut counts = Vec::new();

    let ids = live.link(RECORDS).await;
    live.crm.forget(&live.db).await;
    live.ingest().await;
    count(&live, "first pass", &mut counts).await;

    live.db
        .execute("UPDATE people SET title = 'Dr ' || id")
        .await;
    live.db.drain().await;
    count(&live, "edits of `outbound` cells", &mut counts).await;

    let edit = "UPDATE people SET phone = 'ours ' || id";
    live.db.execute(edit).await;
    live.quiet().await;
    count(&live, "edits of `bidirectional` cells", &mut counts).await;
    live.ingest().await;
    count(&live, "pass over what we wrote", &mut counts).await;

    // Of Pipedrive a list, of which only the first entry is the row's.
    let edit = "UPDATE people SET email = id || '@c.example'";
    live.db.execute(edit).await;
    live.quiet().await;
    count(&live, "edits of e-mail addresses", &mut counts).await;

    live.crm.pass_time();
    let edit = json!({"phone": "theirs"});
    live.crm.edit_all(&live.db, people, &ids, &edit).await;
    live.ingest().await;
    count(&live, "pass over their edits", &mut counts).await;
    assert_eq!(
        live.db.count("people WHERE phone = 'theirs'").await,
        RECORDS as i64
    );

    live.agree().await;

    let desk = Desk::open_with(
        &CLUSTER,
        contestant,
        "on_insert => 'create', ingest_interval => '24 hours'",
    )
    .await;
    let create = format!(
        "INSERT INTO people (id, last_name) SELECT 'n' || n, 'New ' || n FROM generate_series(1, {RECORDS}) n"
    );
    desk.db.execute(&create).await;
    desk.settle().await;
    count(&desk, "creations", &mut counts).await;

    let arguments = "on_insert => 'create', ingest => 'off'";
    let live = Live::with(&CLUSTER, contestant, arguments, "").await;
    live.db.execute(&create).await;
    live.db.drain().await;
    let what = "creations with `bidirectional` cells";
    count(&live, what, &mut counts).await;
    // A map without records: as a second load, so many creations would wait to be approved.
    let live = Live::with(&CLUSTER, contestant, arguments, "").await;
    let person = |n: usize| {
        let person = json!({"id": format!("t{n}"), "last_name": format!("Their {n}")});
        person.as_object().cloned().unwrap_or_default()
    };
    let theirs: Vec<_> = (1..=RECORDS).map(person).collect();
    live.crm.create(&live.db, people, &theirs).await;
    live.crm.forget(&live.db).await;
    let ours = create.replace("'n' ||", "'t' ||");
    live.db.execute(&ours).await;
    live.db.drain().await;
    live.agree().await;
    count(&live, "the same where the records are there", &mut counts).await;

    for (what, requests) in &counts {
        println!("requests\t{what}\t{:?}\t{requests}", contestant.vendor);
    }
    for (what, requests) in counts {
        let most = number(cell(SECTION, what, contestant.vendor));
        assert!(requests <= most, "{what}: {requests} requests, not {most}");
    }
}
