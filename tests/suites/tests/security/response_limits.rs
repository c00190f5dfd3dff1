//! Answers that are made to do harm: the worker's memory and time are bounded, and other
//! connections go on.

use std::io::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crm_suites::{Cluster, Crm, Database, Json, Vendor, Vitals};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::raw::Raw;

const LIMIT_KB: u64 = 16 * 1024;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::shared_with(&[
        ("pg_crm.max_response_bytes", "16MB"),
        ("pg_crm.request_timeout", "3s"),
    ])
});

/// A database with a CRM that is well, and a connection "bad" to a server.
async fn beside(server: &Raw) -> (Database, Crm) {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    let url = server.url();
    db.execute(&format!(
        r#"SELECT crm.create_connection('bad', 'salesforce', '{url}', credentials => '{{"access_token": "t0ken-of-bad"}}')"#
    ))
    .await;
    assert_eq!(ask(&db, "hubspot").await["ok"], true);
    (db, crm)
}

async fn ask(db: &Database, connection: &str) -> Json {
    let sql = "SELECT to_jsonb(t) FROM crm.test_connection($1) AS t";
    db.one(sql, &[&connection]).await
}

/// Asks the bad connection, while the good one goes on; what is told. Memory stays within three
/// times the limit.
async fn survives(server: Raw) -> Json {
    let (db, _crm) = beside(&server).await;
    let worker = db.worker().await;
    let before = Vitals::of(worker);
    let other = db.session().await;
    let (told, good) = tokio::join!(
        ask(&db, "bad"),
        other.one::<bool>("SELECT ok FROM crm.test_connection('hubspot')", &[])
    );
    assert!(good, "the other connection goes on");
    assert_eq!(db.worker().await, worker, "the worker lives");
    let grown = Vitals::of(worker).peak_kb.saturating_sub(before.memory_kb);
    assert!(grown < 3 * LIMIT_KB, "{grown} kB more");
    told
}

/// The same with an answer that is not taken; why not.
async fn refuses(server: Raw) -> String {
    let told = survives(server).await;
    assert_eq!(told["ok"], false, "{told}");
    told["detail"].as_str().expect("a detail").to_owned()
}

fn gzip(write: impl FnOnce(&mut GzEncoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    write(&mut encoder);
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn a_gzip_bomb_is_cut() {
    let zeros = vec![b' '; 1 << 20];
    let bomb = gzip(|out| (0..600).for_each(|_| out.write_all(&zeros).expect("memory")));
    assert!(bomb.len() < 1 << 20);
    let told = refuses(Raw::answering("Content-Encoding: gzip\r\n", bomb)).await;
    assert!(
        told.starts_with("internal: ") && told.contains("max_response_bytes"),
        "{told}"
    );
}

#[tokio::test]
async fn a_body_at_the_limit_is_read() {
    let exact = |n: usize| {
        let body = format!("[{}]", " ".repeat(n - 2));
        Raw::answering(
            "Content-Encoding: gzip\r\n",
            gzip(|out| out.write_all(body.as_bytes()).expect("memory")),
        )
    };
    let limit = LIMIT_KB as usize * 1024;
    let told = survives(exact(limit)).await;
    assert_eq!(told["ok"], true, "{told}");
    let told = refuses(exact(limit + 1)).await;
    assert!(told.contains("max_response_bytes"), "{told}");
}

#[tokio::test]
async fn json_that_swells_is_not_parsed() {
    for part in ["0,", "{\"\":0},", "[],"] {
        let body = format!(
            "[{}0]",
            part.repeat((LIMIT_KB as usize * 1024 - 100) / part.len())
        );
        let told = refuses(Raw::answering("", body.into_bytes())).await;
        assert!(
            told.starts_with("internal: ") && told.contains("response_too_complex"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn json_without_end_is_not_parsed() {
    let deep = "[".repeat(1_000_000);
    survives(Raw::answering("", deep.into_bytes())).await;
}

#[tokio::test]
async fn other_encodings_are_refused() {
    for encoding in ["deflate", "br", "zstd", "gzip, br"] {
        let header = format!("Content-Encoding: {encoding}\r\n");
        let told = refuses(Raw::answering(&header, b"[]".to_vec())).await;
        assert!(told.starts_with("internal: "), "{encoding}: {told}");
        assert!(told.contains("unknown_encoding"), "{encoding}: {told}");
    }
}

#[tokio::test]
async fn a_stream_without_end_is_cut() {
    let endless = Raw::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while stream.write_all(chunk.as_bytes()).is_ok() {}
    });
    let told = refuses(endless).await;
    assert!(told.contains("max_response_bytes"), "{told}");
    // Members without content come out of the decoder as nothing, for ever.
    let empty = gzip(|_| {});
    let nothing = Raw::start(move |stream, _| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        let many = empty.repeat(1000);
        let chunk = [format!("{:x}\r\n", many.len()).as_bytes(), &many, b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    let start = Instant::now();
    let told = refuses(nothing).await;
    assert!(
        told.contains("max_response_bytes") || told.contains("no answer in time"),
        "{told}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_trickle_ends_with_the_time_of_a_request() {
    let headers = Raw::start(|stream, _| trickle(stream, b"HTTP/1.1 200 OK\r\nX-Slow: "));
    let body = Raw::start(|stream, _| {
        trickle(
            stream,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n",
        );
    });
    for server in [headers, body] {
        let start = Instant::now();
        let told = refuses(server).await;
        assert!(told.contains("no answer in time"), "{told}");
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(6),
            "it took {took:?}, of 3 s that it may"
        );
    }
}

/// A byte each 200 ms, for ever.
fn trickle(stream: &mut std::net::TcpStream, head: &[u8]) {
    let _ = stream.write_all(head);
    while stream.write_all(b" ").is_ok() {
        // The pace is what is tested.
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test]
async fn heads_are_bounded() {
    let long = Raw::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let told = refuses(long).await;
    assert!(
        told.contains("headers") || told.contains("header"),
        "{told}"
    );
    let many = Raw::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream
            .write_all(b"X-Many: x\r\n".repeat(100).as_slice())
            .is_ok()
        {}
    });
    let told = refuses(many).await;
    assert!(told.contains("header"), "{told}");
}
