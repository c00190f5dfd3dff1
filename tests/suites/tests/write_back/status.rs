//! What an administrator sees in crm.status: how much there is, what waits and for how long, and
//! what is in the way; whatever there is, looking at it costs the same.

use crm_suites::{Cluster, Desk, Live, Vendor, eventually};

use crate::CLUSTER;

/// Pages that a statement reads, of tables and indexes.
async fn pages(desk: &Desk, sql: &str) -> u64 {
    let plan: crm_suites::Json = desk
        .db
        .one(
            &format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"),
            &[],
        )
        .await;
    let plan = &plan[0]["Plan"];
    let read = ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| plan[name].as_u64());
    read.into_iter().flatten().sum()
}

/// The ledger and the queue have tens of thousands of records, and no statistics: neither is
/// scanned.
#[tokio::test]
async fn looking_costs_the_same_whatever_there_is() {
    let cluster = Cluster::with(&[("autovacuum", "off")]);
    let desk = Desk::open_with(&cluster, Vendor::Stub, "on_insert => 'create'").await;
    desk.db
        .execute("SELECT crm.pause('stub'); INSERT INTO people (id, last_name) VALUES ('a', 'A')")
        .await;
    let load = async |from: i32, to: i32| {
        let sql = format!(
            "INSERT INTO crm.ledger (map_id, record_key, crm_id)
             SELECT 1 + n % 2, 'x' || n, 'x' || n FROM generate_series(2 * {from}, 2 * {to} - 1) n;
             INSERT INTO crm.queue (map_id, record_key, op, cells, changed_at)
             SELECT 1, 'x' || n, 'u', crm_internal.cell_mask(1), ARRAY[NULL, now() - interval '1 hour']
             FROM generate_series({from}, {to} - 1) n"
        );
        desk.db.execute(&sql).await;
        let mut read = Vec::new();
        for view in [
            "status",
            "connections",
            "rate_budget",
            "diagnose()",
            "metrics()",
        ] {
            let look = format!("SELECT * FROM crm.{view}");
            pages(&desk, &look).await;
            read.push((view, pages(&desk, &look).await));
        }
        read
    };
    let few = load(0, 20_000).await;
    let many = load(20_000, 100_000).await;
    for ((view, few), (_, many)) in few.into_iter().zip(many) {
        eprintln!("{view}: {few} pages with 20,000 records, {many} with 100,000");
        assert!(
            many < few + few / 4 + 20,
            "{view}: {few} pages, and then {many}"
        );
    }
    let shown = "SELECT queued BETWEEN 80000 AND 120000 AND dirty_cells BETWEEN 80000 AND 120000
                        AND linked BETWEEN 80000 AND 120000
                        AND oldest_unsent >= '1 hour' AND estimated @> '{linked,queued,dirty_cells}'
                 FROM crm.status_wide";
    let wide = "SELECT to_jsonb(s) FROM crm.status_wide s";
    assert!(
        desk.db.one::<bool>(shown, &[]).await,
        "{}",
        desk.db.text(wide).await
    );
    let waiting = "SELECT waiting BETWEEN 80000 AND 120000 FROM crm.connections";
    assert!(desk.db.one::<bool>(waiting, &[]).await);
    desk.db
        .execute("DELETE FROM crm.queue; DELETE FROM crm.ledger; DELETE FROM crm.change")
        .await;
}

/// Rows are those that PostgreSQL estimated, links are counted, and the difference was never sent;
/// what waits is as old as its oldest edit, also where it was sent in vain and where it is paused.
#[tokio::test]
async fn coverage_and_the_oldest_edit_that_was_not_sent() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(3).await;
    desk.settle().await;
    let shown = async || {
        let sql = "SELECT concat_ws(' ', state, coverage, dirty_cells, oldest_unsent IS NULL, reason) FROM crm.status";
        desk.db.one::<String>(sql, &[]).await
    };
    assert_eq!(shown().await, "idle 3/? 0 t");
    desk.db
        .execute("ALTER TABLE people DISABLE TRIGGER USER; INSERT INTO people (id, last_name) VALUES ('new', 'New'); ANALYZE people")
        .await;
    let captured = shown().await;
    assert!(
        captured.starts_with("idle 3/~4 0 t edits are not captured: "),
        "{captured}"
    );
    desk.db
        .execute("ALTER TABLE people ENABLE TRIGGER USER; SELECT crm.pause('stub')")
        .await;
    let wide = "SELECT concat_ws(' ', rows, linked, never_sent, estimated) FROM crm.status_wide";
    assert_eq!(
        desk.db.one::<String>(wide, &[]).await,
        "4 3 1 {rows,never_sent}"
    );
    desk.db
        .execute(
            "UPDATE people SET phone = 'waits' WHERE id = 'p1';
             UPDATE crm.change SET changed_at = now() - interval '2 days'",
        )
        .await;
    assert_eq!(shown().await, "idle 3/~4 1 f connection paused");
    let age = "SELECT extract(day FROM oldest_unsent)::int FROM crm.status";
    assert_eq!(desk.db.one::<i32>(age, &[]).await, 2);
    // Sent in vain, it waits for somebody.
    let id = desk.crm_id("p1").await.expect("linked");
    desk.crm.refuse(&desk.db, &id, "validation", "no").await;
    desk.db.execute("SELECT crm.resume('stub')").await;
    eventually("a dead letter", async || {
        desk.db.flush().await;
        (desk.db.count("crm.dead_letters").await == 1).then_some(())
    })
    .await;
    assert_eq!(desk.db.one::<i32>(age, &[]).await, 2);
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.db.drain().await;
    assert_eq!(shown().await, "idle 3/~4 0 t");
    desk.db.assert_checked().await;
}

/// A terminal of 160 columns has room for it.
#[tokio::test]
async fn it_fits_on_a_screen_in_the_order_of_connections() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "SELECT crm.create_connection('salesforce', 'stub'), crm.create_connection('acme', 'stub');
             CREATE TABLE customers (id int PRIMARY KEY, name text);
             SELECT crm.map_object('salesforce', 'customers', 'contact'), crm.map_object('acme', 'customers', 'contact')",
        )
        .await;
    let order = "SELECT connection FROM crm.status";
    let shown: Vec<String> = desk.db.all(order, &[]).await;
    assert_eq!(shown, ["acme", "salesforce", "stub"]);
    // As psql pads columns: to the longest of the name and the values, three characters between
    // two.
    let rows = desk.db.rows("SELECT * FROM crm.status", &[]).await;
    let names: Vec<String> = rows[0]
        .columns()
        .iter()
        .map(|c| c.name().to_owned())
        .collect();
    let room: usize = names
        .iter()
        .map(|name| {
            let longest = match name.as_str() {
                "provider" => "dynamics365",
                "state" => "disabled",
                "ingest" => "syncing",
                "coverage" => "~1000000/~1000000",
                "relation" => "customers",
                "connection" => "salesforce",
                "reason" => "",
                name => name,
            };
            longest.len().max(name.len()) + 3
        })
        .sum();
    assert!(room <= 160, "{room} columns: {names:?}");
}

/// Ingestion has a state of its own.
#[tokio::test]
async fn ingestion_is_syncing_while_it_reads() {
    let live = Live::open(&CLUSTER, Vendor::HubSpot).await;
    live.people(1).await;
    live.ingest().await;
    let state = "SELECT ingest FROM crm.status";
    assert_eq!(live.db.one::<String>(state, &[]).await, "idle");
    let lag = "SELECT ingest_lag BETWEEN '0 s' AND '10 min' FROM crm.status_wide";
    assert!(live.db.one::<bool>(lag, &[]).await);
    let look = live.page_on_its_way().await;
    assert_eq!(live.db.one::<String>(state, &[]).await, "syncing");
    look.await.expect("no panic");
    eventually("it has read all", async || {
        let now = live.db.one::<String>(state, &[]).await;
        (now == "idle").then_some(())
    })
    .await;
    live.db
        .execute(&format!(
            "SELECT crm.alter_map({}, ingest => 'off')",
            live.map
        ))
        .await;
    assert_eq!(live.db.one::<String>(state, &[]).await, "off");
}

/// A turn of the worker that takes long is seen: a slow transform of the owner's.
#[tokio::test]
async fn a_worker_that_is_busy_for_long_is_seen() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    desk.db
        .execute(
            "CREATE FUNCTION slow(jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN PERFORM pg_sleep(8); RETURN $1; END $$",
        )
        .await;
    let field = desk.crm.vendor.field("phone");
    let sql = format!(
        "SELECT crm.alter_field({}, 'phone', '{field}', transform_out => 'slow(jsonb)')",
        desk.map
    );
    desk.db.execute(&sql).await;
    desk.db.execute("UPDATE people SET phone = 'slow'").await;
    let session = desk.db.session().await;
    let flush = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    let reason = "SELECT coalesce(reason, '') FROM crm.status";
    eventually("the worker is seen to be busy", async || {
        let shown = desk.db.one::<String>(reason, &[]).await;
        shown
            .starts_with("the worker has been busy for 00:00:0")
            .then_some(())
    })
    .await;
    assert!(flush.await.expect("no panic"));
    assert_eq!(desk.db.one::<String>(reason, &[]).await, "");
    desk.db.assert_checked().await;
}
