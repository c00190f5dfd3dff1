//! Metrics: counted once per committed attempt, kept when the worker dies, read over HTTP by those
//! who may.

use crm_suites::{Database, Json, eventually, hooks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::CLUSTER;

/// A database whose worker serves metrics, with these other settings; and where.
async fn serving(more: &str) -> (Database, String) {
    let db = CLUSTER.bare_database().await;
    let address = format!("127.0.0.1:{}", hooks::free_port());
    let name = &db.name;
    let more = more.replace("DATABASE", &format!("DATABASE {name}"));
    db.execute(&format!(
        "ALTER DATABASE {name} SET pg_crm.metrics_listen = '{address}'; {more}; CREATE EXTENSION pg_crm"
    ))
    .await;
    hooks::open(&address).await;
    (db, address)
}

/// Rows of a table that is mapped to the stub, as map 1.
async fn map(db: &Database, connection: &str) {
    db.execute(&format!(
        "SELECT crm.create_connection($${connection}$$, 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text);
         SELECT crm.map_object($${connection}$$, 't', 'contact', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound')"
    ))
    .await;
}

/// The whole answer to a request with this first line and these headers.
async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{request}\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("UTF-8");
    answer
}

/// The value of a sample.
async fn metric(db: &Database, name: &str, labels: &str) -> f64 {
    db.one(
        "SELECT coalesce(sum(value), 0) FROM crm.metrics() WHERE name = $1 AND labels @> $2::text::jsonb",
        &[&name, &labels],
    )
    .await
}

#[tokio::test]
async fn what_was_committed_is_counted_once_and_kept() {
    let db = CLUSTER.database().await;
    map(&db, "s").await;
    db.execute("INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, 30) n")
        .await;
    db.drain().await;
    let applied = r#"{"path": "batch", "result": "applied", "class": "none"}"#;
    let written = async || metric(&db, "pg_crm_records_total", applied).await;
    assert_eq!(written().await, 30.0);
    let requests = metric(&db, "pg_crm_requests_total", r#"{"class": "none"}"#).await;
    assert!(requests >= 1.0, "{requests}");
    let timed = metric(&db, "pg_crm_request_duration_seconds_count", "{}").await;
    assert_eq!(timed, metric(&db, "pg_crm_requests_total", "{}").await);
    let all = r#"{"le": "+Inf"}"#;
    assert_eq!(
        timed,
        metric(&db, "pg_crm_request_duration_seconds_bucket", all).await
    );

    let worker = db.worker().await;
    db.execute(&format!("SELECT pg_terminate_backend({worker})"))
        .await;
    db.worker_after(worker).await;
    db.execute("UPDATE t SET name = 'after' WHERE id <= 5")
        .await;
    db.drain().await;
    assert_eq!(written().await, 35.0);

    // The audit says the same of each result.
    db.execute("SELECT crm_stub.inject('s', 'validation', 1, operation => 'write'); UPDATE t SET name = 'refused' WHERE id = 9")
        .await;
    eventually("a dead letter", async || {
        db.execute("SELECT crm.flush(timeout => '5 s')").await;
        (db.count("crm.dead_letters").await == 1).then_some(())
    })
    .await;
    let differing = "(SELECT path, result, error_class, count(*)::float8 FROM crm.audit_log GROUP BY 1, 2, 3
                      EXCEPT SELECT labels ->> 'path', labels ->> 'result', nullif(labels ->> 'class', 'none'), value
                             FROM crm.metrics() WHERE name = 'pg_crm_records_total') x";
    assert_eq!(db.count(differing).await, 0);
    assert_eq!(metric(&db, "pg_crm_dead_letters", "{}").await, 1.0);
    assert_eq!(
        metric(&db, "pg_crm_findings", r#"{"severity": "yellow"}"#).await,
        1.0
    );
    db.assert_checked().await;
}

#[tokio::test]
async fn they_are_served_and_nothing_else_is() {
    let (db, address) = serving("SELECT 1").await;
    // What a user may call a connection cannot add a line.
    map(&db, "a\"} 1\n# EOF").await;
    let answer = ask(&address, "GET /metrics HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("application/openmetrics-text; version=1.0.0"));
    assert!(answer.contains("\npg_crm_worker_up 1\n"), "{answer}");
    let connection = "\npg_crm_connection_up{connection=\"a\\\"} 1\\n# EOF\",state=\"ok\"} 1\n";
    assert!(answer.contains(connection), "{answer}");
    assert!(answer.ends_with("\n# EOF\n"), "{answer}");

    let answer = ask(&address, "GET /overview.json HTTP/1.1").await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let body: Json = body.parse().expect("JSON");
    assert_eq!(body["overview"]["maps"][0]["relation"], "public.t");
    assert_eq!(
        body["overview"]["connections"][0]["connection"],
        "a\"} 1\n# EOF"
    );
    let answer = ask(&address, "GET / HTTP/1.1").await;
    assert!(
        answer.contains("content-security-policy: default-src 'none'"),
        "{answer}"
    );
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nContent-Length: 0", "405"),
        ("DELETE / HTTP/1.1", "405"),
        ("GET /webhooks/s HTTP/1.1", "404"),
    ] {
        let answer = ask(&address, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

/// However many ask, the worker does its work.
#[tokio::test]
async fn a_flood_of_requests_keeps_nobody_from_working() {
    let (db, address) = serving("SELECT 1").await;
    map(&db, "s").await;
    // Connections that never say anything take up places for a while, and no more.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(&address).await.expect("it listens"));
    }
    let flood = (0..40).map(|_| {
        let address = address.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                if let Ok(mut stream) = TcpStream::connect(&address).await {
                    let _ = stream
                        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                        .await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    db.execute("INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, 100) n")
        .await;
    db.drain().await;
    for one in flood {
        one.await.expect("it ends");
    }
    drop(silent);
    eventually("it answers again", async || {
        let answer = ask(&address, "GET /metrics HTTP/1.1").await;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    db.assert_checked().await;
}

#[tokio::test]
async fn a_token_is_required_if_there_is_one() {
    let file = CLUSTER.path().join("metrics-token");
    let more = format!(
        "ALTER DATABASE SET pg_crm.metrics_token_file = '{}'",
        file.display()
    );
    let (_db, address) = serving(&more).await;
    let metrics = "GET /metrics HTTP/1.1";
    let status = async |request: &str| {
        let answer = ask(&address, request).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    // Nothing is shown while there is no token to compare with.
    assert_eq!(status(metrics).await, "503");
    std::fs::write(&file, "\n").expect("written");
    let empty = format!("{metrics}\r\nAuthorization: Bearer ");
    assert_eq!(status(&empty).await, "503");
    std::fs::write(&file, "right one\n").expect("written");
    for (request, expected) in [
        (metrics.to_owned(), "401"),
        (format!("{metrics}\r\nAuthorization: Bearer wrong"), "401"),
        (
            format!("{metrics}\r\nAuthorization: Bearer right one"),
            "200",
        ),
        ("GET /overview.json HTTP/1.1".to_owned(), "401"),
        ("GET / HTTP/1.1".to_owned(), "200"),
    ] {
        assert_eq!(status(&request).await, expected, "{request}");
    }
    let page = ask(&address, "GET / HTTP/1.1").await;
    assert!(!page.contains("stub"), "the page itself holds no data");
    std::fs::write(&file, "another one\n").expect("written");
    let right = format!("{metrics}\r\nAuthorization: Bearer right one");
    assert_eq!(status(&right).await, "401");
}
