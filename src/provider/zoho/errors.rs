//! Zoho's errors: one table for its codes, of requests and of records alike. The status of an
//! answer tells nothing of its records, and not always of the request.

use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use serde_json::Value as Json;

use crate::Response;
use crate::errors::{self, Rule, VendorError, undocumented};

use ErrorClass::{Auth, Conflict, Mapping, NotFound, RateLimited, Transient, Validation};

/// Ours, for too many requests when no credits are left: they come back within 24 hours.
const CREDITS_SPENT: &str = "credits_spent";
/// Ours, for an id that is none of a record that is there: Zoho calls that invalid data.
const NO_RECORD: &str = "INVALID_ID";

/// The token is not for this.
pub(super) const NO_SCOPE: &str = "OAUTH_SCOPE_MISMATCH";

/// Codes of the OpenAPI description of version 8 and of "Status Codes and Error Handling".
pub(crate) const TABLE: &[Rule] = &[
    // The token and its scopes.
    Rule::new(Auth, "INVALID_TOKEN").connection(),
    Rule::new(Auth, "AUTHENTICATION_FAILURE").connection(),
    Rule::new(Auth, NO_SCOPE).connection(),
    Rule::new(Auth, "INVALID_OAUTHTOKEN").connection(),
    // Credits of 24 hours, or too many requests at once: it does not say which.
    Rule::new(RateLimited, CREDITS_SPENT)
        .connection()
        .wait(15 * 60),
    Rule::new(RateLimited, "TOO_MANY_REQUESTS")
        .connection()
        .wait(10),
    Rule::new(RateLimited, "API_LIMIT_EXCEEDED")
        .connection()
        .wait(15 * 60),
    // Passing trouble.
    Rule::new(Transient, "INTERNAL_ERROR"),
    Rule::new(Transient, "INTERNAL_SERVER_ERROR"),
    Rule::new(Transient, "RECORD_LOCKED").wait(60),
    Rule::new(Transient, "PROCESSING_STOPPED"),
    // Somebody changed or holds it.
    Rule::new(Conflict, "DUPLICATE_DATA"),
    Rule::new(Conflict, "DUPLICATE_LINKING_DATA"),
    // Gone.
    Rule::new(NotFound, NO_RECORD),
    Rule::new(NotFound, "RECORD_DELETED"),
    Rule::new(NotFound, "NOT_FOUND"),
    Rule::new(NotFound, "NO_RECORDS_FOUND"),
    // The value, or the state of the record, breaks a rule of the CRM's.
    Rule::new(Mapping, "INVALID_DATA").says("module"),
    Rule::new(Validation, "INVALID_DATA"),
    Rule::new(Validation, "PATTERN_NOT_MATCHED"),
    Rule::new(Validation, "RECORD_IN_BLUEPRINT"),
    Rule::new(Validation, "NOT_APPROVED"),
    Rule::new(Validation, "CANNOT_PERFORM_ACTION"),
    Rule::new(Validation, "CANNOT_UPDATE_DELETED"),
    Rule::new(Validation, "ID_ALREADY_CONVERTED"),
    Rule::new(Validation, "CONVERTED_RECORD"),
    Rule::new(Validation, "ALREADY_USED"),
    Rule::new(Validation, "STORAGE_SPACE_EXCEEDED"),
    Rule::new(Validation, "LIMIT_EXCEEDED"),
    Rule::new(Validation, "LIMIT_REACHED"),
    // The mapping names what is not there, or lacks what must be.
    Rule::new(Mapping, "MANDATORY_NOT_FOUND"),
    Rule::new(Mapping, "REQUIRED_PARAM_MISSING"),
    Rule::new(Mapping, "EXPECTED_FIELD_MISSING"),
    Rule::new(Mapping, "DEPENDENT_FIELD_MISSING"),
    Rule::new(Mapping, "DEPENDENT_MISMATCH"),
    Rule::new(Mapping, "MAPPING_MISMATCH"),
    Rule::new(Mapping, "DATA_MISMATCH"),
    Rule::new(Mapping, "AMBIGUITY_DURING_PROCESSING"),
    Rule::new(Mapping, "INVALID_MODULE"),
    Rule::new(Mapping, "INVALID_QUERY"),
    Rule::new(Mapping, "SYNTAX_ERROR"),
    Rule::new(Mapping, "INVALID_REQUEST"),
    Rule::new(Mapping, "INVALID_URL_PATTERN"),
    Rule::new(Mapping, "INVALID_REQUEST_METHOD"),
    Rule::new(Mapping, "RESOURCE_NOT_FOUND"),
    Rule::new(Mapping, "NOT_SUPPORTED"),
    Rule::new(Mapping, "NOT_ALLOWED"),
    Rule::new(Mapping, "FEATURE_NOT_SUPPORTED"),
    Rule::new(Mapping, "FEATURE_NOT_ENABLED"),
    // Rights of one record or module: a person mends them, the other records go on.
    Rule::new(Mapping, "NO_PERMISSION"),
    Rule::new(Mapping, "AUTHORIZATION_FAILED"),
];

/// The failure of a request as a whole. One that tells of its records is none, whatever its status.
pub(crate) fn of_response(response: &Response) -> Option<Failure> {
    let body = response.json().filter(Json::is_object);
    let tells_records = body.as_ref().is_some_and(|body| {
        let mut items = body["data"].as_array().into_iter().flatten();
        items.any(|item| item["status"].is_string() && item["code"].is_string())
    });
    let complains = body.as_ref().is_some_and(|body| body["status"] == "error");
    if tells_records || response.is_success() && !complains {
        return None;
    }
    if let Some(failure) = undocumented(response).filter(|_| !complains) {
        return Some(failure);
    }
    match body.filter(|body| body["code"].is_string()) {
        Some(body) => {
            let mut vendor_error = vendor_error(&body);
            if response.status == 429 {
                vendor_error.codes.insert(0, "TOO_MANY_REQUESTS".to_owned());
            }
            if is_limit(&vendor_error) && number(response, REMAINING) == Some(0) {
                vendor_error.codes = vec![CREDITS_SPENT.to_owned()];
            }
            Some(errors::classify_response(TABLE, &vendor_error, response))
        }
        None => Some(limited(response).unwrap_or_else(|| errors::foreign_body(response))),
    }
}

/// Passes a success, and fails with what any other response states.
pub(crate) fn check(response: &Response) -> Result<(), Failure> {
    of_response(response).map_or(Ok(()), Err)
}

fn is_limit(vendor_error: &VendorError) -> bool {
    vendor_error
        .codes
        .iter()
        .any(|code| code == "TOO_MANY_REQUESTS")
}

/// A 429 without a word waits as long as one with.
fn limited(response: &Response) -> Option<Failure> {
    let failure = errors::foreign_body(response);
    let wait = failure.retry_after.unwrap_or(Duration::from_secs(10));
    (response.status == 429).then(|| failure.after(Some(wait)))
}

/// The failure of a record. What no table knows is the record's own fault.
pub(crate) fn of_record(item: &Json) -> Failure {
    errors::classify(TABLE, &vendor_error(item), 400)
}

/// A code, and in words which field it is about.
fn vendor_error(item: &Json) -> VendorError {
    let details = &item["details"];
    let named = details["api_name"].as_str().filter(|name| !name.is_empty());
    let code = item["code"].as_str().unwrap_or_default();
    let is_id = named.is_some_and(|name| name.eq_ignore_ascii_case("id"));
    let message = item["message"].as_str().unwrap_or_default();
    let no_record = code == "INVALID_DATA" && (is_id || message.contains("the id given"));
    let code = if no_record { NO_RECORD } else { code };
    let message = match (named, details["expected_data_type"].as_str()) {
        (Some(name), Some(kind)) => format!("{message}: {name}, expected {kind}"),
        (Some(name), None) => format!("{message}: {name}"),
        (None, _) => message.to_owned(),
    };
    VendorError {
        codes: Vec::from_iter(Some(code.to_owned()).filter(|code| !code.is_empty())),
        message,
        names_field: named.is_some() && !is_id,
    }
}

/// The header that counts credits. It is sent once half of them are spent.
pub(super) const REMAINING: &str = "x-api-credits-remaining";

/// A header that holds a count.
pub(super) fn number(response: &Response, name: &str) -> Option<u64> {
    response.header(name)?.trim().parse().ok()
}
