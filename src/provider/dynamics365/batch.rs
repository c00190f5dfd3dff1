//! `$batch`: several requests in one, each with an answer of its own, in their order.
//!
//! No change sets: they are all or nothing. `odata.continue-on-error` has the requests after a
//! refused one run all the same.

use std::io::Write;

use crm_domain::Failure;

use super::{api, errors};
use crate::errors::{refused, undocumented, unreadable};
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

/// The answers within an answer, in order; or why there are none.
pub(super) fn answers(response: &Response) -> Result<Vec<Response>, Failure> {
    if let Some(failure) = undocumented(response) {
        return Err(failure);
    }
    // Its own status may be that of a part that was refused.
    unwrap(response).ok_or_else(|| {
        let failure = errors::of_response(response);
        failure.map_or_else(|| unreadable(response), refused)
    })
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

/// More headers than Dataverse gives an answer, and the parts of a batch have fewer.
const MOST_HEADERS: usize = 64;

/// The answer that a part holds below the part's own headers.
fn answer(part: &[u8]) -> Option<Response> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let httparse::Status::Complete((start, _)) =
        httparse::parse_headers(part, &mut headers).ok()?
    else {
        return None;
    };
    let message = part.get(start..)?;
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = head.parse(message).ok()? else {
        return None;
    };
    let held = head.headers.iter().map(|header| {
        let value = String::from_utf8_lossy(header.value).trim().to_owned();
        (header.name.to_ascii_lowercase(), value)
    });
    Some(Response {
        status: head.code?,
        headers: held.collect(),
        body: message.get(end..)?.trim_ascii().to_vec(),
        ..Response::default()
    })
}
