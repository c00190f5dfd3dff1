//! Sockets: listens, reads requests, lets faults act, answers, writes the log.
//!
//! Guarantees: connections are kept alive; a dropped connection sends nothing (or half) and closes;
//! each request is in the log before its answer leaves, so a test that got an answer finds it
//! there.

use crate::admin;
use crate::clock;
use crate::composio::{self, Composio};
use crate::faults::echo;
use crate::faults::{Drop, EditSpec, Plan, When};
use crate::http::{Request, Response};
use crate::log::{self, Entry, UnderWay};
use crate::vendor::{Call, Services, Sim, Vendor};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::TcpListener;

/// Above what any vendor takes in one request (Bulk API 2.0: 150 MB).
const MAX_BODY: usize = 200 << 20;

/// Why a connection ends without (all of) an answer.
#[derive(Debug, Error)]
pub enum Closed {
    #[error("dropped by a fault")]
    Dropped,
    #[error("the request could not be read")]
    Unreadable,
}

type Body = BoxBody<Bytes, Closed>;
type Outgoing = hyper::Response<Body>;

/// Who answers at an address.
#[derive(Clone)]
pub enum Desk {
    Vendor(Arc<dyn Vendor>),
    Broker,
    Admin,
}

impl Desk {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vendor(vendor) => vendor.name(),
            Self::Broker => composio::NAME,
            Self::Admin => "admin",
        }
    }
}

/// Binds and starts to serve; returns the address it got.
pub async fn listen(sim: Arc<Sim>, desk: Desk, address: &str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: some will come free.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            // Small answers must not wait for the caller's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            let (sim, desk) = (sim.clone(), desk.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let (sim, desk) = (sim.clone(), desk.clone());
                    async move {
                        // A task of its own: a caller that gives up does not undo what it asked
                        // for.
                        let served = tokio::spawn(serve(sim, desk, bound, request)).await;
                        served.unwrap_or(Err(Closed::Dropped))
                    }
                });
                // Errors are the caller's hang-ups and our own drops.
                let _ = hyper::server::conn::http1::Builder::new()
                    .max_buf_size(1 << 20)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(bound)
}

async fn serve(
    sim: Arc<Sim>,
    desk: Desk,
    bound: SocketAddr,
    incoming: hyper::Request<Incoming>,
) -> Result<Outgoing, Closed> {
    let request = match read(incoming).await {
        Ok(request) => request,
        Err(status) => return Ok(outgoing(Response::empty(status), sim.clock.now())),
    };
    match desk {
        Desk::Admin => {
            let response = crate::admin::answer(&sim, &request);
            Ok(outgoing(response, sim.clock.now()))
        }
        Desk::Vendor(vendor) => serve_vendor(&sim, vendor.as_ref(), bound, request).await,
        Desk::Broker => serve_broker(&sim, &sim.composio, request).await,
    }
}

async fn serve_vendor(
    sim: &Sim,
    vendor: &dyn Vendor,
    bound: SocketAddr,
    request: Request,
) -> Result<Outgoing, Closed> {
    let answer = exchange(sim, vendor, &bound.to_string(), &request).await?;
    Ok(answer.outgoing(sim, vendor.services(), &request))
}

async fn serve_broker(sim: &Sim, broker: &Composio, request: Request) -> Result<Outgoing, Closed> {
    let (visit, plan) = Visit::begin(sim, composio::NAME, &broker.services, &request).await;
    let echo = plan.echo;
    let response = match (visit.drop, plan.answer) {
        (Some(Drop::Before), _) => None,
        (_, None) => Some(broker.answer(sim, &request).await),
        (_, Some(answer)) => {
            if plan.applied {
                broker.answer(sim, &request).await;
            }
            Some(answer.spell(composio::failure))
        }
    };
    let response = match echo {
        true => response.map(|response| echo::quoting(&request, response)),
        false => response,
    };
    let answer = visit.end(sim, &request, response).await?;
    Ok(answer.outgoing(sim, &broker.services, &request))
}

/// Has a vendor answer a request, with all that faults make of it; `host` is where it was asked.
pub async fn exchange(
    sim: &Sim,
    vendor: &dyn Vendor,
    host: &str,
    request: &Request,
) -> Result<Answered, Closed> {
    let (visit, plan) = Visit::begin(sim, vendor.name(), vendor.services(), request).await;
    let response = match visit.drop {
        Some(Drop::Before) => None,
        _ => Some(respond(vendor, host, request, plan)),
    };
    visit.end(sim, request, response).await
}

/// An answer that leaves, whole or in half.
pub struct Answered {
    pub response: Response,
    pub half: bool,
}

impl Answered {
    fn outgoing(self, sim: &Sim, services: &Services, request: &Request) -> Outgoing {
        let (response, now) = (self.response.with_half_pairs(), sim.clock.now());
        if self.half {
            return half(response, now);
        }
        let wants_gzip = || {
            let accepted = request.header("accept-encoding").unwrap_or_default();
            accepted.contains("gzip")
        };
        let gzip = services.settings.read().gzip;
        let response = match gzip && response.body.len() >= 1024 && wants_gzip() {
            true => zipped(response),
            false => response,
        };
        outgoing(response, now)
    }
}

/// A request from its coming to its line in the log.
struct Visit<'s> {
    vendor: &'static str,
    started: Instant,
    at_ms: i64,
    faults: Vec<u64>,
    drop: Option<Drop>,
    hold: Duration,
    _under_way: UnderWay<'s>,
}

impl<'s> Visit<'s> {
    async fn begin(
        sim: &'s Sim,
        vendor: &'static str,
        services: &Services,
        request: &Request,
    ) -> (Visit<'s>, Plan) {
        let under_way = sim.log.begin();
        let started = Instant::now();
        let at_ms = chrono::Utc::now().timestamp_millis();
        let plan = sim.faults.plan(vendor, request);
        let latency_ms = services.settings.read().latency_ms;
        let delay = Duration::from_millis(latency_ms + plan.delay_ms);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if plan.expire_tokens {
            services.tokens.expire(None, sim.clock.now());
        }
        let visit = Visit {
            vendor,
            started,
            at_ms,
            faults: plan.faults.clone(),
            drop: plan.drop,
            hold: Duration::from_millis(plan.delay_after_ms),
            _under_way: under_way,
        };
        (visit, plan)
    }

    async fn end(
        self,
        sim: &Sim,
        request: &Request,
        response: Option<Response>,
    ) -> Result<Answered, Closed> {
        if !self.hold.is_zero() {
            tokio::time::sleep(self.hold).await;
        }
        let silent = matches!(self.drop, Some(Drop::Before | Drop::After));
        sim.log.add(Entry {
            seq: 0,
            at_ms: self.at_ms,
            vendor: self.vendor,
            method: request.method.to_string(),
            body: log::excerpt(&request.body),
            body_bytes: request.body.len(),
            headers: log::masked(&request.headers),
            status: response.as_ref().filter(|_| !silent).map(|r| r.status),
            response: response
                .as_ref()
                .map_or(String::new(), |r| log::excerpt(&r.body)),
            response_bytes: response.as_ref().map_or(0, |r| r.body.len()),
            duration_ms: self.started.elapsed().as_secs_f64() * 1000.0,
            faults: self.faults,
            path: request.path.clone(),
            query: request.query.clone(),
        });
        let response = response.filter(|_| !silent).ok_or(Closed::Dropped)?;
        Ok(Answered {
            response,
            half: self.drop == Some(Drop::Partial),
        })
    }
}

fn respond(vendor: &dyn Vendor, asked: &str, request: &Request, plan: Plan) -> Response {
    let origin = format!("http://{}", request.header("host").unwrap_or(asked));
    let call = Call {
        request,
        origin: &origin,
        records: &plan.records,
    };
    if let Err(refusal) = intrude(vendor, &plan.edits, When::Before) {
        return refusal;
    }
    let response = match plan.answer {
        None => vendor.answer(&call),
        Some(answer) => {
            if plan.applied {
                vendor.answer(&call);
            }
            answer.spell(|status| vendor.failure(status))
        }
    };
    match intrude(vendor, &plan.edits, When::After) {
        Ok(()) if plan.echo => echo::quoting(request, response),
        Ok(()) => response,
        Err(refusal) => refusal,
    }
}

/// Edits records as somebody else. A test whose edit is refused must notice: the request fails.
fn intrude(vendor: &dyn Vendor, edits: &[EditSpec], when: When) -> Result<(), Response> {
    let due = edits.iter().filter(|edit| edit.when == when);
    for edit in due {
        admin::intrude(vendor, edit).map_err(|error| {
            let text = format!("crm-sim: the edit of a fault failed: {error}");
            Response::bytes(500, "text/plain", text)
        })?;
    }
    Ok(())
}

async fn read(incoming: hyper::Request<Incoming>) -> Result<Request, u16> {
    let (parts, body) = incoming.into_parts();
    let body = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|_| 413u16)?
        .to_bytes();
    let zipped = parts
        .headers
        .get("content-encoding")
        .is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"gzip"));
    let body = match zipped {
        false => body,
        true => {
            let mut plain = Vec::new();
            let mut reader = GzDecoder::new(&*body).take(MAX_BODY as u64);
            reader.read_to_end(&mut plain).map_err(|_| 400u16)?;
            plain.into()
        }
    };
    Ok(Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    })
}

fn zipped(mut response: Response) -> Response {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(&response.body);
    match written.and_then(|()| encoder.finish()) {
        Ok(body) => {
            response.body = body.into();
            response.with("Content-Encoding", "gzip")
        }
        Err(_) => response,
    }
}

fn outgoing(response: Response, now: i64) -> Outgoing {
    let body = Full::new(response.body.clone()).map_err(|never: Infallible| match never {});
    head(&response, now)
        .body(body.boxed())
        .expect("our own headers are valid")
}

/// Announces the whole answer, sends half of it and breaks off.
fn half(response: Response, now: i64) -> Outgoing {
    let whole = response.body.len();
    let part = response.body.slice(..whole / 2);
    let (mut sender, body) = Channel::<Bytes, Closed>::new(2);
    tokio::spawn(async move {
        let _ = sender.send_data(part).await;
        // The first half must leave before the connection breaks, or it looks like no answer at
        // all.
        tokio::time::sleep(Duration::from_millis(20)).await;
        sender.abort(Closed::Dropped);
    });
    head(&response, now)
        .header("Content-Length", whole)
        .body(body.boxed())
        .expect("our own headers are valid")
}

fn head(response: &Response, now: i64) -> hyper::http::response::Builder {
    let mut builder = hyper::Response::builder()
        .status(response.status)
        .header("Date", clock::http_date(now));
    for (name, value) in &response.headers {
        builder = builder.header(name, value);
    }
    builder
}
