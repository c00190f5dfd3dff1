//! An upload: a form with one file, which is a ZIP with one CSV.

use super::super::error::ZohoError;
use super::{File, ORG};
use crate::http::Request;
use std::io::{Cursor, Read};
use std::sync::Arc;
use zip::ZipArchive;

const MOST: usize = 25 << 20;

fn invalid(message: impl Into<String>) -> ZohoError {
    ZohoError::new(400, "INVALID_REQUEST", message)
}

pub fn take(request: &Request) -> Result<File, ZohoError> {
    if request.header("feature") != Some("bulk-write") {
        return Err(invalid("the header feature must be bulk-write"));
    }
    if request.header("x-crm-org") != Some(ORG) {
        return Err(ZohoError::new(
            400,
            "CRMPLUS_ORG_INVALID",
            "X-CRM-ORG names no organisation of yours",
        ));
    }
    let zip = form_file(request).ok_or_else(|| invalid("the form must have one part, the file"))?;
    let mut archive = ZipArchive::new(Cursor::new(zip))
        .map_err(|_| ZohoError::new(400, "FILE_NOT_SUPPORTED", "only ZIP files are supported"))?;
    if archive.len() != 1 {
        return Err(ZohoError::new(
            400,
            "FILE_NOT_SUPPORTED",
            "the ZIP must have one CSV",
        ));
    }
    let mut file = archive
        .by_index(0)
        .map_err(|error| invalid(error.to_string()))?;
    let name = file.name().to_owned();
    let mut csv = Vec::new();
    file.read_to_end(&mut csv)
        .map_err(|error| invalid(error.to_string()))?;
    if !name.ends_with(".csv") || csv.len() > MOST {
        return Err(ZohoError::new(
            400,
            "FILE_TOO_LARGE",
            "a CSV of 25 MB at most",
        ));
    }
    Ok(File {
        name,
        csv: Arc::new(csv),
    })
}

/// The content of the one part of a form (RFC 7578).
fn form_file(request: &Request) -> Option<&[u8]> {
    let kind = request.header("content-type")?;
    let boundary = kind.strip_prefix("multipart/form-data; boundary=")?;
    let rest = request
        .body
        .strip_prefix(format!("--{boundary}\r\n").as_bytes())?;
    let end = rest.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&rest[..end]).ok()?;
    let is_file = head.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("content-disposition: form-data; name=\"file\"; filename=\"")
    });
    let content = rest[end + 4..].strip_suffix(format!("\r\n--{boundary}--\r\n").as_bytes())?;
    let again = format!("\r\n--{boundary}");
    let one = !content
        .windows(again.len())
        .any(|part| part == again.as_bytes());
    (is_file && one).then_some(content)
}
