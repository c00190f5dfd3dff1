//! The worker comes, works, and goes as the server and its databases do, and is in nobody's way.

mod audit;
mod clocks;
mod copies;
mod credentials;
mod databases;
mod diagnosis;
mod encodings;
mod extension;
mod idle;
mod metrics;
mod pooling;
mod prepared;
mod reload;
mod restore;
mod secrets;
mod shutdown;
mod slots;
mod standby;
mod upgrade;

use std::sync::LazyLock;

use crm_suites::{Cluster, Desk, Vendor, json};

/// For scenarios that leave the server as it was.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

/// People at a CRM that hangs on every request, with a flush under way.
async fn hanging(cluster: &Cluster, vendor: Vendor) -> Desk {
    let desk = Desk::open(cluster, vendor).await;
    desk.link(5).await;
    desk.crm
        .fault(json!({"delay_ms": 60_000, "times": "unlimited"}));
    desk.db.execute("UPDATE people SET phone = 'hangs'").await;
    let session = desk.db.session().await;
    tokio::spawn(async move {
        let _ = session.client().batch_execute("SELECT crm.flush()").await;
    });
    crm_suites::eventually("the request is under way", async || {
        (desk
            .db
            .count("crm.cell_status WHERE state = 'sending'")
            .await
            > 0)
        .then_some(())
    })
    .await;
    desk
}
