//! Who listens where: settings change, workers end, and databases want the same address.

use crm_suites::post::{Post, updates};
use crm_suites::{Cluster, Vendor, eventually};

use crate::{CLUSTER, SECRET, desk, free_port, inbox, listening, open};

/// Waits until nobody takes connections there.
async fn closed(address: &str) {
    eventually("nobody listens", async || {
        tokio::net::TcpStream::connect(address).await.err()
    })
    .await;
}

async fn is_taken(address: &str, events: u32) {
    let url = format!("http://{address}/webhooks/stub");
    let answer = Post::relayed(SECRET, &updates(events..=events)).send(&url);
    assert_eq!(answer.await.status, 200);
}

#[tokio::test]
async fn a_reload_moves_it_and_ends_it() {
    let cluster = Cluster::start();
    let desk = desk(cluster.database().await, Vendor::Stub, "{}").await;
    let worker = desk.db.worker().await;
    let addresses = [1, 2].map(|_| format!("127.0.0.1:{}", free_port()));
    let set = |address: &str| {
        cluster.configure(&[("pg_crm.webhook_listen", address)]);
        cluster.reload();
    };
    set(&addresses[0]);
    open(&addresses[0]).await;
    is_taken(&addresses[0], 1).await;
    set(&addresses[1]);
    open(&addresses[1]).await;
    closed(&addresses[0]).await;
    is_taken(&addresses[1], 2).await;
    // An address that is none is said to be none, and hurts nobody.
    set("nowhere");
    closed(&addresses[1]).await;
    eventually("the log says so", async || {
        cluster
            .log()
            .contains("cannot listen for webhooks at nowhere")
            .then_some(())
    })
    .await;
    set("");
    set(&addresses[0]);
    open(&addresses[0]).await;
    is_taken(&addresses[0], 3).await;
    assert_eq!(desk.db.worker().await, worker, "without a restart");
    assert_eq!(inbox(&desk.db).await.len(), 3);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_new_worker_listens_at_once() {
    let (desk, url) = listening(&CLUSTER, Vendor::Stub, "{}").await;
    let address = url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("a host");
    for n in 0..2 {
        // Connections of the old one are still remembered by the kernel.
        is_taken(address, n).await;
        let old = desk.db.worker().await;
        desk.db
            .execute(&format!("SELECT pg_terminate_backend({old})"))
            .await;
        desk.db.worker_after(old).await;
        open(address).await;
    }
    is_taken(address, 2).await;
    assert_eq!(inbox(&desk.db).await.len(), 3);
}

/// One setting for the server: the first database that gets the address serves it, another takes
/// over when it ends.
#[tokio::test]
async fn databases_that_want_the_same_address_take_turns() {
    let cluster = Cluster::start();
    let address = format!("127.0.0.1:{}", free_port());
    cluster.configure(&[("pg_crm.webhook_listen", &address)]);
    cluster.reload();
    let first = desk(cluster.database().await, Vendor::Stub, "{}").await;
    open(&address).await;
    let second = desk(cluster.database().await, Vendor::Stub, "{}").await;
    eventually("the second one cannot", async || {
        cluster
            .log()
            .contains("Address already in use")
            .then_some(())
    })
    .await;
    is_taken(&address, 1).await;
    assert_eq!(inbox(&first.db).await.len(), 1);
    first.db.execute("DROP EXTENSION pg_crm").await;
    let taken = async || {
        let url = format!("http://{address}/webhooks/stub");
        let post = Post::relayed(SECRET, &updates(2..=2));
        post.try_send(&url)
            .ok()
            .filter(|answer| answer.status == 200)
    };
    eventually("the second one has taken over", taken).await;
    assert_eq!(inbox(&second.db).await.len(), 1);
    assert_eq!(cluster.log().matches("Address already in use").count(), 1);
    second.db.assert_checked().await;
}
