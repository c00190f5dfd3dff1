//! The stub's errors: it names classes, not codes.

use crm_domain::{ErrorClass, Failure};
use serde::Deserialize;

use crate::Response;
use crate::errors::{self, Rule, VendorError, undocumented};

/// For a whole request, classes that refuse service speak of the connection, as they would from a
/// vendor.
const TABLE: &[Rule] = &[
    Rule::new(ErrorClass::Transient, "transient").connection(),
    Rule::new(ErrorClass::RateLimited, "rate_limited").connection(),
    Rule::new(ErrorClass::Auth, "auth").connection(),
    Rule::new(ErrorClass::Validation, "validation"),
    Rule::new(ErrorClass::Mapping, "mapping"),
    Rule::new(ErrorClass::Conflict, "conflict"),
    Rule::new(ErrorClass::NotFound, "not_found"),
    Rule::new(ErrorClass::Internal, "internal"),
];

#[derive(Deserialize)]
pub(super) struct Error {
    pub class: String,
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: Error,
}

pub(super) fn failure(response: &Response) -> Option<Failure> {
    if response.is_success() {
        return None;
    }
    if let Some(failure) = undocumented(response) {
        return Some(failure);
    }
    let Ok(Refusal { error }) = crate::json::parse(&response.body) else {
        return Some(errors::foreign_body(response));
    };
    let vendor_error = VendorError {
        codes: vec![error.class],
        message: error.message,
        names_field: false,
    };
    let failure = errors::classify_response(TABLE, &vendor_error, response);
    Some(Failure {
        code: if error.code.is_empty() {
            failure.code
        } else {
            error.code
        },
        ..failure
    })
}

/// Passes a success, and fails with what any other response states.
pub(super) fn check(response: &Response) -> Result<(), Failure> {
    failure(response).map_or(Ok(()), Err)
}
