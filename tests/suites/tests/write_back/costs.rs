//! What the worker's statements cost grows with what they are about, and with nothing else: neither
//! with what is known of the tables, nor with what the database's settings tell the planner to do
//! without.

use std::time::{Duration, Instant};

use crm_suites::{Cluster, Desk, Vendor, eventually};

const FEW: usize = 300;
const MANY: usize = 10 * FEW;
/// How much slower than linear the larger half may be, on a machine that has other things to do.
const NOISE: f64 = 3.0;

/// People whose phone is bidirectional, in a cluster that does not look at its tables again once it
/// has seen them empty.
async fn desk(cluster: &Cluster) -> Desk {
    let desk = Desk::open(cluster, Vendor::Stub).await;
    let (map, field) = (desk.map, desk.crm.vendor.field("phone"));
    let sql =
        format!("SELECT crm.alter_field({map}, 'phone', '{field}', direction => 'bidirectional')");
    desk.db.execute(&sql).await;
    desk.db.execute("VACUUM ANALYZE").await;
    // Plans are made, and kept, while there is nothing.
    desk.db.drain().await;
    desk.link(FEW + MANY).await;
    desk.db.drain().await;
    desk
}

/// How long it takes until these edits are through.
async fn through(desk: &Desk, edits: &str) -> Duration {
    let start = Instant::now();
    desk.db.execute(edits).await;
    eventually("the edits are through", async || {
        desk.db.flush().await.then_some(())
    })
    .await;
    start.elapsed()
}

async fn cost_is_linear(cluster: &Cluster, desk: &Desk) {
    let few = format!("substr(id, 2)::int <= {FEW}");
    // What is prepared once is prepared.
    through(desk, "UPDATE people SET phone = 'warm' WHERE id = 'p1'").await;
    for (column, value) in [("phone", "'+49 ' || id"), ("first_name", "'a' || id")] {
        let little = through(
            desk,
            &format!("UPDATE people SET {column} = {value} WHERE {few}"),
        )
        .await;
        let much = through(
            desk,
            &format!("UPDATE people SET {column} = {value} WHERE NOT {few}"),
        )
        .await;
        let ratio = much.as_secs_f64() / little.as_secs_f64();
        eprintln!("{column}: {little:?} for {FEW}, {much:?} for {MANY}: {ratio:.1} times");
        assert!(
            ratio < NOISE * (MANY / FEW) as f64,
            "{column}: {little:?} for {FEW}, {much:?} for {MANY}\n{}",
            cluster.log_tail()
        );
    }
    // Rows that come back take their records again.
    desk.db
        .execute("CREATE TABLE kept AS SELECT * FROM people; TRUNCATE people")
        .await;
    let little = through(
        desk,
        &format!("INSERT INTO people SELECT * FROM kept WHERE {few}"),
    )
    .await;
    let much = through(
        desk,
        &format!("INSERT INTO people SELECT * FROM kept WHERE NOT {few}"),
    )
    .await;
    let ratio = much.as_secs_f64() / little.as_secs_f64();
    eprintln!("reload: {little:?} for {FEW}, {much:?} for {MANY}: {ratio:.1} times");
    assert!(
        ratio < 3.0 * (MANY / FEW) as f64,
        "reload: {little:?}, {much:?}"
    );
    desk.settle().await;
}

#[tokio::test]
async fn old_statistics_cost_nothing() {
    let cluster = Cluster::with(&[("autovacuum", "off")]);
    let desk = desk(&cluster).await;
    cost_is_linear(&cluster, &desk).await;
}

#[tokio::test]
async fn wrong_statistics_and_settings_of_the_database_cost_nothing() {
    let cluster = Cluster::with(&[("autovacuum", "off")]);
    let desk = desk(&cluster).await;
    for setting in [
        "enable_hashjoin",
        "enable_mergejoin",
        "enable_indexscan",
        "enable_hashagg",
    ] {
        let sql = format!("ALTER DATABASE {} SET {setting} = off", desk.db.name);
        desk.db.execute(&sql).await;
    }
    desk.db
        .execute(
            "UPDATE pg_class SET reltuples = 1, relpages = 1000
             WHERE relnamespace = 'crm'::regnamespace AND relkind IN ('r', 'i')",
        )
        .await;
    let old = desk.db.kill_worker().await;
    eventually("the server is back", async || {
        cluster.log_tail().contains("ready to accept").then_some(())
    })
    .await;
    let mut desk = desk;
    desk.db.reconnect().await;
    desk.db.worker_after(old).await;
    cost_is_linear(&cluster, &desk).await;
}
