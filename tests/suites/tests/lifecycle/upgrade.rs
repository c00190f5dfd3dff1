//! ALTER EXTENSION UPDATE under a worker that has much to do, and the versions that are released.

use std::path::PathBuf;
use std::time::Duration;

use crm_suites::eventually::promptly;
use crm_suites::{Vendor, cluster};

use crate::{CLUSTER, hanging};

/// An upgrade script that exists as long as this.
struct Script(PathBuf);

impl Script {
    fn write(from: &str, to: &str, sql: &str) -> Script {
        let path = cluster::extension_directory().join(format!("pg_crm--{from}--{to}.sql"));
        std::fs::write(&path, sql).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Script(path)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn updated_while_busy() {
    let desk = hanging(&CLUSTER, Vendor::Salesforce).await;
    let from: String = desk
        .db
        .one(
            "SELECT extversion FROM pg_extension WHERE extname = 'pg_crm'",
            &[],
        )
        .await;
    let sql = "ALTER TABLE crm.ledger ADD COLUMN suite_was_here int;
               CREATE OR REPLACE VIEW crm.suite_was_here AS SELECT 1 AS one;
               SELECT crm_internal.settle_rights();";
    let script = Script::write(&from, "9.9.9test", sql);
    let update = desk
        .db
        .execute("ALTER EXTENSION pg_crm UPDATE TO '9.9.9test'");
    promptly(Duration::from_secs(5), "ALTER EXTENSION UPDATE", update).await;
    drop(script);
    desk.crm.sim().end_faults();
    desk.settle().await;
    desk.db
        .execute("UPDATE people SET phone = 'after the update'")
        .await;
    desk.settle().await;
}
