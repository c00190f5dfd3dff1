//! The HTTP listener for monitoring (`pg_crm.metrics_listen`), on the worker's threads.
//!
//! Guarantees: it only ever reads, and answers GET alone; where `pg_crm.metrics_token_file` is set,
//! nothing but the empty page is shown without that token, and nothing at all while the file cannot
//! be read. Whatever clients do, the sockets, the memory and the time that they take are bounded. A
//! port that is in use is tried again until it is free.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::open_metrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::message::{Document, Message};
use crate::worker::mailbox::Sender;

/// Open connections. Another one is closed at once.
const AT_ONCE: usize = 32;
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(20);
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// Delay before trying an address that is in use again.
const BIND_AGAIN: Duration = Duration::from_secs(2);

/// Reads `/overview.json` and shows it; nothing of it comes from elsewhere.
const PAGE: &str = include_str!("page.html");
/// The page's own script and style, and requests to where it came from.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Reply = Response<Full<Bytes>>;

struct Desk {
    /// Empty: no token is asked for.
    token_file: String,
    mailbox: Sender<Message>,
}

/// Listens until the task is aborted. Errors of the address are logged once, not on every attempt.
pub async fn listen(address: String, token_file: String, mailbox: Sender<Message>) {
    let log = |text: String| mailbox.send(Message::Log(text));
    let mut logged = String::new();
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let error = error.to_string();
                if error != logged {
                    log(format!(
                        "pg_crm cannot serve metrics at {address}: {error}; it keeps trying"
                    ));
                    logged = error;
                }
                sleep(BIND_AGAIN).await;
            }
        }
    };
    log(format!("pg_crm serves metrics at {address}"));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let desk = Arc::new(Desk {
        token_file,
        mailbox,
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(place) = places.clone().try_acquire_owned() {
                    let desk = desk.clone();
                    tokio::spawn(async move {
                        let _ = timeout(WHOLE_TIME, converse(stream, &desk)).await;
                        drop(place);
                    });
                }
            }
            // Out of descriptors, for example: others may close theirs soon.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, desk: &Desk) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(&request, desk).await)
    });
    // An error means that the client went away, or spoke no HTTP.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: &Request<Incoming>, desk: &Desk) -> Reply {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n").with(ALLOW, "GET");
    }
    let (document, media_type) = match request.uri().path() {
        "/" => {
            return of_type("text/html; charset=utf-8", PAGE).with(CONTENT_SECURITY_POLICY, POLICY);
        }
        "/metrics" => (Document::Metrics, open_metrics::MEDIA_TYPE),
        "/overview.json" => (Document::Overview, "application/json"),
        _ => return plain(StatusCode::NOT_FOUND, "see / and /metrics\n"),
    };
    match desk.admits(request) {
        Ok(true) => {}
        Ok(false) => {
            let reply = plain(StatusCode::UNAUTHORIZED, "a bearer token is required\n");
            return reply.with(WWW_AUTHENTICATE, "Bearer");
        }
        Err(_) => {
            let why = "pg_crm.metrics_token_file cannot be read\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, why);
        }
    }
    let (reply, text) = oneshot::channel();
    desk.mailbox.send(Message::Get(document, reply));
    match timeout(ANSWER_TIME, text).await {
        Ok(Ok(text)) => of_type(media_type, text.to_string()),
        _ => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "the database is busy\n").with(RETRY_AFTER, "2")
        }
    }
}

impl Desk {
    /// Whether the request bears the token, if one is needed.
    fn admits(&self, request: &Request<Incoming>) -> std::io::Result<bool> {
        if self.token_file.is_empty() {
            return Ok(true);
        }
        let token = std::fs::read_to_string(&self.token_file)?;
        let token = token.trim();
        if token.is_empty() {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let header = request.headers().get(AUTHORIZATION);
        let given = header.and_then(|header| header.as_bytes().strip_prefix(b"Bearer "));
        // Hashes are compared in constant time.
        Ok(given.is_some_and(|given| blake3::hash(given) == blake3::hash(token.as_bytes())))
    }
}

trait With {
    fn with(self, name: hyper::header::HeaderName, value: &'static str) -> Self;
}

impl With for Reply {
    fn with(mut self, name: hyper::header::HeaderName, value: &'static str) -> Reply {
        self.headers_mut()
            .insert(name, HeaderValue::from_static(value));
        self
    }
}

fn of_type(media_type: &'static str, body: impl Into<Bytes>) -> Reply {
    Response::new(Full::from(body.into()))
        .with(CONTENT_TYPE, media_type)
        .with(CACHE_CONTROL, "no-store")
        .with(X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn plain(status: StatusCode, why: &'static str) -> Reply {
    let mut reply = of_type("text/plain; charset=utf-8", why);
    *reply.status_mut() = status;
    reply
}
