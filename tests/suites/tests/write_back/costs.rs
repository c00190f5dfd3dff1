//! What the worker's statements cost grows with what they are about, and with nothing else: neither
//! with the records beside them, nor with what is known of the tables, nor with what the database's
//! settings tell the planner to do without.
//!
//! The cost of a statement is the number of rows that its scans of per-record tables visit, as
//! auto_explain logs it: no other load of the machine changes it.

use std::collections::BTreeMap;

use crm_suites::{Cluster, Desk, Json, Need, Vendor, eventually, json, lacks};

/// Records that a step is about.
const FEW: usize = 100;
/// Records beside them.
const MANY: usize = 2000;
/// How many times the rows that it is about the scans of one statement may visit.
const TIMES: usize = 12;
/// How many times each record may be visited by all executions of a statement that has to do with
/// every record.
const TIMES_IN_ALL: usize = 25;

const TABLES: [&str; 12] = [
    "ledger",
    "queue",
    "pending_write",
    "change",
    "audit_log_",
    "refetch",
    "conflict",
    "dead_letter",
    "overwritten_cell",
    "former_link",
    "mismatched_key",
    "orphaned_create",
];

/// A cluster that does not look at its tables again once it has seen them empty, and whose log has
/// the plan of every statement.
fn cluster() -> Cluster {
    Cluster::with(&[
        ("autovacuum", "off"),
        ("pg_crm.fuse_records", "-1"),
        ("shared_preload_libraries", "auto_explain,pg_crm"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("auto_explain.log_nested_statements", "on"),
        ("auto_explain.log_format", "json"),
    ])
}

/// People whose phone is bidirectional.
async fn desk(cluster: &Cluster) -> Desk {
    let desk = Desk::open(cluster, Vendor::Stub).await;
    desk.db
        .execute(&format!(
            "SELECT crm.alter_field({}, 'phone', direction => 'bidirectional')",
            desk.map
        ))
        .await;
    desk.db.execute("VACUUM ANALYZE").await;
    // Plans are made, and kept, while there is nothing.
    desk.db.drain().await;
    desk
}

/// Writes back and takes in whatever there is.
async fn through(desk: &Desk) {
    eventually("the edits are through", async || {
        desk.db.flush().await.then_some(())
    })
    .await;
    let pass = "SELECT crm.ingest_now()";
    assert!(desk.db.one::<bool>(pass, &[]).await, "the CRM's changes");
}

/// How many rows of per-record tables were visited by each of the worker's statements that were
/// logged from there on: the most by one execution, and by all.
fn visits(cluster: &Cluster, from: usize) -> BTreeMap<String, (usize, usize)> {
    let log = cluster.log();
    let mut visits: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let entries = log[from..]
        .split("\n2")
        .filter(|e| e.contains("pg_crm worker"));
    for entry in entries {
        let Some((_, plan)) = entry.split_once(" plan:\n") else {
            continue;
        };
        let plan: Json = plan
            .trim()
            .parse()
            .unwrap_or_else(|e| panic!("{e}: {plan}"));
        let visited = rows_visited(&plan["Plan"]);
        let text = plan["Query Text"].as_str().unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (most, all) = visits.entry(text).or_default();
        *most = (*most).max(visited);
        *all += visited;
    }
    visits
}

fn rows_visited(node: &Json) -> usize {
    let number = |name: &str| node[name].as_f64().unwrap_or_default();
    let table = node["Relation Name"].as_str().unwrap_or_default();
    let own = match TABLES.iter().any(|name| table.starts_with(name)) {
        true => {
            let removed =
                number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
            (number("Actual Rows") + removed) * number("Actual Loops")
        }
        false => 0.0,
    };
    let below = node["Plans"].as_array().into_iter().flatten();
    own as usize + below.map(rows_visited).sum::<usize>()
}

#[tokio::test]
async fn what_is_known_of_the_tables_costs_nothing() {
    if lacks(Need::Library("auto_explain")) {
        return;
    }
    let cluster = cluster();
    let mut desk = desk(&cluster).await;
    let mut ids = desk.link(FEW).await;
    through(&desk).await;
    // What is prepared once is prepared, while there is little.
    for kind in KINDS {
        edit(&desk, &ids, kind, 1).await;
        through(&desk).await;
    }
    ids.extend(more_people(&desk).await);
    let mut found = costly(&cluster, &desk, &ids, 2).await;

    mislead_the_planner(&desk).await;
    let from = cluster.log().len();
    let old = desk.db.kill_worker().await;
    eventually("the server is back", async || {
        let is_back = cluster.log()[from..].contains("ready to accept");
        is_back.then_some(())
    })
    .await;
    desk.db.reconnect().await;
    desk.db.worker_after(old).await;
    through(&desk).await;
    found.extend(costly(&cluster, &desk, &ids, 3).await);
    assert!(found.is_empty(), "{}", found.join("\n"));
    desk.settle().await;
}

/// Wrong statistics, and a database that does without what the planner would choose.
async fn mislead_the_planner(desk: &Desk) {
    for setting in [
        "enable_hashjoin",
        "enable_mergejoin",
        "enable_indexscan",
        "enable_hashagg",
    ] {
        let sql = format!("ALTER DATABASE {} SET {setting} = off", desk.db.name);
        desk.db.execute(&sql).await;
    }
    let sql = "UPDATE pg_class SET reltuples = 1, relpages = 1000
               WHERE relnamespace = 'crm'::regnamespace AND relkind IN ('r', 'i')";
    desk.db.execute(sql).await;
}

/// The statements that visit more rows than they may.
async fn costly(cluster: &Cluster, desk: &Desk, ids: &[String], round: usize) -> Vec<String> {
    let mut found = Vec::new();
    for kind in KINDS {
        let from = cluster.log().len();
        edit(desk, ids, kind, round).await;
        through(desk).await;
        let costly = visits(cluster, from).into_iter();
        let costly = costly.filter(|(_, (most, _))| *most > TIMES * FEW);
        found
            .extend(costly.map(|(text, (most, _))| format!("{kind}: {most} rows at once: {text}")));
    }
    for kind in ["backfill", "comparison with the ledger", "push", "reload"] {
        let from = cluster.log().len();
        redo(desk, kind).await;
        desk.db.drain().await;
        through(desk).await;
        let costly = visits(cluster, from).into_iter();
        let costly = costly.filter(|(_, (_, all))| *all > TIMES_IN_ALL * ids.len());
        found.extend(costly.map(|(text, (_, all))| format!("{kind}: {all} rows in all: {text}")));
    }
    found
}

const KINDS: [&str; 3] = ["outbound", "bidirectional", "from the CRM"];

/// Edits the first people.
async fn edit(desk: &Desk, ids: &[String], kind: &str, round: usize) {
    let set = async |column: &str| {
        let sql = format!(
            "UPDATE people SET {column} = 'n{round} ' || id WHERE substr(id, 2)::int <= {FEW}"
        );
        desk.db.execute(&sql).await;
    };
    match kind {
        "outbound" => set("first_name").await,
        "bidirectional" => set("phone").await,
        _ => {
            for id in &ids[..FEW] {
                let edit = json!({"phone": format!("theirs {round}")});
                let people = desk.crm.vendor.people();
                desk.crm.edit(&desk.db, people, id, &edit).await;
            }
        }
    }
}

/// Does something about every record.
async fn redo(desk: &Desk, what: &str) {
    let sql = match what {
        "backfill" => format!("SELECT crm.backfill({})", desk.map),
        "push" => format!("SELECT crm.push({})", desk.map),
        "reload" => "CREATE TEMP TABLE kept AS TABLE people; TRUNCATE people;
                     INSERT INTO people SELECT * FROM kept; DROP TABLE kept"
            .to_owned(),
        // Rewrites a mapped column without a trigger.
        _ => "ALTER TABLE people ALTER COLUMN first_name TYPE text USING first_name || '!'"
            .to_owned(),
    };
    desk.db.execute(&sql).await;
}

/// More people on both sides, after the first ones.
async fn more_people(desk: &Desk) -> Vec<String> {
    desk.db
        .execute(&format!(
            "SELECT crm.alter_map({}, on_insert => 'create');
             INSERT INTO people (id, first_name, last_name, email, phone)
             SELECT 'p' || n, 'One', 'More', n || '@example.com', '+47 ' || n
             FROM generate_series({}, {}) n",
            desk.map,
            FEW + 1,
            FEW + MANY
        ))
        .await;
    desk.db.drain().await;
    let sql = "SELECT crm_id FROM crm.ledger WHERE substr(record_key, 2)::int > $1";
    desk.db.all(sql, &[&(FEW as i32)]).await
}
