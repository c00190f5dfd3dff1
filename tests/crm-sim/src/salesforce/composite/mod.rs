//! Several requests in one: Composite, graphs, batches, and trees of new records.
//!
//! Guarantees: an envelope that is not sound fails as a whole and nothing of it runs; otherwise the
//! outer answer is 200, in the order of the requests; what is rolled back leaves no trace.

mod batch;
mod graph;
mod references;
mod tree;

pub use batch::answer as batch;
pub use graph::answer as graph;
pub use tree::answer as tree;

use super::error::SfError;
use super::{Answer, Salesforce, rows};
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use references::Answers;
use serde_json::{Value as Json, json};
use std::collections::HashSet;

const MAX_REQUESTS: usize = 25;
/// Of queries and collections among them.
const MAX_LARGE: usize = 5;
/// Headers that belong to the outer request alone.
const BARRED: [&str; 3] = ["accept", "authorization", "content-type"];

/// One request of the envelope.
struct Entry<'a> {
    method: Method,
    url: &'a str,
    reference: &'a str,
    body: &'a Json,
    headers: HeaderMap,
}

/// Who runs the requests of an envelope.
struct Run<'a> {
    sf: &'a Salesforce,
    records: &'a RecordFaults,
}

pub fn answer(sf: &Salesforce, request: &Request, records: &RecordFaults) -> Answer {
    let body = rows::body_map(request)?;
    let body = Json::Object(body);
    let entries = entries(&body["compositeRequest"], request)?;
    if entries.len() > MAX_REQUESTS {
        let message = format!("Composite request can have up to {MAX_REQUESTS} subrequests");
        return Err(limit(message));
    }
    let large = |entry: &&Entry<'_>| {
        let path = entry.url.split('?').next().unwrap_or_default();
        let mut parts = path.split('/').skip(4);
        matches!(parts.next(), Some("query" | "queryAll" | "composite"))
    };
    if entries.iter().filter(large).count() > MAX_LARGE {
        let message =
            format!("Composite request can have up to {MAX_LARGE} queries and collections");
        return Err(limit(message));
    }
    let run = Run { sf, records };
    let all_or_none = body["allOrNone"] == true;
    let (shown, _) = run.all(&entries, all_or_none);
    Ok(Response::json(200, &json!({"compositeResponse": shown})))
}

impl Run<'_> {
    /// Runs the requests one after the other; with `all_or_none` a failure takes back everything.
    /// Says also whether none failed.
    fn all(&self, entries: &[Entry<'_>], all_or_none: bool) -> (Vec<Json>, bool) {
        // Few tests go this way, so a copy of the records is cheaper than a journal is to
        // understand.
        let before = all_or_none.then(|| self.sf.snapshot());
        let mut answers = Answers::default();
        let mut shown = Vec::with_capacity(entries.len());
        let mut failed = None;
        for (at, entry) in entries.iter().enumerate() {
            let response = match (failed, all_or_none) {
                (Some(_), true) => halted().response(),
                _ => self.one(entry, &answers),
            };
            let body: Json = serde_json::from_slice(&response.body).unwrap_or(Json::Null);
            if response.status >= 300 && failed.is_none() {
                failed = Some(at);
            }
            answers.add(entry.reference, response.status < 300, &body);
            let location = response.headers.iter().find(|(name, _)| name == "Location");
            let headers = location.map_or(json!({}), |(name, value)| json!({name: value}));
            shown.push(json!({
                "body": body,
                "httpHeaders": headers,
                "httpStatusCode": response.status,
                "referenceId": entry.reference,
            }));
        }
        if let (Some(failed), Some(before)) = (failed, before) {
            self.sf.restore(before);
            for (at, entry) in shown.iter_mut().enumerate() {
                if at != failed {
                    entry["body"] = json!([halted().shown()]);
                    entry["httpHeaders"] = json!({});
                    entry["httpStatusCode"] = 400.into();
                }
            }
        }
        (shown, failed.is_none())
    }

    fn one(&self, entry: &Entry<'_>, answers: &Answers) -> Response {
        let filled = answers.fill_text(entry.url).and_then(|url| {
            let body = answers.fill(entry.body)?;
            Ok((url, body))
        });
        match filled {
            Ok((url, body)) => {
                let body = match body {
                    Json::Null => String::new(),
                    body => body.to_string(),
                };
                self.send(entry.method.clone(), &url, &entry.headers, body)
            }
            Err(missing) => missing.response(),
        }
    }

    /// Sends a request on, as if it had come by itself.
    fn send(&self, method: Method, url: &str, headers: &HeaderMap, body: String) -> Response {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let request = Request {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.clone(),
            body: body.into(),
        };
        let segments = request.segments();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        let ["services", "data", version, path @ ..] = &parts[..] else {
            return SfError::not_found().response();
        };
        // Neither jobs nor envelopes within envelopes.
        let allowed = match path {
            ["composite", "sobjects", ..] => true,
            ["composite" | "jobs", ..] => false,
            _ => super::known_version(version),
        };
        if !allowed {
            return SfError::not_found().response();
        }
        let answer = self.sf.resource(&request, version, path, self.records);
        answer.unwrap_or_else(|error| error.response())
    }
}

/// Reads the requests of an envelope.
fn entries<'a>(list: &'a Json, outer: &Request) -> Result<Vec<Entry<'a>>, SfError> {
    let list = list.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| SfError::unparsable("compositeRequest is missing or empty"))?;
    let mut seen = HashSet::new();
    let mut entries = Vec::with_capacity(list.len());
    for entry in list {
        let text = |key: &str| {
            let text = entry[key].as_str().filter(|text| !text.is_empty());
            text.ok_or_else(|| SfError::unparsable(format!("Required field missing: {key}")))
        };
        let method = match text("method")? {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            other => return Err(SfError::unparsable(format!("Invalid method: {other}"))),
        };
        let (url, reference) = (text("url")?, text("referenceId")?);
        let sound = reference.starts_with(|c: char| c.is_ascii_alphanumeric())
            && reference
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !sound {
            let message = format!("Provided referenceId ('{reference}') is invalid");
            return Err(SfError::unparsable(message));
        }
        if !seen.insert(reference) {
            let message = format!("Duplicate ReferenceId provided ({reference})");
            return Err(SfError::unparsable(message));
        }
        entries.push(Entry {
            method,
            url,
            reference,
            body: &entry["body"],
            headers: headers(&entry["httpHeaders"], outer)?,
        });
    }
    Ok(entries)
}

/// The headers of a subrequest; options of the outer request hold for it too.
fn headers(own: &Json, outer: &Request) -> Result<HeaderMap, SfError> {
    let options = outer.headers.iter();
    let options = options.filter(|(name, _)| name.as_str().starts_with("sforce-"));
    let options = options.map(|(name, value)| (name.clone(), value.clone()));
    let mut headers: HeaderMap = options.collect();
    for (name, value) in own.as_object().into_iter().flatten() {
        if BARRED
            .iter()
            .any(|barred| barred.eq_ignore_ascii_case(name))
        {
            let message = format!("Header {name} is not allowed in a subrequest");
            return Err(SfError::unparsable(message));
        }
        let text = value.as_str();
        let value = text.and_then(|text| HeaderValue::try_from(text).ok());
        if let (Ok(name), Some(value)) = (HeaderName::try_from(name), value) {
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

fn limit(message: impl Into<String>) -> SfError {
    SfError::new(400, "LIMIT_EXCEEDED", message)
}

fn halted() -> SfError {
    let message =
        "The transaction was rolled back since another operation in the same transaction failed.";
    SfError::new(400, "PROCESSING_HALTED", message)
}
