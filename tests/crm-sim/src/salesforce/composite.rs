//! `/composite`: up to 25 requests in one.
//!
//! Guarantees: the outer answer is 200 whatever happens inside; `@{ref.field}` takes values of earlier
//! answers; with `allOrNone` a failure takes back every write of the request.

use super::error::SfError;
use super::{Salesforce, rows};
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value as Json, json};

const MAX_REQUESTS: usize = 25;

pub fn answer(sf: &Salesforce, request: &Request, records: &RecordFaults) -> super::Answer {
    let body = rows::body_map(request)?;
    let list = body.get("compositeRequest").and_then(Json::as_array);
    let list =
        list.ok_or_else(|| SfError::unparsable("compositeRequest is missing or not a list"))?;
    if list.len() > MAX_REQUESTS {
        let message = format!("Composite request can have up to {MAX_REQUESTS} subrequests");
        return Err(SfError::new(400, "LIMIT_EXCEEDED", message));
    }
    let all_or_none = body.get("allOrNone") == Some(&Json::Bool(true));
    // Few tests go this way, so a copy of the records is cheaper than a journal is to understand.
    let before = all_or_none.then(|| sf.snapshot());
    let mut answers = Map::new();
    let mut shown = Vec::new();
    let mut failed = None;
    for (at, entry) in list.iter().enumerate() {
        let reference = entry["referenceId"].as_str().unwrap_or_default();
        let response = match (failed, all_or_none) {
            (Some(_), true) => halted(),
            _ => subrequest(sf, request, entry, &answers, records)?,
        };
        let body: Json = serde_json::from_slice(&response.body).unwrap_or(Json::Null);
        if response.status >= 300 && failed.is_none() {
            failed = Some(at);
        }
        answers.insert(reference.to_owned(), body.clone());
        shown.push(json!({
            "body": body,
            "httpHeaders": {},
            "httpStatusCode": response.status,
            "referenceId": reference,
        }));
    }
    if let (Some(failed), Some(before)) = (failed, before) {
        sf.restore(before);
        let halted: Json = serde_json::from_slice(&halted().body).unwrap_or(Json::Null);
        for (at, entry) in shown.iter_mut().enumerate() {
            if at != failed {
                entry["body"] = halted.clone();
                entry["httpStatusCode"] = 400.into();
            }
        }
    }
    Ok(Response::json(200, &json!({"compositeResponse": shown})))
}

fn subrequest(
    sf: &Salesforce,
    outer: &Request,
    entry: &Json,
    answers: &Map<String, Json>,
    records: &RecordFaults,
) -> super::Answer {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let url = filled(text("url"), answers);
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let method = Method::from_bytes(text("method").as_bytes())
        .map_err(|_| SfError::unparsable("a subrequest needs a method"))?;
    let body = match &entry["body"] {
        Json::Null => String::new(),
        body => filled(&body.to_string(), answers),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in entry["httpHeaders"].as_object().into_iter().flatten() {
        let value = value
            .as_str()
            .and_then(|text| HeaderValue::try_from(text).ok());
        if let (Ok(name), Some(value)) = (HeaderName::try_from(name), value) {
            headers.insert(name, value);
        }
    }
    let request = Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: body.into(),
    };
    let segments = request.segments();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (["services", "data", version, path @ ..], true) = (&parts[..], outer.path != request.path)
    else {
        return Ok(SfError::not_found().response());
    };
    let answer = sf.resource(&request, version, path, records);
    Ok(answer.unwrap_or_else(|error| error.response()))
}

/// Replaces `@{ref.a.b}` by the value in the answer named `ref`.
fn filled(text: &str, answers: &Map<String, Json>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("@{") {
        let Some((path, tail)) = after.split_once('}') else {
            break;
        };
        out.push_str(before);
        let (name, path) = path.split_once('.').unwrap_or((path, ""));
        let pointer: String = path.split('.').map(|part| format!("/{part}")).collect();
        match answers
            .get(name)
            .and_then(|answer| answer.pointer(&pointer))
        {
            Some(Json::String(text)) => out.push_str(text),
            Some(other) => out.push_str(&other.to_string()),
            None => {}
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

fn halted() -> Response {
    let message =
        "The transaction was rolled back since another operation in the same transaction failed.";
    SfError::new(400, "PROCESSING_HALTED", message).response()
}
