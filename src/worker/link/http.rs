//! HTTP: one agent per connection, for keep-alive; one thread per request in flight.
//!
//! Guarantees: whatever a CRM answers, it is read for no longer than `pg_crm.request_timeout` from
//! the first byte sent to the last one read, and no further than `pg_crm.max_response_bytes`,
//! counted as they come out of the decoder. Only gzip is requested and accepted. JSON that would
//! grow in memory beyond all proportion is not handed on.

use std::error::Error as _;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use crm_provider::{Method, Request, Response};
use ureq::http;

/// Requests of one connection at once, at most.
pub const IN_FLIGHT: usize = 400;

/// The code of a request that took longer than it may.
pub const TIMEOUT: &str = "timeout";
/// Head of an answer, at most.
const HEAD_BYTES: usize = 64 * 1024;

/// An answer that is not taken, though it came.
fn not_taken(code: &str, message: String) -> Failure {
    Failure::record(ErrorClass::Internal, code, message)
}

fn too_long(limit: u64) -> Failure {
    not_taken(
        "response_too_long",
        format!("the response is longer than pg_crm.max_response_bytes ({limit} bytes)"),
    )
}

/// How a request ended that no response answers.
fn failure(error: &ureq::Error, limit: u64) -> Failure {
    let (code, message) = match error {
        ureq::Error::Timeout(_) => (TIMEOUT, "no answer in time".to_owned()),
        ureq::Error::HostNotFound => (
            "host_not_found",
            "the host name does not resolve".to_owned(),
        ),
        ureq::Error::ConnectionFailed => ("unreachable", "cannot connect".to_owned()),
        ureq::Error::Io(e) => ("unreachable", e.to_string()),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => ("tls", error.to_string()),
        ureq::Error::BodyExceedsLimit(_) => return too_long(limit),
        // A body that is not what its Content-Encoding says.
        ureq::Error::Decompress(..) => {
            ("broken_answer", "the response cannot be decoded".to_owned())
        }
        ureq::Error::LargeResponseHeader(..) => {
            let message = format!("the response's headers are longer than {HEAD_BYTES} bytes");
            return not_taken("response_too_long", message);
        }
        _ => (
            "broken_answer",
            error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string),
        ),
    };
    Failure::connection(ErrorClass::Transient, code, message)
}

pub struct Http {
    agent: Arc<ureq::Agent>,
    max_response: u64,
}

impl Http {
    pub fn new(timeout: Duration, max_response: u64) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(Duration::from_secs(10))))
            .http_status_as_error(false)
            // A redirect could carry the token to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(HEAD_BYTES)
            // As many as requests may be in flight: one that is closed after each answer costs more
            // than the request.
            .max_idle_connections(IN_FLIGHT)
            .max_idle_connections_per_host(IN_FLIGHT)
            .max_idle_age(Duration::from_secs(15))
            .user_agent(concat!("pg_crm/", env!("CARGO_PKG_VERSION")))
            .build();
        Http {
            agent: Arc::new(config.new_agent()),
            max_response,
        }
    }

    /// Sends a request to an absolute URL, reads the whole answer, and gives the request back.
    pub async fn send(
        &self,
        url: String,
        request: Request,
    ) -> Result<(Request, Result<Response, Failure>), Failure> {
        let (agent, limit) = (self.agent.clone(), self.max_response);
        tokio::task::spawn_blocking(move || {
            let answer = exchange(&agent, &url, &request, limit);
            (request, answer)
        })
        .await
        .map_err(|_| {
            Failure::connection(ErrorClass::Internal, "thread", "the request's thread ended")
        })
    }
}

fn exchange(
    agent: &ureq::Agent,
    url: &str,
    request: &Request,
    limit: u64,
) -> Result<Response, Failure> {
    let unusable = |e: &dyn std::fmt::Display| {
        Failure::record(ErrorClass::Internal, "bad_request", e.to_string())
    };
    let method = match request.method {
        Method::Get => http::Method::GET,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
    };
    let mut builder = http::Request::builder().method(&method).uri(url);
    for (name, value) in &request.headers {
        builder = builder.header(*name, value);
    }
    let answer =
        if matches!(request.method, Method::Get | Method::Delete) && request.body.is_empty() {
            agent.run(builder.body(()).map_err(|e| unusable(&e))?)
        } else {
            agent.run(builder.body(&request.body[..]).map_err(|e| unusable(&e))?)
        };
    let mut answer = answer.map_err(|e| failure(&e, limit))?;
    let status = answer.status().as_u16();
    let headers = answer
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    // A decoded response has no such header any more: this one was not requested.
    if let Some(encoding) = answer.headers().get(http::header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let message = "the response is in an encoding that was not requested".to_owned();
        return Err(not_taken("unknown_encoding", message));
    }
    let body = read(&mut answer, limit)?;
    if !crm_provider::is_in_proportion(&body) {
        let message = "the response's JSON has more values than any CRM's response".to_owned();
        return Err(not_taken("response_too_complex", message));
    }
    Ok(Response {
        status,
        headers,
        body,
        success: request.success,
    })
}

/// The body as it comes out of the decoder: a small one can expand to a large one.
fn read(answer: &mut http::Response<ureq::Body>, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    // One byte more than may come, on either side of the decoder, tells a body that ends there from
    // one that goes on.
    let reader = answer.body_mut().with_config().limit(limit + 1).reader();
    let read = reader.take(limit + 1).read_to_end(&mut body);
    if body.len() as u64 > limit {
        return Err(too_long(limit));
    }
    match read {
        Ok(_) => Ok(body),
        Err(e) => Err(
            match e.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>()) {
                Some(error) => failure(error, limit),
                None => Failure::connection(ErrorClass::Transient, "broken_answer", e.to_string()),
            },
        ),
    }
}
