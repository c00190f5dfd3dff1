//! HTTP: one agent per connection, for keep-alive; one thread per request in flight.

use std::error::Error as _;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use crm_provider::{Method, Request, Response};
use ureq::http;

/// Requests of one connection at once, at most.
pub const IN_FLIGHT: usize = 400;

/// How a request ended that no response answers.
fn failure(error: &ureq::Error) -> Failure {
    let (code, message) = match error {
        ureq::Error::Timeout(_) => ("timeout", "no answer in time".to_owned()),
        ureq::Error::HostNotFound => (
            "host_not_found",
            "the host name does not resolve".to_owned(),
        ),
        ureq::Error::ConnectionFailed => ("unreachable", "cannot connect".to_owned()),
        ureq::Error::Io(e) => ("unreachable", e.to_string()),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => ("tls", error.to_string()),
        ureq::Error::BodyExceedsLimit(n) => {
            let message =
                format!("the response is longer than pg_crm.max_response_bytes ({n} bytes)");
            return Failure::record(ErrorClass::Internal, "response_too_long", message);
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
            // As many as requests may be in flight: one that is closed after each answer costs more than the request.
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
    let mut answer = answer.map_err(|e| failure(&e))?;
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
    let mut body = Vec::new();
    answer
        .body_mut()
        .with_config()
        .limit(limit)
        .reader()
        .read_to_end(&mut body)
        .map_err(
            |e| match e.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>()) {
                Some(error) => failure(error),
                None => Failure::connection(ErrorClass::Transient, "broken_answer", e.to_string()),
            },
        )?;
    Ok(Response {
        status,
        headers,
        body,
    })
}
