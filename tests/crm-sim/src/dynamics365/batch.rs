//! `$batch`: reads the requests of a multipart body, and makes one of their answers.
//!
//! Guarantees: lines end in CRLF or the whole is refused; the first refused request ends the batch unless
//! `odata.continue-on-error` is preferred.

use super::address;
use super::error::DataverseError;
use crate::http::{Request, Response};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const MOST: usize = 1000;

fn malformed(message: &str) -> DataverseError {
    DataverseError::new(400, "", message)
}

/// The requests within a request.
pub fn requests(request: &Request) -> Result<Vec<Request>, DataverseError> {
    let kind = request.header("content-type").unwrap_or_default();
    let boundary = kind
        .strip_prefix("multipart/mixed;")
        .and_then(|rest| rest.trim().strip_prefix("boundary="))
        .map(|boundary| boundary.trim_matches('"'))
        .filter(|boundary| !boundary.is_empty())
        .ok_or_else(|| malformed("The content type must be multipart/mixed with a boundary."))?;
    let body =
        std::str::from_utf8(&request.body).map_err(|_| malformed("The body is no UTF-8."))?;
    let (inner, rest) = body
        .split_once(&format!("--{boundary}--"))
        .ok_or_else(|| malformed("Unexpected end of the batch."))?;
    if !rest.trim().is_empty() {
        return Err(malformed("There is more after the end of the batch."));
    }
    let open = format!("--{boundary}\r\n");
    let mut pieces = inner.split(open.as_str());
    if pieces.next() != Some("") {
        return Err(malformed("The batch does not begin with its boundary."));
    }
    let parts: Vec<Request> = pieces.map(part).collect::<Result<_, _>>()?;
    if parts.len() > MOST {
        let text = "The number of requests in the batch exceeds 1000.";
        return Err(DataverseError::new(400, "0x80044150", text));
    }
    Ok(parts)
}

fn part(text: &str) -> Result<Request, DataverseError> {
    let (own, message) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| malformed("A part has no empty line after its headers."))?;
    let own = headers(own)?;
    let is = |name: &str, value: &str| own.get(name).is_some_and(|held| held == value);
    if own
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"))
    {
        return Err(DataverseError::not_simulated("change sets"));
    }
    if !is("content-type", "application/http") || !is("content-transfer-encoding", "binary") {
        return Err(malformed("A part must be application/http, in binary."));
    }
    let (head, body) = message
        .split_once("\r\n\r\n")
        .ok_or_else(|| malformed("A request has no empty line after its headers."))?;
    let (line, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed("A request line is METHOD URL HTTP/1.1."));
    };
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body = body.strip_suffix("\r\n").unwrap_or(body);
    Ok(Request {
        method: method
            .parse()
            .map_err(|_| malformed("A method is unknown."))?,
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers(rest)?,
        body: body.to_owned().into(),
    })
}

fn headers(text: &str) -> Result<HeaderMap, DataverseError> {
    let mut held = HeaderMap::new();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let strange = || malformed("A header is malformed.");
        let (name, value) = line.split_once(':').ok_or_else(strange)?;
        let name = HeaderName::try_from(name).map_err(|_| strange())?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| strange())?;
        held.insert(name, value);
    }
    Ok(held)
}

/// Runs the requests in their order, and answers them as one.
pub fn run(
    request: &Request,
    mut answer: impl FnMut(&Request) -> Response,
) -> Result<Response, DataverseError> {
    let goes_on = address::prefers(request, "odata.continue-on-error");
    let boundary = format!("batchresponse_{:032x}", fastrand::u128(..));
    let mut body = Vec::new();
    let mut status = 200;
    for part in requests(request)? {
        let answer = answer(&part);
        write(&mut body, &boundary, &answer);
        if answer.status >= 400 && !goes_on {
            status = answer.status;
            break;
        }
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let kind = format!("multipart/mixed; boundary={boundary}");
    Ok(Response::bytes(status, &kind, body))
}

fn write(body: &mut Vec<u8>, boundary: &str, answer: &Response) {
    let reason = hyper::StatusCode::from_u16(answer.status);
    let reason = reason.ok().and_then(|status| status.canonical_reason());
    let mut head = format!(
        "--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 {} {}\r\n",
        answer.status,
        reason.unwrap_or_default()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&answer.body);
    body.extend_from_slice(b"\r\n");
}
