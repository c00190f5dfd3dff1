//! `$batch`: several requests in one, each with an answer of its own, in their order.
//!
//! No change sets: they are all or nothing. `odata.continue-on-error` has the requests after a refused one
//! run all the same.

use std::io::Write;

use super::api;
use crate::{Method, Request, Response, Target};

/// The parts are JSON on one line, so none of them holds this at the start of a line.
const BOUNDARY: &str = "batch_pg_crm";

/// Wraps requests to the Web API into one.
pub(super) fn wrap(requests: &[Request]) -> Request {
    let mut body = Vec::new();
    for request in requests {
        part(&mut body, request).expect("memory takes everything");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    let wrapped = api::request(Method::Post, "$batch")
        .header("prefer", "odata.continue-on-error")
        .body(&format!("multipart/mixed; boundary=\"{BOUNDARY}\""), body);
    match requests.iter().all(|request| request.repeatable) {
        true => wrapped.repeatable(),
        false => wrapped,
    }
}

fn part(body: &mut Vec<u8>, request: &Request) -> std::io::Result<()> {
    let (Target::Api(path) | Target::File(path) | Target::Url(path)) = &request.target;
    write!(body, "--{BOUNDARY}\r\n")?;
    body.write_all(b"Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n")?;
    write!(body, "{} {path} HTTP/1.1\r\n", request.method.name())?;
    for (name, value) in &request.headers {
        write!(body, "{name}: {value}\r\n")?;
    }
    body.write_all(b"\r\n")?;
    body.write_all(&request.body)?;
    body.write_all(b"\r\n")
}

/// The answers within an answer, in order. `None`: it is no answer to a batch.
pub(super) fn unwrap(response: &Response) -> Option<Vec<Response>> {
    let content_type = response.header("content-type")?;
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let mut parameters = parameters.split(';').map(str::trim);
    let boundary = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.eq_ignore_ascii_case("boundary")
            .then(|| value.trim_matches('"'))
    })?;
    let open = format!("--{boundary}");
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut start = None;
    let mut at = 0;
    for line in response.body.split_inclusive(|&b| b == b'\n') {
        if let Some(rest) = line.trim_ascii_end().strip_prefix(open.as_bytes())
            && matches!(rest, b"" | b"--")
        {
            parts.extend(start.map(|start| &response.body[start..at]));
            start = (rest == b"").then_some(at + line.len());
        }
        at += line.len();
    }
    parts.extend(start.map(|start| &response.body[start..]));
    parts.into_iter().map(answer).collect()
}

/// The answer that a part holds below the part's own headers.
fn answer(part: &[u8]) -> Option<Response> {
    let (_, message) = headers(part)?;
    let (status, rest) = line(message);
    let (headers, body) = headers(rest)?;
    let status = String::from_utf8_lossy(status);
    Some(Response {
        status: status.split_whitespace().nth(1)?.parse().ok()?,
        headers,
        body: body.trim_ascii().to_vec(),
        ..Response::default()
    })
}

type Headers = Vec<(String, String)>;

/// Headers up to the empty line, and what follows it.
fn headers(text: &[u8]) -> Option<(Headers, &[u8])> {
    let mut held = Vec::new();
    let mut rest = text;
    loop {
        let (first, after) = line(rest);
        rest = after;
        if first.trim_ascii().is_empty() {
            return Some((held, rest));
        }
        let first = String::from_utf8_lossy(first);
        let (name, value) = first.split_once(':')?;
        held.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// A line, and what follows it.
fn line(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|&b| b == b'\n') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, b""),
    }
}
