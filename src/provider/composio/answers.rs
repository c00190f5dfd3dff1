//! The broker's answers: each holds the CRM's own answer, or the broker's refusal.

use std::time::Duration;

use crm_domain::Failure;
use serde_json::{Map, Value as Json};

use super::errors;
use crate::errors::unreadable;
use crate::{Response, Usage};

/// The CRM's answer inside the broker's, which is a success even when the CRM's is none.
pub fn deliver(response: Response) -> Result<Response, Failure> {
    if !response.is_success() {
        return Err(errors::refusal(&response));
    }
    let Some(Json::Object(mut answer)) = response.json() else {
        return Err(unreadable(&response));
    };
    let status = answer.get("status").and_then(status_of);
    if let Some(status) = status {
        let headers = answer.get("headers").and_then(Json::as_object);
        return Ok(Response {
            status,
            headers: headers.map(headers_of).unwrap_or_default(),
            // As it came, so that what is wrong with a record of it stays that record's trouble.
            body: match response.raw_at("data") {
                Some(raw) => body_of(raw),
                None => Vec::new(),
            },
            ..Response::default()
        });
    }
    let data = answer.remove("data").unwrap_or_default();
    match answer.get("successful").and_then(Json::as_bool) {
        Some(true) => Ok(inner(200, data)),
        Some(false) => {
            let told = answer.get("error").map(errors::text_of).unwrap_or_default();
            // The CRM's status, if it is told at all, is in the data or in a sentence.
            let status = ["status", "status_code", "statusCode", "http_status"]
                .iter()
                .find_map(|name| status_of(data.get(*name)?))
                .or_else(|| status_in(&told));
            match status.filter(|status| *status >= 400) {
                Some(status) if data.as_object().is_some_and(|data| !data.is_empty()) => {
                    Ok(inner(status, data))
                }
                Some(status) => Ok(inner(status, json_in(&told))),
                None => Err(errors::unknown(&told)),
            }
        }
        None => Err(unreadable(&response)),
    }
}

/// What the broker tells of its own budget: `X-RateLimit`, `X-RateLimit-Remaining`,
/// `X-RateLimit-Window-Size: 600s`.
pub fn usage(response: &Response) -> Usage {
    let number = |name| response.header(name)?.trim().parse().ok();
    let window = response.header("x-ratelimit-window-size");
    let window = window.and_then(|text| text.trim().trim_end_matches('s').parse().ok());
    Usage {
        window_remaining: number("x-ratelimit-remaining"),
        window_limit: number("x-ratelimit"),
        window: window.map(Duration::from_secs),
        ..Usage::default()
    }
}

fn inner(status: u16, mut data: Json) -> Response {
    for wrap in ["data", "response_data"] {
        if let Some(held) = data.get_mut(wrap).filter(|held| !held.is_null()) {
            data = held.take();
        }
    }
    Response {
        status,
        body: body_of(data.to_string()),
        ..Response::default()
    }
}

/// What is no JSON came as text.
fn body_of(data: String) -> Vec<u8> {
    match data.trim_start().as_bytes().first() {
        Some(b'n') => Vec::new(),
        Some(b'"') => crate::body::text_of(&data).into_bytes(),
        _ => data.into_bytes(),
    }
}

fn headers_of(headers: &Map<String, Json>) -> Vec<(String, String)> {
    let text = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Array(list) => list
            .iter()
            .filter_map(Json::as_str)
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    };
    let named = headers.iter();
    named
        .map(|(name, value)| (name.to_ascii_lowercase(), text(value)))
        .collect()
}

fn status_of(json: &Json) -> Option<u16> {
    let number = match json {
        Json::String(text) => text.parse().ok(),
        json => json.as_u64(),
    };
    let status = u16::try_from(number?).ok()?;
    (100..600).contains(&status).then_some(status)
}

/// The first number of a sentence that is an error's status.
fn status_in(sentence: &str) -> Option<u16> {
    sentence
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 3)
        .filter_map(|word| word.parse().ok())
        .find(|status| (400..600).contains(status))
}

/// The JSON that a sentence ends in, or the sentence.
fn json_in(sentence: &str) -> Json {
    let start = sentence.find(['{', '[']);
    let json = start.and_then(|at| crate::json::in_sentence(&sentence[at..]));
    json.unwrap_or_else(|| sentence.into())
}
