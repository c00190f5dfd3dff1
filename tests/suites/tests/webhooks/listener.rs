//! The worker's listener: its answers, and what clients cannot do to it.

use std::io::{Read, Write};
use std::net::TcpStream;

use crm_suites::post::{Answer, Post, event, now_ms, updates};
use crm_suites::{Desk, Vendor, eventually, json};

use crate::{CLUSTER, SECRET, desk, inbox, listening};

/// Sends bytes as they are; what is left to read until the other side closes comes with [`rest`].
fn raw(url: &str, bytes: &str) -> TcpStream {
    let address = url.trim_start_matches("http://").split('/').next();
    let mut stream = TcpStream::connect(address.expect("a host")).expect("a connection");
    let patience = Some(std::time::Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a timeout");
    stream.write_all(bytes.as_bytes()).expect("it is sent");
    stream
}

fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // It may be cut off in the middle of what nobody wanted to read.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn stub() -> (Desk, String) {
    listening(&CLUSTER, Vendor::Stub, "{}").await
}

/// Ports at which a process listens.
fn ports(pid: i32) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process");
    let sockets: Vec<String> = files
        .flatten()
        .filter_map(|file| {
            let link = std::fs::read_link(file.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the table");
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| {
        row.get(3) == Some(&"0A") && sockets.iter().any(|s| row.get(9) == Some(&s.as_str()))
    })
    .map(|row| row[1].to_owned())
    .collect()
}

#[tokio::test]
async fn it_is_off_unless_it_is_asked_for() {
    let desk = desk(CLUSTER.database().await, Vendor::Stub, "{}").await;
    assert_eq!(ports(desk.db.worker().await), [""; 0]);
    let (listening, _) = stub().await;
    assert_eq!(ports(listening.db.worker().await).len(), 1);
}

#[tokio::test]
async fn each_outcome_has_its_answer() {
    let (desk, url) = stub().await;
    let post = |events| Post::relayed(SECRET, &events);
    let told = |answer: Answer| (answer.status, answer.body);
    let accepted = |n| (200, json!({"accepted": n}));
    assert_eq!(told(post(updates(1..=2)).send(&url).await), accepted(2));
    assert_eq!(
        inbox(&desk.db).await,
        ["contact c1 changed", "contact c2 changed"]
    );
    assert_eq!(told(post(updates(1..=3)).send(&url).await), accepted(1));
    assert_eq!(told(post(json!([])).send(&url).await), accepted(0));
    let unmapped = json!([event("n", "deal", "d1", "UPDATE")]);
    assert_eq!(told(post(unmapped).send(&url).await), accepted(0));
    let query = format!("{url}?some=query");
    assert_eq!(told(post(updates(4..=4)).send(&query).await), accepted(1));

    let body = updates(9..=9).to_string();
    let status = async |post: Post, url: &str| post.send(url).await.status;
    assert_eq!(status(post(json!({})), &url).await, 400);
    assert_eq!(
        status(Post::relayed("guess", &updates(9..=9)), &url).await,
        401
    );
    let stale = Post::relayed_at(now_ms() - 400_000, SECRET, &body);
    assert_eq!(status(stale, &url).await, 401);
    assert_eq!(
        status(post(updates(9..=9)), &url.replace("/stub", "/nobody")).await,
        404
    );
    assert_eq!(
        status(post(updates(9..=9)), &url.replace("/webhooks/", "/")).await,
        404
    );
    let large = format!("[{}]", " ".repeat(1024 * 1024));
    let large = Post::relayed_at(now_ms(), SECRET, &large);
    assert_eq!(status(large, &url).await, 413);
    let get = rest(raw(&url, "GET /webhooks/stub HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(
        get.starts_with("HTTP/1.1 405 ") && get.contains("allow: POST"),
        "{get}"
    );
    desk.db
        .execute("SELECT crm.set_credentials('stub', '{}')")
        .await;
    let unconfigured = post(updates(9..=9)).send(&url).await;
    assert_eq!(unconfigured.status, 503);
    assert!(unconfigured.headers.contains_key("retry-after"));
    assert_eq!(inbox(&desk.db).await.len(), 4);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn names_are_unescaped() {
    let (desk, url) = stub().await;
    let name = "acme/eu süd";
    desk.db
        .execute(&format!(
            r#"SELECT crm.create_connection('{name}', 'stub', credentials => '{{"webhook_secret": "{SECRET}"}}')"#
        ))
        .await;
    let url = url.replace("/stub", "/acme%2Feu%20s%C3%BCd");
    let answer = Post::relayed(SECRET, &updates(1..=1)).send(&url).await;
    assert_eq!((answer.status, answer.body), (200, json!({"accepted": 0})));
}

/// Nothing of it is waited for: the client announces, or sends, more than anybody wants to read.
#[tokio::test]
async fn a_body_without_end_is_not_read() {
    let (desk, url) = stub().await;
    let announced =
        "POST /webhooks/stub HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n[";
    let answer = rest(raw(&url, announced));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let head = "POST /webhooks/stub HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = raw(&url, head);
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let mut sent = 0;
    while stream.write_all(chunk.as_bytes()).is_ok() {
        sent += 1;
        assert!(sent < 1_000, "it goes on reading");
    }
    let refused = "crm.audit_log WHERE operation = 'webhook' AND result = 'refused' AND error_class = 'validation'";
    eventually("both are in the audit", async || {
        (desk.db.count(refused).await == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_head_without_end_is_not_read() {
    let (_desk, url) = stub().await;
    let head = format!("POST /webhooks/stub HTTP/1.1\r\nX: {}", "x".repeat(100_000));
    let answer = rest(raw(&url, &head));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// Those who keep their place without using it are sent away after a while, or for others who come.
#[tokio::test]
async fn clients_that_dawdle_do_not_shut_others_out() {
    let (desk, url) = stub().await;
    let begun = "POST /webhooks/stub HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[";
    let silent = raw(&url, "POST /webhooks/stub HTTP/1.1\r\nHost: ");
    let dawdlers: Vec<TcpStream> = (0..64).map(|_| raw(&url, begun)).collect();
    let send = async || Post::relayed(SECRET, &updates(1..=1)).send(&url).await;
    assert_eq!(send().await.status, 200);
    // They are told that they took too long; those who gave way to others, and those who never end
    // their head, hear nothing.
    let told: Vec<String> = dawdlers.into_iter().map(rest).collect();
    let late = told
        .iter()
        .filter(|t| t.starts_with("HTTP/1.1 408 "))
        .count();
    let silently = told.iter().filter(|t| t.is_empty()).count();
    assert!(
        late >= 50 && late + silently == 64,
        "{late} too late, {silently} gave way"
    );
    let told = rest(silent);
    assert!(
        told.is_empty() || told.starts_with("HTTP/1.1 408 "),
        "{told}"
    );
    assert_eq!(send().await.status, 200);
    assert_eq!(desk.db.count("crm.webhook_inbox").await, 1);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn what_cannot_be_stored_now_is_asked_for_again() {
    let (desk, url) = stub().await;
    desk.db
        .execute("BEGIN; LOCK TABLE crm.webhook_inbox IN ACCESS EXCLUSIVE MODE")
        .await;
    let busy = Post::relayed(SECRET, &updates(1..=1)).send(&url).await;
    assert_eq!(busy.status, 503);
    assert!(busy.headers.contains_key("retry-after"));
    desk.db.execute("COMMIT").await;
    let answer = Post::relayed(SECRET, &updates(1..=1)).send(&url).await;
    assert_eq!((answer.status, answer.body), (200, json!({"accepted": 1})));
}
