//! Requests and answers as plain values, so that a vendor is a function from one to the other.
//!
//! Guarantees: a path segment and a query parameter come out percent-decoded exactly once; header
//! names compare without case.

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde::Serialize;

/// A request whose body has been read (and unzipped) completely.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    /// The decoded, non-empty segments of the path.
    pub fn segments(&self) -> Vec<String> {
        self.path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(decode)
            .collect()
    }

    pub fn param(&self, name: &str) -> Option<String> {
        pairs(&self.query)
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// A comma separated parameter, blanks dropped; also understands the parameter given
    /// repeatedly.
    pub fn list(&self, name: &str) -> Vec<String> {
        pairs(&self.query)
            .filter(|(key, _)| key == name)
            .flat_map(|(_, value)| {
                value
                    .split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn bearer(&self) -> Option<&str> {
        let value = self.header("authorization")?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// The body as an HTML form.
    pub fn form(&self) -> Vec<(String, String)> {
        pairs(&String::from_utf8_lossy(&self.body)).collect()
    }
}

/// Stands in a value for half of a surrogate pair, which JSON can spell and a Rust string cannot
/// hold. It is no character.
const HALF_PAIR: char = '\u{fdd0}';

/// An answer; the server adds `Date` and `Content-Length`.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Response {
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("a value of ours always serialises");
        Self::bytes(status, "application/json;charset=UTF-8", body)
    }

    pub fn bytes(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: body.into(),
        }
    }

    /// Spells out each half of a surrogate pair.
    pub fn with_half_pairs(mut self) -> Self {
        if let Ok(text) = str::from_utf8(&self.body)
            && text.contains(HALF_PAIR)
        {
            self.body = text.replace(HALF_PAIR, r"\ud83d").into();
        }
        self
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

pub fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

pub fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (
            decode(&key.replace('+', " ")),
            decode(&value.replace('+', " ")),
        )
    })
}
