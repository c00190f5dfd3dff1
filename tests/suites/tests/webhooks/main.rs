//! What CRMs tell of their own accord gets into the inbox once, from those who hold the secret, and from nobody else.

mod applied;
mod functions;
mod inbox;
mod listener;
mod refusals;
mod senders;
mod takeovers;

use std::net::TcpListener;
use std::sync::LazyLock;

use crm_suites::{Cluster, Crm, Database, Desk, Vendor};

/// For scenarios that leave the server as it was.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

const SECRET: &str = "secret-of-the-hooks";

/// People at a CRM whose webhooks are signed with [`SECRET`].
async fn desk(db: Database, vendor: Vendor, options: &str) -> Desk {
    let crm = Crm::connect_with(&db, vendor, options).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    let mut credentials: crm_suites::Json = vendor.credentials().parse().expect("JSON");
    credentials["webhook_secret"] = SECRET.into();
    let name = vendor.name();
    desk.db
        .execute(&format!(
            "SELECT crm.set_credentials('{name}', '{credentials}')"
        ))
        .await;
    desk
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A desk whose worker listens, and the address to post to.
async fn listening(cluster: &Cluster, vendor: Vendor, options: &str) -> (Desk, String) {
    let db = cluster.bare_database().await;
    let address = format!("127.0.0.1:{}", free_port());
    db.execute(&format!(
        "ALTER DATABASE {} SET pg_crm.webhook_listen = '{address}'; CREATE EXTENSION pg_crm",
        db.name
    ))
    .await;
    let desk = desk(db, vendor, options).await;
    open(&address).await;
    let url = format!("http://{address}/webhooks/{}", vendor.name());
    (desk, url)
}

/// Waits until somebody takes connections there.
async fn open(address: &str) {
    crm_suites::eventually("the worker listens", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
}

/// The inbox: object, record and kind of each event, in one order.
async fn inbox(db: &Database) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', crm_object, crm_id, kind) FROM crm.webhook_inbox
               ORDER BY crm_id, kind, event_id";
    db.all(sql, &[]).await
}
