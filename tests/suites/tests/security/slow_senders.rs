//! Senders of webhooks that take their time: they cost their own connections, and nobody else's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crm_suites::hooks::{SECRET, listening};
use crm_suites::post::{Post, updates};
use crm_suites::{Cluster, Vendor};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

fn connect(url: &str, bytes: &[u8]) -> TcpStream {
    let address = url.trim_start_matches("http://").split('/').next();
    let mut stream = TcpStream::connect(address.expect("a host")).expect("a connection");
    let _ = stream.write_all(bytes);
    stream
}

/// Good posts get through, each at once, while so many others have begun to post and go no further.
async fn gets_through(begun: &[u8]) {
    let (desk, url) = listening(&CLUSTER, Vendor::Stub, "{}").await;
    let slow: Vec<TcpStream> = (0..1000).map(|_| connect(&url, begun)).collect();
    for n in 1..=20 {
        let start = Instant::now();
        let answer = Post::relayed(SECRET, &updates(n..=n)).send(&url).await;
        assert_eq!(answer.status, 200, "post {n}");
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "post {n} took {:?}",
            start.elapsed()
        );
    }
    assert_eq!(desk.db.count("crm.webhook_inbox").await, 20);
    let files = desk.db.vitals().await.files;
    assert!(files < 300, "{files} files");
    drop(slow);
}

#[tokio::test]
async fn a_thousand_half_open_heads_keep_nobody_out() {
    gets_through(b"POST /webhooks/stub HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
}

#[tokio::test]
async fn a_thousand_half_open_bodies_keep_nobody_out() {
    gets_through(b"POST /webhooks/stub HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[").await;
}

#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let (_desk, url) = listening(&CLUSTER, Vendor::Stub, "{}").await;
    let patience = Some(Duration::from_secs(30));
    for begun in [
        &b""[..],
        b"POST /webhooks/stub HTTP/1.1\r\n",
        b"POST /webhooks/stub HTTP/1.1\r\nContent-Length: 9\r\n\r\n[",
    ] {
        let mut slow = connect(&url, begun);
        slow.set_read_timeout(patience).expect("a timeout");
        let start = Instant::now();
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).expect("it is closed");
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
    }
}
