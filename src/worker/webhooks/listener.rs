//! The HTTP listener for webhooks (`pg_crm.webhook_listen`), on the worker's threads.
//!
//! Guarantees: 2xx is answered only after the commit that stored the events; whatever clients do,
//! the sockets, the memory and the time that they take are bounded, and a body is read only while
//! few others are. Signatures are checked here, so that a flood of forged requests does not keep
//! the main thread from its work. A port that is in use is tried again until it is free. One
//! request per connection, so that none keeps a place without using it; a slow client gives way
//! ([`super::peers`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crm_provider::WebhookError;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use super::message::{Accepted, Lookup, Message};
use super::peers::{Peers, Phase, Seat};
use crate::webhook_verifier::{InboundRequest, MAX_BODY, Refusal};
use crate::worker::mailbox::Sender;

/// Requests whose bodies are read or that wait for their answer, at once. For another one the
/// slowest body gives way; while all wait for their answers, it is refused with Retry-After.
const AT_ONCE: usize = 64;
/// How long a place that was given up may take to become free.
const PLACE_TIME: Duration = Duration::from_secs(1);
/// What is thrown away after an answer that was given before the whole body had come.
const SPILL_BYTES: usize = 8 * 1024 * 1024;
const SPILL_TIME: Duration = Duration::from_secs(2);
const HEAD_BYTES: usize = 32 * 1024;
const HEAD_TIME: Duration = Duration::from_secs(5);
const BODY_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// All of the above (the database is asked twice), and the time to send the answer.
const WHOLE_TIME: Duration = Duration::from_secs(60);
/// Delay before trying an address that is in use again.
const BIND_AGAIN: Duration = Duration::from_secs(2);

const BUSY: &str = "the database is busy";
const NOT_SET_UP: &str = "the connection is not set up for webhooks";

type Reply = Response<Full<Bytes>>;

/// Listens until the task is aborted. Errors of the address are logged once, not on every attempt.
pub async fn listen(address: String, peers: Arc<Peers>, mailbox: Sender<Message>) {
    let log = |text: String| mailbox.send(Message::Log(text));
    let mut logged = String::new();
    let listener = loop {
        // With SO_REUSEADDR, so that a worker that starts anew need not wait for old connections to
        // be forgotten.
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let error = error.to_string();
                if error != logged {
                    log(format!(
                        "pg_crm cannot listen for webhooks at {address}: {error}; it keeps trying"
                    ));
                    logged = error;
                }
                sleep(BIND_AGAIN).await;
            }
        }
    };
    log(format!("pg_crm listens for webhooks at {address}"));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(seat) = peers.admit(from.ip()) else {
                    // The database is behind: a client that is turned away retries.
                    continue;
                };
                let (places, mailbox, id) = (places.clone(), mailbox.clone(), seat.id());
                let served = tokio::spawn(async move {
                    let _ = timeout(WHOLE_TIME, converse(stream, seat, places, mailbox)).await;
                });
                peers.served_by(id, served.abort_handle());
            }
            // Out of descriptors, for example: others may close theirs soon.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, seat: Seat, places: Arc<Semaphore>, mailbox: Sender<Message>) {
    let (seat, desk) = (&seat, &(places, mailbox));
    let service = service_fn(move |request| async move {
        Ok::<_, Infallible>(answer(request, seat, &desk.0, &desk.1).await)
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

async fn answer(
    request: Request<Incoming>,
    seat: &Seat,
    places: &Semaphore,
    mailbox: &Sender<Message>,
) -> Reply {
    let (head, mut body) = request.into_parts();
    let reply = decide(&head, &mut body, seat, places, mailbox).await;
    if !body.is_end_stream() {
        tokio::spawn(timeout(SPILL_TIME, spill(body)));
    }
    reply
}

/// Throws away what is left of a body for a while: many senders read an answer only after they have
/// sent all.
async fn spill(mut body: Incoming) {
    let mut room = SPILL_BYTES;
    while let Some(Ok(frame)) = body.frame().await
        && let Some(left) = room.checked_sub(frame.data_ref().map_or(0, Bytes::len))
    {
        room = left;
    }
}

async fn decide(
    head: &Parts,
    body: &mut Incoming,
    seat: &Seat,
    places: &Semaphore,
    mailbox: &Sender<Message>,
) -> Reply {
    let Some(connection) = connection(head.uri.path()) else {
        return error(StatusCode::NOT_FOUND, "POST to /webhooks/{connection}");
    };
    if head.method != Method::POST {
        let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, "POST only");
        let methods = HeaderValue::from_static("POST");
        reply.headers_mut().insert(ALLOW, methods);
        return reply;
    }
    let Some(_place) = place(seat, places).await else {
        return later("too many requests at once");
    };
    seat.enter(Phase::Body);
    let lookup = |reply| Message::Lookup(Lookup { connection, reply });
    let verifier = match ask(mailbox, lookup).await {
        Some(Some(verifier)) => verifier,
        Some(None) => return error(StatusCode::NOT_FOUND, "there is no such connection"),
        None => return later(BUSY),
    };
    let body = match timeout(BODY_TIME, read(body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return error(StatusCode::BAD_REQUEST, "the body broke off"),
        Err(_) => return error(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    seat.enter(Phase::Answer);
    let events = verifier.verify(&InboundRequest {
        url: &url(head),
        headers: &headers(head),
        body: body.as_deref(),
    });
    let events = match events {
        Ok(events) => events,
        Err(refusal) => {
            let reply = refuse(&refusal);
            mailbox.send(Message::Refused(verifier, refusal));
            return reply;
        }
    };
    let accepted = if events.is_empty() {
        Some(0)
    } else {
        let connection_id = verifier.connection.id;
        let store = |reply| {
            Message::Accepted(Accepted {
                connection_id,
                events,
                reply,
            })
        };
        ask(mailbox, store).await
    };
    match accepted {
        Some(count) => reply(StatusCode::OK, &json!({ "accepted": count })),
        None => later(BUSY),
    }
}

/// A place for a request's body, which another one gives up if need be.
async fn place<'p>(seat: &Seat, places: &'p Semaphore) -> Option<SemaphorePermit<'p>> {
    if let Ok(place) = places.try_acquire() {
        return Some(place);
    }
    if !seat.peers().free_a_place() {
        return None;
    }
    timeout(PLACE_TIME, places.acquire()).await.ok()?.ok()
}

/// Asks the main thread; `None`: it cannot, or not in time.
async fn ask<T>(
    mailbox: &Sender<Message>,
    message: impl FnOnce(oneshot::Sender<T>) -> Message,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    mailbox.send(message(reply));
    timeout(ANSWER_TIME, answer).await.ok()?.ok()
}

/// `None`: it is too large.
async fn read(
    body: &mut Incoming,
) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Ok(None);
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(Some(body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A secret that is missing here is not the sender's fault: they are to come again, and need not
/// know more.
fn refuse(refusal: &Refusal) -> Reply {
    let Refusal::Request(why) = refusal else {
        return later(NOT_SET_UP);
    };
    let status = match why {
        WebhookError::Unconfigured(_) => return later(NOT_SET_UP),
        WebhookError::Forged | WebhookError::Stale => StatusCode::UNAUTHORIZED,
        WebhookError::Malformed => StatusCode::BAD_REQUEST,
        WebhookError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
    };
    error(status, &why.to_string())
}

fn connection(path: &str) -> Option<String> {
    let name = path.strip_prefix("/webhooks/")?;
    let name = percent_decode_str(name).decode_utf8().ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| name.into_owned())
}

/// The address as the sender wrote it, as far as a proxy passes it on. A signature covers that one.
fn url(head: &Parts) -> String {
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = header("x-forwarded-proto").unwrap_or("http");
    let host = header("x-forwarded-host").or_else(|| header(HOST.as_str()));
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    format!("{scheme}://{}{path}", host.unwrap_or_default())
}

fn headers(head: &Parts) -> Vec<(String, String)> {
    let text = head.headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    text.collect()
}

fn reply(status: StatusCode, body: &Json) -> Reply {
    let mut reply = Response::new(Full::from(body.to_string()));
    *reply.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(CONTENT_TYPE, json);
    reply
}

fn error(status: StatusCode, why: &str) -> Reply {
    reply(status, &json!({ "error": why }))
}

/// Nothing was stored, and nothing is wrong with the request.
fn later(why: &str) -> Reply {
    let mut reply = error(StatusCode::SERVICE_UNAVAILABLE, why);
    let seconds = HeaderValue::from_static("2");
    reply.headers_mut().insert(RETRY_AFTER, seconds);
    reply
}
