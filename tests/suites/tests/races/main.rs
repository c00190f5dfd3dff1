//! Several at once, on both sides: nobody's edit is lost, nobody waits for ever.

mod counters;
mod first_writes;
mod gaps;
mod lone_calls;
mod replaced_links;
mod returning_rows;
mod waiting_edits;

use std::sync::LazyLock;

use crm_suites::{Cluster, Desk, Vendor};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

/// People of whom these columns are bidirectional, of a database of its own.
async fn desk(vendor: Vendor, columns: &[&str]) -> Desk {
    let desk = Desk::open(&CLUSTER, vendor).await;
    for column in columns {
        bidirectional(&desk, column, "").await;
    }
    desk
}

/// Maps a column both ways, with these further arguments.
async fn bidirectional(desk: &Desk, column: &str, more: &str) {
    let (map, field) = (desk.map, desk.crm.vendor.field(column));
    let sql = format!(
        "SELECT crm.alter_field({map}, '{column}', '{field}', direction => 'bidirectional'{more})"
    );
    desk.db.execute(&sql).await;
}

/// Waits until nothing is under way any more.
async fn quiet(desk: &Desk) {
    let start = std::time::Instant::now();
    loop {
        let sql = "SELECT to_jsonb(p)::text FROM crm.pending_writes p WHERE state <> 'dead'
                   UNION ALL SELECT to_jsonb(c)::text FROM crm.change c
                   UNION ALL SELECT to_jsonb(k)::text FROM crm.claim k";
        let waiting = desk.db.text(sql).await;
        if waiting.is_empty() {
            return;
        }
        assert!(
            start.elapsed() < crm_suites::eventually::PATIENCE,
            "this still waits:\n{waiting}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
