//! HTTP requests and responses as values.

use std::collections::BTreeMap;
use std::fmt;
use std::time::UNIX_EPOCH;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::success::{self, Success};

/// Everything but the unreserved characters of RFC 3986, so that a text stays one path segment, one
/// query value, one form value.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A text percent-encoded as part of a path, a query or a form.
pub(crate) fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

/// What no address holds as it is (RFC 3986): white space, control characters, `#`, which ends it,
/// and what only some readers of addresses put up with. Not `%`, which says that something is
/// encoded already.
const FOREIGN: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// An address, or a part of one, that a CRM told, fit to be asked for.
pub(crate) fn tidy(address: &str) -> PercentEncode<'_> {
    utf8_percent_encode(address, FOREIGN)
}

/// Whether a header can hold the text, which a CRM told (RFC 9110: visible characters and white
/// space within a line).
pub fn fits_header(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t'))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Path and query under the connection's current base URL (which a token grant may move);
    /// the engine signs it.
    Api(String),
    /// A file that the CRM takes or gives: a path at the host that takes them, or the URL that the
    /// CRM told. [`crate::Provider::file_url`] says where that is; the engine signs it.
    File(String),
    /// An absolute URL (a token endpoint): sent as it is, unsigned.
    Url(String),
}

/// One HTTP request. The body is complete: bounded by the slice it was made from.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub target: Target,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Whether sending it twice does no harm, so that the engine may repeat it at once when the
    /// transport fails (reads, polls).
    pub repeatable: bool,
    /// The statuses by which the vendor says that it was done.
    pub success: &'static [u16],
}

impl Request {
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Request {
            method,
            target: Target::Api(path.into()),
            headers: Vec::new(),
            body: Vec::new(),
            repeatable: method == Method::Get,
            success: success::OK,
        }
    }

    pub fn url(method: Method, url: impl Into<String>) -> Self {
        Request {
            target: Target::Url(url.into()),
            ..Request::new(method, "")
        }
    }

    pub fn file(method: Method, file: impl Into<String>) -> Self {
        Request {
            target: Target::File(file.into()),
            ..Request::new(method, "")
        }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json<T: Serialize + ?Sized>(self, body: &T) -> Self {
        let body = serde_json::to_vec(body).expect("what providers send has text keys and no I/O");
        self.body("application/json", body)
    }

    pub fn body(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.headers.push(("content-type", content_type.to_owned()));
        self.body = body;
        self
    }

    /// One file as an HTML form sends it (RFC 7578), in the field `file`.
    pub fn form_file(self, name: &str, content_type: &str, content: &[u8]) -> Self {
        // No content holds its own hash.
        let boundary = hex::encode(Sha256::digest(content));
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        );
        let body = [
            head.as_bytes(),
            content,
            format!("\r\n--{boundary}--\r\n").as_bytes(),
        ]
        .concat();
        self.body(&format!("multipart/form-data; boundary={boundary}"), body)
    }

    pub(crate) fn success(mut self, statuses: Success) -> Self {
        self.success = statuses;
        self
    }

    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

/// One HTTP response, read whole up to `pg_crm.max_response_bytes`.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// See [`Request::success`].
    pub success: &'static [u16],
}

impl Default for Response {
    fn default() -> Response {
        Response {
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
            success: success::OK,
        }
    }
}

impl Response {
    /// As the answer to a request for which these statuses mean success.
    pub fn answering(self, success: &'static [u16]) -> Response {
        Response { success, ..self }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// A header that holds an HTTP date, as UTC milliseconds (of a whole second).
    pub fn moment(&self, name: &str) -> Option<i64> {
        let moment = httpdate::parse_http_date(self.header(name)?.trim()).ok()?;
        let since = moment.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok()
    }

    /// When this was answered by the CRM's own clock, UTC milliseconds: the second that had begun,
    /// so that the true time is up to a second later.
    pub fn date(&self) -> Option<i64> {
        self.moment("date")
    }

    /// Whether it was done, by the vendor's documentation of what was asked.
    pub fn is_success(&self) -> bool {
        self.success.contains(&self.status)
    }
}

/// Credentials with their references resolved. Never printed: `Debug` shows the keys alone.
#[derive(Clone, Default)]
pub struct Credentials(pub BTreeMap<String, String>);

impl Credentials {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crms_clock_is_read_in_every_form_of_an_http_date() {
        for (text, expected) in [
            ("Fri, 02 Jan 2026 03:04:05 GMT", Some(1_767_323_045_000)),
            (" Friday, 02-Jan-26 03:04:05 GMT", Some(1_767_323_045_000)),
            ("Fri Jan  2 03:04:05 2026", Some(1_767_323_045_000)),
            ("2026-01-02T03:04:05Z", None),
            ("Fri, 32 Jan 2026 03:04:05 GMT", None),
            ("", None),
        ] {
            let headers = vec![("date".to_owned(), text.to_owned())];
            let response = Response {
                headers,
                ..Response::default()
            };
            assert_eq!(response.date(), expected, "{text}");
        }
        assert_eq!(Response::default().date(), None);
    }
}
