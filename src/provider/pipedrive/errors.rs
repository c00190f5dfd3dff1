//! Pipedrive's errors: one table for the codes of version 2, and for the statuses, which are most
//! of what version 1 tells.

use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use crate::Response;
use crate::errors::{self, Rule, VendorError, undocumented};

use ErrorClass::{Auth, Conflict, Mapping, NotFound, RateLimited, Transient, Validation};

const SCHEMA: &str = "ERR_SCHEMA_VALIDATION_FAILED";
/// Ours, for a 429 while no tokens are left for the day.
const DAY_SPENT: &str = "daily_tokens_spent";
/// Ours, for the block of the network in front of the API, which follows on 429s that were not
/// heeded.
const BLOCKED: &str = "blocked";
/// Ours, for an answer of 200 that denies itself.
const DENIED: &str = "not_successful";

/// Words without their first letter occur at the beginning of a sentence, too.
pub(crate) const TABLE: &[Rule] = &[
    Rule::new(Mapping, SCHEMA).says("is not allowed"),
    Rule::new(Mapping, SCHEMA).says("required"),
    Rule::new(Mapping, SCHEMA).says("must be of type"),
    Rule::new(Mapping, SCHEMA).says("xpected "),
    Rule::new(Validation, SCHEMA),
    // The day's tokens come back at midnight of a clock that is not told.
    Rule::new(RateLimited, DAY_SPENT).connection().wait(15 * 60),
    Rule::new(RateLimited, BLOCKED).connection().wait(15 * 60),
    Rule::new(RateLimited, "http_429").connection().wait(2),
    Rule::new(Auth, "http_401").connection(),
    // The company's subscription has ended.
    Rule::new(Auth, "http_402").connection(),
    Rule::new(Auth, "http_403").says("cope").connection(),
    // What a user may not see or change: a person mends that, the other records go on.
    Rule::new(Mapping, "http_403"),
    Rule::new(NotFound, "http_404"),
    Rule::new(NotFound, "http_410"),
    Rule::new(Conflict, "http_409"),
    Rule::new(Mapping, "http_415"),
    Rule::new(Mapping, "http_501"),
    Rule::new(Transient, "http_500"),
    Rule::new(Validation, DENIED),
];

/// The window in which requests are counted ("Rate limiting": a rolling window of 2 seconds).
pub(super) const WINDOW: Duration = Duration::from_secs(2);

/// The failure of a request, whatever its status.
pub(crate) fn of_response(response: &Response) -> Option<Failure> {
    let body = response.json().filter(Json::is_object);
    let denied = body.as_ref().is_some_and(|body| body["success"] == false);
    if response.is_success() && !denied {
        return None;
    }
    if let Some(failure) = undocumented(response).filter(|_| !denied) {
        return Some(failure);
    }
    let Some(body) = body else {
        return Some(match response.status {
            403 => classified(
                vec![BLOCKED.to_owned()],
                "HTTP 403 from the network in front of the CRM",
                response,
            ),
            // Neither is anything that the API says without a word.
            _ => errors::foreign_body(response),
        });
    };
    let status = match response.status {
        429 if day_is_spent(response) => DAY_SPENT.to_owned(),
        ..400 => DENIED.to_owned(),
        status => format!("http_{status}"),
    };
    let code = body["code"].as_str().filter(|code| !code.is_empty());
    let mut codes = Vec::from_iter(code.map(str::to_owned));
    codes.push(status);
    let words = [&body["error"], &body["message"], &body["error_info"]];
    let message = words.into_iter().find_map(Json::as_str).unwrap_or_default();
    Some(classified(codes, message, response))
}

/// Passes a success, and fails with what any other response states.
pub(crate) fn check(response: &Response) -> Result<(), Failure> {
    of_response(response).map_or(Ok(()), Err)
}

fn classified(codes: Vec<String>, message: &str, response: &Response) -> Failure {
    let vendor_error = VendorError {
        codes,
        message: message.to_owned(),
        names_field: false,
    };
    let failure = errors::classify_response(TABLE, &vendor_error, response);
    let reset = || {
        let seconds = number(response, "x-ratelimit-reset")?;
        // It counts down the window; what is longer is no such number.
        (1..=60)
            .contains(&seconds)
            .then(|| Duration::from_secs(seconds))
    };
    match failure.code.as_str() {
        "http_429" if response.header("retry-after").is_none() => {
            let wait = reset().or(failure.retry_after);
            failure.after(wait)
        }
        _ => failure,
    }
}

fn day_is_spent(response: &Response) -> bool {
    number(response, "x-daily-ratelimit-token-remaining") == Some(0)
}

/// A header that holds a count.
pub(super) fn number(response: &Response, name: &str) -> Option<u64> {
    response.header(name)?.trim().parse().ok()
}
