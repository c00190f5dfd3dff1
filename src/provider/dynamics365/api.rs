//! Addresses of the Web API, and the headers that every request bears.

use std::fmt::Display;

use crate::request::{encode, tidy};
use crate::{Method, Request};

pub(super) const ROOT: &str = "/api/data/v9.2";

/// A request below the root of the Web API.
pub(super) fn request(method: Method, path: impl Display) -> Request {
    headed(Request::new(method, format!("{ROOT}/{path}")))
}

/// A request for a link that an answer held, which goes to the connection's own host whatever host
/// the link names: nobody else is shown the token. `None`: it is no link of the Web API.
pub(super) fn follow(link: &str) -> Option<Request> {
    let path = &link[link.find("/api/data/")?..];
    Some(headed(Request::new(Method::Get, tidy(path).to_string())))
}

fn headed(request: Request) -> Request {
    request
        .header("accept", "application/json")
        .header("odata-version", "4.0")
        .header("odata-maxversion", "4.0")
}

/// The path of a record by its id.
pub(super) fn by_id(set: &str, id: &str) -> String {
    format!("{}({})", encode(set), encode(id))
}

/// The path of a record by an alternate key of one text column.
pub(super) fn by_key(set: &str, column: &str, key: &str) -> String {
    let quoted = format!("'{}'", key.replace('\'', "''"));
    format!("{}({}={})", encode(set), encode(column), encode(&quoted))
}

/// Whether a record can be addressed by such a key ("Define alternate keys", "Unicode characters in
/// key value"; what the articles name one by one is taken together).
pub(super) fn is_addressable(key: &str) -> bool {
    !key.chars()
        .any(|c| "/<>*%&:\\?+#".contains(c) || c.is_control())
}

/// The one spelling of an id: `{0A…}` is `0a…`.
pub(super) fn id_form(id: &str) -> String {
    let around = |c: char| matches!(c, '{' | '}') || c <= ' ' || c.is_whitespace();
    id.trim_matches(around).to_ascii_lowercase()
}

pub(super) fn is_id(text: &str) -> bool {
    let is_dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let fits = |(at, c): (usize, u8)| match is_dash(at) {
        true => c == b'-',
        false => c.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}
