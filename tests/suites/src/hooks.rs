//! CRMs that tell of changes by themselves, and a worker that listens.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::crm::{Contestant, Crm};
use crate::database::Database;
use crate::desk::Desk;
use crate::eventually::eventually;
use crate::post::{Post, event};

/// Some sign with it, some show it, and some show it as a user's name and password.
pub const SECRET: &str = "hooks:secret-of-the-hooks";

/// People at a CRM whose webhooks are signed with [`SECRET`].
pub async fn desk(db: Database, whom: impl Into<Contestant>, options: &str) -> Desk {
    let crm = Crm::connect_with(&db, whom, options).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    let mut credentials: Value = desk.crm.credentials().parse().expect("JSON");
    credentials["webhook_secret"] = SECRET.into();
    let credentials = credentials.to_string();
    desk.crm.set_credentials(&desk.db, &credentials).await;
    desk
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A desk whose worker listens, and the address to post to.
pub async fn listening(
    cluster: &Cluster,
    whom: impl Into<Contestant>,
    options: &str,
) -> (Desk, String) {
    let db = cluster.bare_database().await;
    let address = format!("127.0.0.1:{}", free_port());
    db.execute(&format!(
        "ALTER DATABASE {} SET pg_crm.webhook_listen = '{address}'; CREATE EXTENSION pg_crm",
        db.name
    ))
    .await;
    let desk = desk(db, whom, options).await;
    open(&address).await;
    let url = format!("http://{address}/webhooks/{}", desk.crm.vendor.name());
    (desk, url)
}

/// Waits until somebody takes connections there.
pub async fn open(address: &str) {
    eventually("the worker listens", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
}

/// The inbox: object, record and kind of each event, in one order.
pub async fn inbox(db: &Database) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', crm_object, crm_id, kind) FROM crm.webhook_inbox
               ORDER BY crm_id, kind, event_id";
    db.all(sql, &[]).await
}

/// Has the CRM post to the listener from now on.
pub fn subscribe(desk: &Desk, url: &str, secret: &str, more: Value) {
    let mut subscription = json!({"url": url, "secret": secret});
    for (name, value) in more.as_object().expect("an object") {
        subscription[name] = value.clone();
    }
    let vendor = desk.crm.vendor.name();
    desk.crm
        .sim()
        .post(&format!("webhooks/{vendor}"), &subscription);
}

/// Waits until nothing is under way any more; how many events were taken, and how many given up.
pub async fn delivered(desk: &Desk, at_least: u64) -> (u64, u64) {
    let vendor = desk.crm.vendor.name();
    eventually("everything is delivered", async || {
        let tally = desk.crm.sim().get(&format!("webhooks/{vendor}"))["tally"].clone();
        let number = |name: &str| tally[name].as_u64().unwrap_or_default();
        let (delivered, failed) = (number("delivered"), number("failed"));
        (delivered + failed >= at_least && number("pending") == 0).then_some((delivered, failed))
    })
    .await
}

/// Tells a listener of changes of people, twice, in the place of a CRM that posts nothing by
/// itself.
pub async fn relay(desk: &Desk, url: &str, changes: &[(&str, &str)]) {
    let people = desk.crm.vendor.people();
    for (n, (id, change)) in changes.iter().enumerate() {
        let event = event(&format!("{id} {change} {n}"), people, id, change);
        for _ in 0..2 {
            let post = Post::relayed(SECRET, &json!([event]));
            assert_eq!(post.send(url).await.status, 200);
        }
    }
}
