//! Every transaction of the worker, found by running: its commit fails three times, whatever it is
//! for. Work goes on with growing waits, nobody is charged until his attempts are spent, nothing is
//! lost and nothing is asked for without end.

use std::collections::{BTreeMap, BTreeSet};

use crm_suites::hooks::{SECRET, listening, subscribe};
use crm_suites::live::write;
use crm_suites::{Cluster, Desk, Vendor, eventually, json};

use crate::faults::arm;

/// What else fails once, so that the transactions are reached that note a failure.
const BESIDE: &str = "settle::store:error:1,reconcile_settle::store:error:1,ingest::store:error:1,fold::store:error:1";

/// More than the faults of a round.
const ATTEMPTS: &str = "8";

/// Rows that are edited by calls: more than faults, so that one call gets beyond them.
const CALLED: [&str; 4] = ["p4", "p5", "p6", "p7"];

#[tokio::test]
async fn each_commit_of_the_worker_may_fail() {
    let cluster = Cluster::with(&[("pg_crm.max_attempts", ATTEMPTS)]);
    let (desk, url) = listening(&cluster, Vendor::HubSpot, "{}").await;
    desk.db
        .execute(&format!(
            "SELECT crm.alter_map({0}, on_insert => 'create', on_delete => 'delete');
             SELECT crm.alter_field({0}, 'phone', direction => 'bidirectional')",
            desk.map
        ))
        .await;
    desk.link(10).await;
    subscribe(&desk, &url, SECRET, json!({}));
    desk.db.drain().await;

    arm_anew(&desk, &cluster, &format!("commits,{BESIDE}")).await;
    let usual = everything(&desk, 0).await;
    let listed = std::fs::read_to_string(cluster.data().join("pg_crm.failpoint.commits"));
    let points: BTreeSet<String> = listed.expect("a list").lines().map(Into::into).collect();
    // A file at a time: its transactions serve one purpose.
    let mut files: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for point in &points {
        let (file, _) = point.rsplit_once(':').expect("file:line");
        files.entry(file).or_default().push(point);
    }
    assert!(points.len() > 25, "{points:?}");
    let mut missed: Vec<&String> = Vec::new();
    for (round, (file, points)) in files.iter().enumerate() {
        let faults: Vec<String> = points.iter().map(|p| format!("{p}:error:3")).collect();
        arm_anew(&desk, &cluster, &format!("{},{BESIDE}", faults.join(","))).await;
        let asked = everything(&desk, round + 1).await;
        println!("{file}: {asked} requests, {usual} without faults");
        assert!(
            asked < 4 * usual + 20,
            "{file}: {asked} requests instead of {usual}"
        );
        missed.extend(
            points
                .iter()
                .copied()
                .filter(|point| !happened(&cluster, point)),
        );
    }
    // What a round does depends on what it meets: a few transactions are not needed each time.
    assert!(missed.len() <= 4, "{missed:?} did not fail");
}

fn happened(cluster: &Cluster, point: &str) -> bool {
    let name = point.replace(['/', '@', ':'], ".");
    let marker = format!("pg_crm.failpoint.{name}");
    cluster.data().join(marker).exists()
}

/// Has these faults from now on, each as often as it says.
async fn arm_anew(desk: &Desk, cluster: &Cluster, faults: &str) {
    arm(desk, "").await;
    for file in std::fs::read_dir(cluster.data()).expect("a directory") {
        let path = file.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("pg_crm.failpoint.") {
            std::fs::remove_file(&path).expect("removed");
        }
    }
    arm(desk, faults).await;
}

/// Work of every kind at once, until both sides agree; how many requests it took.
async fn everything(desk: &Desk, round: usize) -> usize {
    let people = desk.crm.vendor.people();
    desk.crm.forget(&desk.db).await;
    desk.db
        .execute(&format!(
            "UPDATE people SET first_name = 'first {round}' WHERE id <> 'p10';
             UPDATE people SET phone = 'ours {round}' WHERE id IN ('p1', 'p2');
             INSERT INTO people (id, last_name) VALUES ('new {round}', 'New');
             DELETE FROM people WHERE id = 'new {}'",
            round.wrapping_sub(1)
        ))
        .await;
    for key in ["p8", "p9"] {
        let id = desk.crm_id(key).await.expect("linked");
        let edit = json!({"phone": format!("theirs {round}")});
        desk.crm.edit(&desk.db, people, &id, &edit).await;
    }
    desk.crm.fault(json!({"status": 503, "times": 1}));
    for key in CALLED {
        let changes = json!({"phone": format!("called {round}")});
        let called = write(&desk.db, key, changes, "force => true").await;
        let known = ["committed", "pending"];
        assert!(known.contains(&called.outcome.as_str()), "{called:?}");
    }
    desk.db
        .execute(&format!(
            "SELECT crm.push({}, columns => '{{last_name}}')",
            desk.map
        ))
        .await;
    eventually("both sides have everything", async || {
        let pass = "SELECT crm.ingest_now(timeout => '2 s')";
        let _: bool = desk.db.one(pass, &[]).await;
        desk.db.flush().await;
        let sql = format!("people WHERE phone IN ('theirs {round}', 'called {round}')");
        let is_done = desk.db.count(&sql).await == 2 + CALLED.len() as i64
            && desk.db.dirty().await == 0
            && desk.field(CALLED[0], "phone").await == format!("called {round}");
        is_done.then_some(())
    })
    .await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    desk.settle().await;
    desk.crm.asked(&desk.db).await.len()
}
