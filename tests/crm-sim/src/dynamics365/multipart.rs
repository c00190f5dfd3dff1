//! The parts of a multipart body: requests, and sets of them.
//!
//! Guarantees: lines end in CRLF or the whole is refused; what stands before the first boundary or
//! behind the last one is passed over, as RFC 2046 has it.

use super::ROOT;
use super::error::DataverseError;
use crate::http::Request;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const MOST: usize = 1000;

pub enum Part {
    One(Request),
    /// A change set: what happens to one of its requests happens to all.
    Set(Vec<Member>),
}

/// A request of a change set, and the name by which later ones speak of what it made.
pub struct Member {
    pub id: String,
    pub request: Request,
}

pub fn malformed(message: &str) -> DataverseError {
    DataverseError::new(400, "", message)
}

/// The parts of a request's body.
pub fn parts(request: &Request) -> Result<Vec<Part>, DataverseError> {
    let boundary = boundary(request.header("content-type").unwrap_or_default())?;
    let body =
        std::str::from_utf8(&request.body).map_err(|_| malformed("The body is no UTF-8."))?;
    let pieces = split(body, boundary)?;
    let parts: Vec<Part> = pieces.into_iter().map(part).collect::<Result<_, _>>()?;
    let requests = parts.iter().map(|part| match part {
        Part::One(_) => 1,
        Part::Set(members) => members.len(),
    });
    if requests.sum::<usize>() > MOST {
        let text = "The number of requests in the batch exceeds 1000.";
        return Err(DataverseError::new(400, "0x80044150", text));
    }
    Ok(parts)
}

fn boundary(kind: &str) -> Result<&str, DataverseError> {
    let mut words = kind.split(';').map(str::trim);
    let mixed = words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("multipart/mixed"));
    words
        .find_map(|word| word.strip_prefix("boundary="))
        .map(|boundary| boundary.trim_matches('"'))
        .filter(|boundary| mixed && !boundary.is_empty())
        .ok_or_else(|| malformed("The content type must be multipart/mixed with a boundary."))
}

/// What stands between the lines of a boundary, up to the one that ends them. The line break before
/// a boundary belongs to it.
fn split<'a>(body: &'a str, boundary: &str) -> Result<Vec<&'a str>, DataverseError> {
    let mark = format!("--{boundary}");
    let mut pieces = Vec::new();
    let mut open: Option<usize> = None;
    let mut at = 0;
    for line in body.split_inclusive("\r\n") {
        let end = at + line.len();
        let rest = line.strip_prefix(&mark).map(|rest| rest.trim_end());
        if matches!(rest, Some("" | "--")) {
            if let Some(start) = open {
                let piece = &body[start..at];
                pieces.push(piece.strip_suffix("\r\n").unwrap_or(piece));
            }
            if rest == Some("--") {
                return Ok(pieces);
            }
            open = Some(end);
        }
        at = end;
    }
    Err(malformed(match open {
        Some(_) => "Unexpected end of the batch.",
        None => "The batch has no boundary.",
    }))
}

/// The headers of a piece, and what follows the empty line after them.
fn opened(text: &str) -> Result<(HeaderMap, &str), DataverseError> {
    let (own, message) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| malformed("A part has no empty line after its headers."))?;
    Ok((headers(own)?, message))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn part(text: &str) -> Result<Part, DataverseError> {
    let (own, message) = opened(text)?;
    let kind = header(&own, "content-type");
    if kind.starts_with("multipart/") {
        let pieces = split(message, boundary(kind)?)?;
        let members = pieces.into_iter().map(member).collect::<Result<_, _>>()?;
        return Ok(Part::Set(members));
    }
    Ok(Part::One(request(&own, message)?))
}

fn member(text: &str) -> Result<Member, DataverseError> {
    let (own, message) = opened(text)?;
    if header(&own, "content-type").starts_with("multipart/") {
        return Err(malformed("A change set holds no other."));
    }
    let id = header(&own, "content-id");
    if id.is_empty() {
        return Err(malformed(
            "Each request of a change set needs a Content-ID.",
        ));
    }
    let request = request(&own, message)?;
    if request.method == "GET" {
        return Err(malformed("A change set holds no query."));
    }
    let id = id.to_owned();
    Ok(Member { id, request })
}

fn request(own: &HeaderMap, message: &str) -> Result<Request, DataverseError> {
    let binary = header(own, "content-transfer-encoding") == "binary";
    if header(own, "content-type") != "application/http" || !binary {
        return Err(malformed("A part must be application/http, in binary."));
    }
    // Of a request without a body, the line break before the boundary may be the second of the two
    // that end it.
    let (head, body) = match message.split_once("\r\n\r\n") {
        Some(both) => both,
        None => {
            let head = message.strip_suffix("\r\n");
            let head =
                head.ok_or_else(|| malformed("A request has no empty line after its headers."))?;
            (head, "")
        }
    };
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
    // What does not begin at the host begins at the root of the API.
    let below = format!("{ROOT}/{target}");
    let target = if target.starts_with('/') {
        target
    } else {
        &below
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
