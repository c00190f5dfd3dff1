//! What is refused before anybody looks at it.

use super::error::SfError;
use crate::http::Request;

/// Bytes of the URI, and of URI and headers.
const MAX_HEAD: usize = 16_384;

/// Long requests are refused before anybody looks at them.
pub fn check_size(request: &Request) -> Result<(), SfError> {
    let target = request.path.len() + request.query.len();
    let headers = request.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    match (target > MAX_HEAD, target + headers > MAX_HEAD) {
        (true, _) => Err(SfError::new(414, "URI_TOO_LONG", "The URI is too long")),
        (_, true) => Err(SfError::new(
            431,
            "HEADERS_TOO_LONG",
            "The headers are too long",
        )),
        _ => Ok(()),
    }
}

pub fn check_type(request: &Request) -> Result<(), SfError> {
    let kind = request.header("content-type").unwrap_or("application/json");
    let known = ["application/json", "text/csv"];
    let known = known
        .iter()
        .any(|known| kind.to_ascii_lowercase().starts_with(known));
    if request.body.is_empty() || known {
        return Ok(());
    }
    let message = format!("Content type {kind} is not supported");
    Err(SfError::new(415, "UNSUPPORTED_MEDIA_TYPE", message))
}
