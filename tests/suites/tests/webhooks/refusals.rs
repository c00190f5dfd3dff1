//! Refused posts are in the audit, and nobody can fill the disk with them.

use std::time::Duration;

use crm_suites::post::{Post, now_ms, updates};
use crm_suites::{Cluster, Vendor, eventually, within};

use crate::{CLUSTER, SECRET, listening};

const REFUSED: &str =
    "crm.audit_log WHERE path = 'ingest' AND operation = 'webhook' AND result = 'refused'";

#[tokio::test]
async fn the_audit_says_why_and_never_what() {
    let (desk, url) = listening(&CLUSTER, Vendor::Stub, "{}").await;
    let forged = Post::relayed("guess", &updates(1..=1));
    let hidden = forged.headers["x-pgcrm-signature"].to_string();
    assert_eq!(forged.send(&url).await.status, 401);
    let stale = Post::relayed_at(now_ms() - 400_000, SECRET, "[]");
    assert_eq!(stale.send(&url).await.status, 401);
    let malformed = Post::relayed_at(now_ms(), SECRET, "told-in-the-body");
    assert_eq!(malformed.send(&url).await.status, 400);
    let rows = async || {
        let sql = format!(
            "SELECT connection, provider, error_class, error FROM {REFUSED} ORDER BY audit_id"
        );
        let rows = desk.db.text(&sql).await;
        (rows.lines().count() == 3).then_some(rows)
    };
    let rows = eventually("each has a row", rows).await;
    let lines: Vec<&str> = rows.lines().collect();
    assert!(
        lines[0].starts_with("stub | stub | auth | ") && lines[0].contains("not signed"),
        "{rows}"
    );
    assert!(
        lines[1].starts_with("stub | stub | auth | ") && lines[1].contains("five minutes"),
        "{rows}"
    );
    assert!(
        lines[2].starts_with("stub | stub | validation | "),
        "{rows}"
    );
    let whole = desk
        .db
        .text(&format!("SELECT audit_log FROM {REFUSED}"))
        .await;
    for word in [hidden.trim_matches('"'), "told-in-the-body", SECRET] {
        assert!(!whole.contains(word), "{word} is in the audit: {whole}");
    }
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_flood_leaves_a_few_rows_and_one_line() {
    // The log is looked at, so nobody else writes to it.
    let cluster = Cluster::start();
    let (desk, url) = listening(&cluster, Vendor::Stub, "{}").await;
    let nowhere = url.replace("/stub", "/nobody%0Awith%20lines");
    for n in 0..40 {
        let forged = Post::relayed("guess", &updates(n..=n));
        assert_eq!(forged.send(&url).await.status, 401);
        let lost = Post::relayed(SECRET, &updates(n..=n));
        assert_eq!(lost.send(&nowhere).await.status, 404);
    }
    // What is answered after them has been written down after them.
    let good = Post::relayed(SECRET, &updates(1..=1)).send(&url).await;
    assert_eq!(good.status, 200);
    let rows = desk.db.count(REFUSED).await;
    assert!((10..=21).contains(&rows), "{rows} rows");
    let lines = cluster.log().matches("there is no such connection").count();
    assert!((1..=2).contains(&lines), "{lines} lines");
    assert!(!cluster.log().contains("\nwith lines"));
    desk.db.assert_checked().await;
}

/// Takes a minute, since that is what it is about.
#[tokio::test]
#[ignore = "takes a minute"]
async fn those_that_got_no_row_are_summed_up() {
    let (desk, url) = listening(&CLUSTER, Vendor::Stub, "{}").await;
    for n in 0..15 {
        let forged = Post::relayed("guess", &updates(n..=n));
        assert_eq!(forged.send(&url).await.status, 401);
    }
    assert_eq!(desk.db.count(REFUSED).await, 10);
    let sum = format!("{REFUSED} AND error LIKE '5 more requests within a minute%'");
    within(Duration::from_secs(90), "the sum", async || {
        (desk.db.count(&sum).await == 1).then_some(())
    })
    .await;
    assert_eq!(desk.db.count(REFUSED).await, 11);
}
